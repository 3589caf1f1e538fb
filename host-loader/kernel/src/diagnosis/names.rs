//! Names of functions: what compilers add to them, and what each tells about who is to blame.

/// A function's name as it is in the source: without what compilers and builds add
/// (`.isra.0`, `.constprop.0`, `.part.0`, `.cold`, `.llvm.123`, a Rust symbol's hash), and
/// without the marks of two aliases that mean the same function (`__pi_` for position
/// independent, `_noprof` for not counted by memory allocation profiling).
pub fn plain(name: &str) -> &str {
    let name = name.split('.').next().filter(|first| !first.is_empty());
    let name = name.unwrap_or_default();
    let name = name.split('$').next().unwrap_or_default();
    let name = name.strip_prefix("__pi_").unwrap_or(name);
    let name = name.strip_suffix("_noprof").unwrap_or(name);
    // Rust's legacy mangling ends with `17h`, 16 digits and `E`.
    let hash = name.len().saturating_sub(20);
    match (name.starts_with("_ZN"), name.get(..hash), name.get(hash..)) {
        (true, Some(before), Some(hash)) if hash.starts_with("17h") && hash.ends_with('E') => {
            before
        }
        _ => name,
    }
}

/// Whether a name is one of a list, where an entry that ends with `*` stands for all that begin
/// so.
fn is_among(name: &str, list: &[&str]) -> bool {
    list.iter().any(|entry| match entry.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == *entry,
    })
}

/// What reports a panic, or finds that something is wrong: never to blame.
pub fn is_reporter(name: &str) -> bool {
    is_among(
        plain(name),
        &[
            // The way down.
            "panic",
            "vpanic",
            "nmi_panic",
            "panic_*",
            "__panic*",
            "__crash_kexec",
            "crash_kexec",
            "machine_kexec",
            "machine_crash_shutdown",
            "crash_save_cpu",
            "crash_smp_send_stop",
            "ipi_cpu_*",
            "local_cpu_crash_stop",
            "do_handle_IPI",
            "ipi_handler",
            "die",
            "die_kernel_fault",
            "__die",
            "oops_end",
            "arm64_serror_panic",
            "arm64_is_fatal_ras_serror",
            "do_serror",
            "handle_bad_stack",
            "__bad_stack",
            "bad_el*",
            "__panic_unhandled",
            // What prints.
            "dump_backtrace",
            "show_stack",
            "show_regs",
            "__show_regs",
            "dump_stack",
            "dump_stack_lvl",
            "print_report",
            // What finds a fault in what others did.
            "report_bug",
            "__report_bug",
            "bug_handler",
            "bug_brk_handler",
            "brk_handler",
            "call_break_hook",
            "call_el1_break_hook",
            "do_debug_exception",
            "do_el1_brk64",
            "__warn",
            "__warn_printk",
            "warn_slowpath_*",
            "check_panic_on_warn",
            "__list_*valid*",
            "__list_add_valid*",
            "__list_del_entry_valid*",
            "__slab_fix",
            "slab_err",
            "object_err",
            "slab_bug",
            "print_address_description",
            "refcount_warn_saturate",
            "refcount_dec_*",
            "refcount_error_report",
            "__stack_chk_fail",
            "fortify_panic",
            "__fortify_panic",
            "__fortify_report",
            "usercopy_abort",
            "__check_heap_object",
            "__check_object_size*",
            "check_heap_object",
            "kasan_*",
            "__kasan_*",
            "__asan_*",
            "__hwasan_*",
            "check_memory_region",
            "end_report*",
            "kcsan_*",
            "__tsan_*",
            "kfence_*",
            "__ubsan_*",
            "ubsan_*",
            "__cfi_*",
            "cfi_*",
            "report_cfi_failure*",
            // Watchdogs.
            "watchdog",
            "watchdog_timer_fn",
            "watchdog_hardlockup_*",
            "watchdog_overflow_callback",
            "watchdog_buddy_*",
            "check_hung_*",
            "check_cpu_stall",
            "print_cpu_stall*",
            "print_other_cpu_stall",
            "rcu_check_*",
            "rcu_pending",
            "rcu_sched_clock_irq",
            "rcu_dump_cpu_stacks",
            "out_of_memory",
            "pagefault_out_of_memory",
            "mem_cgroup_out_of_memory",
            "dump_header",
        ],
    )
}

