// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * kdraw_panics: makes a distribution's kernel panic in the ways that kernels do.
 *
 * A name written into /sys/module/kdraw_panics/parameters/panic is the way. Each has functions of
 * its own, none of them inlined, which the harness looks for in the dump. What each must look like
 * is told by the table in qemu-virt/src/scenario/panics.rs, and so are the settings by which the
 * kernel panics over a lockup, a stall or a hung task.
 */
#include <linux/bug.h>
#include <linux/completion.h>
#include <linux/err.h>
#include <linux/kthread.h>
#include <linux/list.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/preempt.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>

/* Each function keeps its name and its frame. */
#define STEP static noinline __noclone

/* Something with a state, behind a pointer that may be wrong. */
struct panics_gauge {
	char name[64];
	unsigned long reading;
	struct list_head chain;
};

/* A NULL pointer to a struct, and a field at 0x40 of it. */
STEP void panics_set_reading(struct panics_gauge *gauge)
{
	WRITE_ONCE(gauge->reading, 1);
}

STEP void panics_null_field(void)
{
	struct panics_gauge *gauge = NULL;

	OPTIMIZER_HIDE_VAR(gauge);
	panics_set_reading(gauge);
}

/* An error number that is taken for a pointer, some calls deep. */
STEP char panics_first_letter(const struct panics_gauge *gauge)
{
	return READ_ONCE(gauge->name[0]);
}

STEP char panics_read_gauge(const struct panics_gauge *gauge)
{
	return panics_first_letter(gauge);
}

STEP char panics_open_gauge(long error)
{
	OPTIMIZER_HIDE_VAR(error);
	return panics_read_gauge(ERR_PTR(error));
}

STEP void panics_error_pointer(void)
{
	panics_open_gauge(-ENOMEM);
}

/* A condition that "cannot be". */
STEP void panics_bug(void)
{
	BUG();
}

/* Each call keeps half a KiB of the stack. */
STEP unsigned long panics_recurse(unsigned long depth)
{
	volatile unsigned long kept[64];

	kept[depth % 64] = depth;
	if (depth)
		kept[0] = panics_recurse(depth + 1);
	return kept[depth % 64];
}

STEP void panics_stack_overflow(void)
{
	panics_recurse(1);
}

/* An entry whose neighbour does not point back at it. */
STEP void panics_unlink(struct panics_gauge *gauge)
{
	list_del(&gauge->chain);
}

STEP void panics_list_corruption(void)
{
	static LIST_HEAD(gauges);
	static struct panics_gauge first, second;

	list_add_tail(&first.chain, &gauges);
	list_add_tail(&second.chain, &gauges);
	first.chain.next = &first.chain;
	panics_unlink(&second);
}

STEP void panics_soft_lockup(void)
{
	preempt_disable();
	for (;;)
		cpu_relax();
}

/* On an idle machine nobody else begins a grace period, which then cannot end. */
STEP void panics_rcu_stall(void)
{
	rcu_read_lock();
	start_poll_synchronize_rcu();
	for (;;)
		cpu_relax();
}

static DEFINE_MUTEX(panics_mutex);
static DECLARE_COMPLETION(panics_holds);
static DECLARE_COMPLETION(panics_never);

STEP int panics_hold(void *unused)
{
	mutex_lock(&panics_mutex);
	complete(&panics_holds);
	wait_for_completion(&panics_never);
	mutex_unlock(&panics_mutex);
	return 0;
}

STEP int panics_wait(void *unused)
{
	mutex_lock(&panics_mutex);
	mutex_unlock(&panics_mutex);
	return 0;
}

/* A thread that sleeps for ever with a mutex, and one that waits for the mutex. */
STEP void panics_hung_task(void)
{
	struct task_struct *thread = kthread_run(panics_hold, NULL, "panics_holder");

	if (IS_ERR(thread))
		return;
	wait_for_completion(&panics_holds);
	kthread_run(panics_wait, NULL, "panics_waiter");
}

static const struct {
	const char *name;
	void (*panic)(void);
} panics[] = {
	{ "null-field", panics_null_field },
	{ "error-pointer", panics_error_pointer },
	{ "bug", panics_bug },
	{ "stack-overflow", panics_stack_overflow },
	{ "list-corruption", panics_list_corruption },
	{ "soft-lockup", panics_soft_lockup },
	{ "rcu-stall", panics_rcu_stall },
	{ "hung-task", panics_hung_task },
};

static int panics_set(const char *name, const struct kernel_param *param)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(panics); i++) {
		if (!sysfs_streq(name, panics[i].name))
			continue;
		panics[i].panic();
		return 0;
	}
	return -EINVAL;
}

static const struct kernel_param_ops panics_ops = { .set = panics_set };

module_param_cb(panic, &panics_ops, NULL, 0200);
MODULE_PARM_DESC(panic, "The way to panic, at once");
MODULE_DESCRIPTION("Makes the kernel panic");
MODULE_LICENSE("Dual MIT/GPL");