/// Exceptions and interrupts on their way in, and what calls every handler.
pub fn is_entry(name: &str) -> bool {
    is_among(
        plain(name),
        &[
            "el0*",
            "el1*",
            "ret_to_user*",
            "ret_fast_syscall",
            "do_el0_svc",
            "invoke_syscall",
            "do_mem_abort",
            "do_translation_fault",
            "do_page_fault",
            "do_bad_area",
            "do_undefinstr",
            "do_el1_*",
            "do_sp_pc_abort",
            "do_alignment_fault",
            "do_kernel_fault",
            "__do_kernel_fault",
            "do_sea",
            "do_interrupt_handler",
            "call_on_irq_stack",
            "do_softirq_own_stack",
            "____do_softirq",
            "__do_softirq",
            "handle_softirqs",
            "do_softirq",
            "irq_exit*",
            "__irq_exit_rcu",
            "gic_handle_irq",
            "__gic_handle_irq*",
            "generic_handle_*",
            "handle_irq_desc",
            "handle_irq_event*",
            "__handle_irq_event_percpu",
            "handle_fasteoi_*",
            "handle_percpu_*",
            "handle_level_irq",
            "handle_edge_irq",
            "handle_simple_irq",
            "arch_timer_handler_*",
            "hrtimer_interrupt",
            "__hrtimer_run_queues",
            "tick_sched_timer",
            "tick_sched_handle",
            "tick_nohz_handler",
            "update_process_times",
            // Where threads begin.
            "ret_from_fork*",
            "kthread",
            "worker_thread",
            "process_one_work",
            "process_scheduled_works",
            "kthread_worker_fn",
            "smpboot_thread_fn",
            "irq_thread",
            "irq_thread_fn",
            "secondary_start_kernel",
            "__secondary_switched",
            "__primary_switched",
            "start_kernel",
            "rest_init",
            "arch_call_rest_init",
            "kernel_init",
            "kernel_init_freeable",
            "cpu_startup_entry",
            "do_idle",
        ],
    )
}

/// Where an interrupt comes in.
pub fn is_interrupt(name: &str) -> bool {
    let name = plain(name);
    let is_vector = name.starts_with("el") && (name.ends_with("_irq") || name.ends_with("_fiq"));
    is_vector || name == "call_on_irq_stack"
}

/// Sleeping and switching: above these stands what a task waits for.
pub fn is_scheduler(name: &str) -> bool {
    is_among(
        plain(name),
        &[
            "__switch_to",
            "__schedule",
            "__schedule_loop",
            "schedule",
            "schedule_timeout*",
            "schedule_preempt_disabled",
            "schedule_hrtimeout*",
            "schedule_rtlock",
            "preempt_schedule*",
            "__cond_resched",
            "io_schedule*",
            "rt_mutex_schedule",
            "rwbase_*lock",
        ],
    )
}

/// Locks, and other ways to wait for somebody.
pub fn is_waiting(name: &str) -> bool {
    is_scheduler(name)
        || is_among(
            plain(name),
            &[
                "mutex_lock*",
                "__mutex_*",
                "mutex_*_lock*",
                "ww_mutex_*",
                "__ww_mutex_*",
                "down",
                "down_*",
                "__down",
                "__down_*",
                "up_read",
                "up_write",
                "rwsem_*",
                "rt_mutex_*",
                "__rt_mutex_*",
                "rt_spin_*",
                "rt_read_*",
                "rt_write_*",
                "rtlock_*",
                "percpu_down_*",
                "percpu_rwsem_*",
                "__percpu_down_*",
                "_raw_*",
                "__raw_spin_*",
                "queued_spin_lock_slowpath",
                "queued_read_*",
                "queued_write_*",
                "do_raw_*",
                "wait_for_common*",
                "__wait_for_common*",
                "wait_for_completion*",
                "__wait_on_bit*",
                "out_of_line_wait_on_bit*",
                "wait_on_bit*",
                "bit_wait*",
                "folio_wait_bit*",
                "__folio_lock*",
                "wait_on_page_*",
                "__lock_page*",
                "prepare_to_wait*",
                "__flush_work",
                "flush_work",
                "__flush_workqueue",
                "flush_workqueue",
                "drain_workqueue",
                "cancel_work_sync",
                "cancel_delayed_work_sync",
                "__cancel_work_timer",
                "__cancel_work_sync",
                "synchronize_rcu*",
                "__wait_rcu_gp",
                "synchronize_srcu*",
                "__synchronize_srcu*",
                "kthread_stop",
                "kthread_park",
                "cpu_relax",
                "__delay",
                "__const_udelay",
                "__udelay",
                "msleep*",
                "usleep_range*",
            ],
        )
}

/// Helpers that everybody calls: what goes wrong in them was passed to them.
pub fn is_helper(name: &str) -> bool {
    is_waiting(name)
        || is_among(
            plain(name),
            &[
                "memcpy*",
                "memmove*",
                "memset*",
                "memcmp*",
                "memchr*",
                "__memcpy*",
                "__memmove*",
                "__memset*",
                "strlen*",
                "strnlen*",
                "strcmp*",
                "strncmp*",
                "strcasecmp*",
                "strncasecmp*",
                "strcpy*",
                "strncpy*",
                "strlcpy*",
                "strscpy*",
                "sized_strscpy*",
                "strcat*",
                "strlcat*",
                "strncat*",
                "strchr*",
                "strrchr*",
                "strstr*",
                "strnstr*",
                "strsep*",
                "__arch_copy_*",
                "__arch_clear_*",
                "_copy_*_user",
                "_copy_*",
                "copy_from_user*",
                "copy_to_user*",
                "copy_page",
                "clear_page",
                "kfree*",
                "__kfree*",
                "kvfree*",
                "vfree*",
                "__vfree*",
                "kmem_cache_*",
                "__kmem_cache_*",
                "kmalloc*",
                "__kmalloc*",
                "krealloc*",
                "___slab_*",
                "__slab_*",
                "slab_*",
                "free_to_partial_list",
                "__free_pages*",
                "free_pages*",
                "__free_slab",
                "refcount_*",
                "__refcount_*",
                "kref_*",
                "kobject_get",
                "kobject_put",
                "list_*",
                "__list_*",
                "llist_*",
                "hlist_*",
                "rb_*",
                "__rb_*",
                "xa_*",
                "__xa_*",
                "xas_*",
                "idr_*",
                "ida_*",
                "radix_tree_*",
                "mas_*",
                "mtree_*",
                "vsnprintf",
                "snprintf",
                "sprintf",
                "vsprintf",
                "scnprintf",
                "vscnprintf",
                "pointer",
                "string",
                "string_nocheck",
                "number",
                "_printk",
                "printk",
                "vprintk*",
                "kstrto*",
                "_kstrto*",
                "sysfs_streq",
                "find_*bit*",
                "_find_*bit*",
                "bitmap_*",
                "__bitmap_*",
                "__wake_up*",
                "wake_up_*",
                "try_to_wake_up",
                "default_wake_function",
                "autoremove_wake_function",
                "complete",
                "complete_all",
                "swake_up_*",
                "finish_wait",
                "add_wait_queue*",
                "remove_wait_queue*",
                "__queue_work",
                "queue_work_on",
                "queue_delayed_work_on",
                "add_timer*",
                "mod_timer",
                "__mod_timer",
                "del_timer*",
                "timer_delete*",
                "skb_put",
                "skb_push",
                "skb_pull",
                "skb_over_panic",
                "skb_under_panic",
            ],
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_compilers_add_goes() {
        for (name, expected) in [
            ("el0_svc_common.constprop.0", "el0_svc_common"),
            ("pl011_fifo_to_tty.isra.0", "pl011_fifo_to_tty"),
            ("foo.part.0.isra.3.cold", "foo"),
            ("foo.llvm.1234567890", "foo"),
            ("do_it$af31", "do_it"),
            ("__pi_memcpy", "memcpy"),
            ("vma_alloc_folio_noprof", "vma_alloc_folio"),
            (
                "_ZN4core9panicking5panic17h0123456789abcdefE",
                "_ZN4core9panicking5panic",
            ),
            ("plain", "plain"),
            (".hidden", ""),
            ("", ""),
        ] {
            assert_eq!(plain(name), expected);
        }
    }

    #[test]
    fn lists_take_names_whole_or_by_their_start() {
        assert!(is_reporter("__list_del_entry_valid_or_report"));
        assert!(is_reporter("panic"));
        assert!(!is_reporter("panics_bug"));
        assert!(is_helper("__pi_strlen"));
        assert!(is_helper("__mutex_lock.constprop.0"));
        assert!(is_entry("el0_svc_common.constprop.0"));
        assert!(!is_entry("__arm64_sys_write"));
        assert!(!is_helper("sysrq_handle_crash"));
    }
}
