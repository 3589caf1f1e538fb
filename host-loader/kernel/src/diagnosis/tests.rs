//! Logs of real kernels, shortened, and what is to be said of them. Those of `kdraw_panics` and
//! `kdraw-guest` are the harness's dumps'; the others are in the words that the kernel's source
//! and public reports have.

use proptest::prelude::*;

use super::*;

/// A log, and what is to be said of it.
struct Case {
    log: &'static str,
    kind: Kind,
    /// Parts of the sentence, in their order.
    says: &'static [&'static str],
    /// The culprit: its function, or else its task.
    culprit: Option<&'static str>,
    module: Option<&'static str>,
}

const CASE: Case = Case {
    log: "",
    kind: Kind::Unknown,
    says: &[],
    culprit: None,
    module: None,
};

const CASES: &[Case] = &[
    Case {
        // 6.1.
        log: "\
[   15.473518] Unable to handle kernel NULL pointer dereference at virtual address 0000000000000040
[   15.474061] Mem abort info:
[   15.474805]   ESR = 0x0000000096000046
[   15.476276] Internal error: Oops: 0000000096000046 [#1] SMP
[   15.476600] Modules linked in: kdraw_panics(OE) ext4 crc16
[   15.477362] CPU: 1 PID: 112 Comm: kdraw-guest Kdump: loaded Tainted: G           OE      6.1.0-56-arm64 #1  Debian 6.1.192-2
[   15.477694] Hardware name: linux,dummy-virt (DT)
[   15.478527] pc : panics_set_reading+0x14/0x20 [kdraw_panics]
[   15.479040] lr : panics_null_field+0x1c/0x30 [kdraw_panics]
[   15.481778] Call trace:
[   15.483475]  panics_set_reading+0x14/0x20 [kdraw_panics]
[   15.484076]  panics_set+0x50/0x80 [kdraw_panics]
[   15.484391]  param_attr_store+0xb0/0x100
[   15.485838]  el0_svc_common.constprop.0+0x4c/0xf4
[   15.487263] SMP: stopping secondary CPUs
[   15.488455] Starting crashdump kernel...",
        kind: Kind::NullDereference,
        says: &[
            "wrote to a field at offset 0x40 of a NULL pointer",
            "in panics_set_reading (module kdraw_panics), called from panics_null_field,",
            "in task kdraw-guest (PID 112) on CPU 1.",
        ],
        culprit: Some("panics_set_reading"),
        module: Some("kdraw_panics"),
    },
    Case {
        // 7.2.
        log: "\
[   12.728322] Unable to handle kernel paging request at virtual address fffffffffffffff4
[   12.728404]   ESR = 0x0000000096000006
[   12.729377] Internal error: Oops: 0000000096000006 [#1]  SMP
[   12.737606] CPU: 1 UID: 0 PID: 122 Comm: kdraw-guest Kdump: loaded Tainted: G           OE       7.2.13+deb14-arm64 #1 PREEMPTLAZY
[   12.738010] Tainted: [O]=OOT_MODULE, [E]=UNSIGNED_MODULE
[   12.738981] pc : panics_first_letter+0x8/0x18 [kdraw_panics]
[   12.740027] lr : panics_read_gauge+0x18/0x30 [kdraw_panics]
[   12.744271] Call trace:
[   12.744520]  panics_first_letter+0x8/0x18 [kdraw_panics] (P)
[   12.744731]  panics_open_gauge+0x1c/0x30 [kdraw_panics]
[   12.744850]  panics_error_pointer+0x1c/0x30 [kdraw_panics]",
        kind: Kind::ErrorPointer,
        says: &[
            "read from an error number (-12, ENOMEM) taken for a pointer",
            "in panics_first_letter (module kdraw_panics), called from panics_read_gauge,",
        ],
        culprit: Some("panics_first_letter"),
        module: Some("kdraw_panics"),
    },
    Case {
        log: "\
[   22.924830] ------------[ cut here ]------------
[   22.924978] kernel BUG at kdraw_panics.c:70!
[   22.925414] Internal error: Oops - BUG: 00000000f2000800 [#1] SMP
[   22.928620] CPU: 1 UID: 0 PID: 157 Comm: kdraw-guest Kdump: loaded Tainted: G           OE      6.12.117+deb13-arm64 #1
[   22.930980] pc : panics_bug+0x8/0x18 [kdraw_panics]
[   22.931794] lr : panics_set+0x50/0x88 [kdraw_panics]
[   22.934159] Call trace:
[   22.934265]  panics_bug+0x8/0x18 [kdraw_panics]
[   22.934456]  param_attr_store+0xa8/0x100",
        kind: Kind::Bug,
        says: &["BUG() at kdraw_panics.c:70 in panics_bug (module kdraw_panics), called from panics_set,"],
        culprit: Some("panics_bug"),
        module: Some("kdraw_panics"),
    },
    Case {
        log: "\
[    9.811036] list_del corruption. prev->next should be ffffa473d4a06508, but was ffffa473d4a06560. (prev=ffffa473d4a06560)
[    9.811563] ------------[ cut here ]------------
[    9.811611] kernel BUG at lib/list_debug.c:59!
[    9.812501] Internal error: Oops - BUG: 00000000f2000800 [#1] SMP
[    9.813972] CPU: 1 PID: 111 Comm: kdraw-guest Kdump: loaded Tainted: G           OE      6.1.0-56-arm64 #1
[    9.814592] pc : __list_del_entry_valid+0x9c/0xec
[    9.814768] lr : __list_del_entry_valid+0x9c/0xec
[    9.820039] Call trace:
[    9.820457]  __list_del_entry_valid+0x9c/0xec
[    9.821091]  panics_unlink+0x2c/0x64 [kdraw_panics]
[    9.821794]  panics_list_corruption+0xa0/0xbfc [kdraw_panics]",
        kind: Kind::ListCorruption,
        says: &["list corrupted when an entry was removed in panics_unlink (module kdraw_panics)"],
        culprit: Some("panics_unlink"),
        module: Some("kdraw_panics"),
    },
    Case {
        log: "\
[   15.346026] Insufficient stack space to handle exception!
[   15.346244] ESR: 0x0000000096000047 -- DABT (current EL)
[   15.346910] CPU: 1 UID: 0 PID: 122 Comm: kdraw-guest Kdump: loaded Tainted: G           OE       7.2.13+deb14-arm64 #1
[   15.347805] pc : panics_recurse+0x14/0xa0 [kdraw_panics]
[   15.348955] lr : panics_recurse+0x8c/0xa0 [kdraw_panics]
[   15.350812] Kernel panic - not syncing: kernel stack overflow
[   15.354819] CPU: 1 UID: 0 PID: 122 Comm: kdraw-guest Kdump: loaded Tainted: G           OE       7.2.13+deb14-arm64 #1
[   15.357894] Call trace:
[   15.358746]  show_stack+0x20/0x40 (C)
[   15.360052]  vpanic+0x2c4/0x4c0
[   15.360139]  panic+0x68/0x70
[   15.360220]  nmi_panic+0x74/0x80
[   15.360327]  panic_bad_stack+0x110/0x140
[   15.360438]  handle_bad_stack+0x34/0x40
[   15.360549]  __bad_stack+0x80/0x88
[   15.360766]  panics_recurse+0x14/0xa0 [kdraw_panics] (P)
[   15.360926]  panics_recurse+0x8c/0xa0 [kdraw_panics]
[   15.361056]  panics_recurse+0x8c/0xa0 [kdraw_panics]
[   15.361180]  panics_recurse+0x8c/0xa0 [kdraw_panics]
[   15.364872]  panics_stack_overflow+0x1c/0x30 [kdraw_panics]",
        kind: Kind::StackOverflow,
        says: &[
            "panics_recurse (module kdraw_panics), called from panics_stack_overflow,",
            "called itself 4 times",
        ],
        culprit: Some("panics_recurse"),
        module: Some("kdraw_panics"),
    },
    Case {
        // Two that call each other, and one that only happened to meet the end.
        log: "\
Insufficient stack space to handle exception!
CPU: 0 PID: 9 Comm: x Not tainted 6.1.0 #1
pc : memcpy+0x4/0x80
lr : walk_leaf+0x4/0x80
Call trace:
 __bad_stack+0x80/0x88
 memcpy+0x4/0x80
 walk_leaf+0x4/0x80
 walk_node+0x4/0x80
 walk_leaf+0x4/0x80
 walk_node+0x4/0x80
 walk_leaf+0x4/0x80
 walk_node+0x4/0x80
 walk_leaf+0x4/0x80
 walk_tree+0x4/0x80
Kernel panic - not syncing: kernel stack overflow",
        kind: Kind::StackOverflow,
        says: &["walk_node, walk_leaf, called from walk_tree, called each other 3 times"],
        culprit: Some("walk_leaf"),
        module: None,
    },
    Case {
        log: "\
[   18.659011] watchdog: BUG: soft lockup - CPU#1 stuck for 5s! [kdraw-guest:113]
[   18.661615] CPU: 1 PID: 113 Comm: kdraw-guest Kdump: loaded Tainted: G           OE      6.1.0-56-arm64 #1
[   18.662188] pc : panics_soft_lockup+0x8/0x14 [kdraw_panics]
[   18.667381] lr : panics_set+0x50/0x80 [kdraw_panics]
[   18.668304] Call trace:
[   18.668551]  panics_soft_lockup+0x8/0x14 [kdraw_panics]
[   18.668830]  param_attr_store+0xb0/0x100
[   18.669669] Kernel panic - not syncing: softlockup: hung tasks
[   18.670208] CPU: 1 PID: 113 Comm: kdraw-guest Kdump: loaded Tainted: G           OEL     6.1.0-56-arm64 #1
[   18.670683] Call trace:
[   18.671848]  panic+0x184/0x364
[   18.671952]  watchdog_timer_fn+0x298/0x2a0
[   18.673287]  el1h_64_irq+0x64/0x68
[   18.673389]  panics_soft_lockup+0x8/0x14 [kdraw_panics]",
        kind: Kind::SoftLockup,
        says: &["CPU 1 was stuck for 5 s in panics_soft_lockup (module kdraw_panics), called from panics_set"],
        culprit: Some("panics_soft_lockup"),
        module: Some("kdraw_panics"),
    },
    Case {
        // Only the panic is left of it.
        log: "\
Kernel panic - not syncing: softlockup: hung tasks
CPU: 1 PID: 113 Comm: kdraw-guest Kdump: loaded Tainted: G           OEL     6.1.0-56-arm64 #1
Call trace:
 dump_backtrace+0xe4/0x140
 panic+0x184/0x364
 watchdog_timer_fn+0x298/0x2a0
 __hrtimer_run_queues+0x148/0x304
 el1h_64_irq_handler+0x18/0x2c
 el1h_64_irq+0x64/0x68
 _raw_spin_lock+0x40/0x60
 take_it+0x8/0x14 [mine]",
        kind: Kind::SoftLockup,
        says: &["CPU 1 was stuck in take_it (module mine) through _raw_spin_lock, in task kdraw-guest (PID 113)"],
        culprit: Some("take_it"),
        module: Some("mine"),
    },
    Case {
        // Another CPU is meant than the one that panics.
        log: "\
[  100.000001] rcu: INFO: rcu_sched detected stalls on CPUs/tasks:
[  100.000002] rcu: \t3-...!: (1 GPs behind) idle=449c/1/0x4000000000000000 softirq=652/653 fqs=2465
[  100.000003] rcu: \t(detected by 0, t=5252 jiffies, g=61, q=1 ncpus=4)
[  100.000004] Sending NMI from CPU 0 to CPUs 3:
[  100.000005] CPU: 3 PID: 90 Comm: spinner Not tainted 6.1.0 #1
[  100.000006] pc : spin_for_ever+0x8/0x1c
[  100.000007] lr : spin+0x50/0x80
[  100.000008] Call trace:
[  100.000009]  spin_for_ever+0x8/0x1c
[  100.000010]  el0_svc+0x34/0xdc
[  100.000011] Kernel panic - not syncing: RCU Stall
[  100.000012] CPU: 0 PID: 0 Comm: swapper/0 Not tainted 6.1.0 #1
[  100.000013] Call trace:
[  100.000014]  panic+0x184/0x364
[  100.000015]  panic_on_rcu_stall+0x50/0x54
[  100.000016]  rcu_sched_clock_irq+0x34c/0xb90
[  100.000017]  el1h_64_irq+0x64/0x68
[  100.000018]  arch_cpu_idle+0x18/0x2c",
        kind: Kind::RcuStall,
        says: &["CPU 3 was stuck in spin_for_ever, called from spin", "RCU"],
        culprit: Some("spin_for_ever"),
        module: None,
    },
    Case {
        // 7.2 says itself who has the mutex.
        log: "\
[   23.039988] INFO: task panics_holder:143 blocked for more than 3 seconds.
[   23.040319]       Tainted: G           OE       7.2.13+deb14-arm64 #1 Debian 7.2.13-1
[   23.040560] task:panics_holder   state:D stack:0     pid:143   tgid:143   ppid:2
[   23.041644] Call trace:
[   23.041854]  __switch_to+0x180/0x348 (T)
[   23.042207]  __schedule+0x460/0x1258
[   23.042226]  schedule+0x3c/0xf0
[   23.042239]  schedule_timeout+0xd0/0x128
[   23.042253]  wait_for_completion+0x84/0x160
[   23.042266]  panics_hold+0x40/0x68 [kdraw_panics]
[   23.042777]  kthread+0x134/0x150
[   23.042947] INFO: task panics_waiter:144 blocked for more than 3 seconds.
[   23.043052] Call trace:
[   23.043059]  __switch_to+0x180/0x348 (T)
[   23.043102]  schedule_preempt_disabled+0x2c/0x50
[   23.050974]  __mutex_lock.constprop.0+0x508/0xac0
[   23.051048]  mutex_lock+0x50/0x70
[   23.051061]  panics_wait+0x28/0x50 [kdraw_panics]
[   23.051430] INFO: task panics_waiter:144 is blocked on a mutex likely owned by task panics_holder:143.
[   23.051947] Kernel panic - not syncing: hung_task: blocked tasks
[   23.052882] CPU: 0 UID: 0 PID: 33 Comm: khungtaskd Kdump: loaded Tainted: G           OE       7.2.13+deb14-arm64 #1
[   23.054427]  panic+0x68/0x70
[   23.054485]  watchdog+0x250/0x870",
        kind: Kind::HungTask,
        says: &[
            "Task panics_waiter (PID 144) was blocked for more than 3 s on a mutex held by",
            "panics_holder (PID 143), which sleeps in panics_hold (module kdraw_panics)",
        ],
        culprit: Some("panics_hold"),
        module: Some("kdraw_panics"),
    },
    Case {
        // 6.1's log says only who waited.
        log: "\
INFO: task jbd2/vda1-8:134 blocked for more than 120 seconds.
task:jbd2/vda1-8     state:D stack:0     pid:134   ppid:2      flags:0x00000008
Call trace:
 __switch_to+0xe8/0x120
 schedule+0x58/0xf0
 io_schedule+0x24/0x40
 folio_wait_bit_common+0x154/0x3a0
 folio_wait_bit+0x20/0x30
 write_it_back+0x38/0x5c [ext4]
 kthread+0xe0/0xe4
Kernel panic - not syncing: hung_task: blocked tasks",
        kind: Kind::HungTask,
        says: &["Task jbd2/vda1-8 (PID 134) was blocked for more than 120 s in write_it_back (module ext4), waiting for a page"],
        culprit: Some("write_it_back"),
        module: Some("ext4"),
    },
    Case {
        log: "\
[   35.981332] kdraw-guest invoked oom-killer: gfp_mask=0x140dca(GFP_HIGHUSER_MOVABLE|__GFP_COMP|__GFP_ZERO), order=0, oom_score_adj=0
[   35.981500] CPU: 1 PID: 112 Comm: kdraw-guest Kdump: loaded Not tainted 6.1.0-56-arm64 #1
[   35.981600] Call trace:
[   35.981700]  dump_header+0x4c/0x200
[   35.986756] Tasks state (memory values in pages):
[   35.986778] [  pid  ]   uid  tgid total_vm      rss pgtables_bytes swapents oom_score_adj name
[   35.987243] [    111]     0   111    99696     1483   835584        0             0 small
[   35.987243] [    112]     0   112    99696    99483   835584        0             0 kdraw-guest
[   35.988196] Kernel panic - not syncing: Out of memory: system-wide panic_on_oom is enabled
[   35.989678] CPU: 1 PID: 112 Comm: kdraw-guest Kdump: loaded Not tainted 6.1.0-56-arm64 #1
[   35.991242] Call trace:
[   35.992516]  panic+0x184/0x364
[   35.992600]  out_of_memory+0x4c0/0x5a0",
        kind: Kind::OutOfMemory,
        says: &["kdraw-guest (PID 112, 388 MiB resident", "was allocating, and vm.panic_on_oom is set."],
        culprit: Some("kdraw-guest"),
        module: None,
    },
    Case {
        log: "\
[   15.796469] Kernel panic - not syncing: Attempted to kill init! exitcode=0x0000000b
[   15.797515] CPU: 1 PID: 1 Comm: systemd Not tainted 6.1.0-56-arm64 #1
[   15.797962] Call trace:
[   15.799169]  panic+0x184/0x364
[   15.799219]  do_exit+0x9ec/0x9f0
[   15.800600] ---[ end Kernel panic - not syncing: Attempted to kill init! exitcode=0x0000000b ]---",
        kind: Kind::InitDied,
        says: &["Process 1 (systemd) was ended by signal 11 (SIGSEGV)"],
        culprit: Some("systemd"),
        module: None,
    },
    Case {
        // 6.1, from the serial line: the function behind the call that does not return is no caller.
        log: "\
[   18.908532] sysrq: Trigger a crash
[   18.909604] Kernel panic - not syncing: sysrq triggered crash
[   18.912056] CPU: 1 PID: 0 Comm: swapper/1 Kdump: loaded Not tainted 6.1.0-56-arm64 #1
[   18.912975] Call trace:
[   18.914228]  panic+0x184/0x364
[   18.914339]  sysrq_reset_seq_param_set+0x0/0xa0
[   18.914452]  __handle_sysrq+0x90/0x19c
[   18.914824]  pl011_int+0x314/0x54c
[   18.927450]  el1_interrupt+0x34/0x54
[   18.927771]  el1h_64_irq+0x64/0x68
[   18.927877]  arch_cpu_idle+0x18/0x2c",
        kind: Kind::Sysrq,
        says: &["A user asked for the crash through sysrq", "interrupt on CPU 1"],
        culprit: Some("__handle_sysrq"),
        module: None,
    },
    Case {
        // github.com/qualcomm-linux/kernel issues 297 and 541.
        log: "\
[   18.348119] SError Interrupt on CPU5, code 0x00000000be000000 -- SError
[   18.348127] CPU: 5 UID: 1000 PID: 960 Comm: weston Tainted: G   M    W  O        7.0.0-00707-g0f9957102cc3 #1 PREEMPT
[   18.348132] Tainted: [M]=MACHINE_CHECK, [W]=WARN, [O]=OOT_MODULE
[   18.348137] pc : arm_smmu_write_s2cr+0xa0/0x130
[   18.348145] lr : arm_smmu_write_sme+0x20/0x108
[   18.348400] Kernel panic - not syncing: Asynchronous SError Interrupt
[   18.348401] CPU: 5 UID: 1000 PID: 960 Comm: weston Tainted: G   M    W  O        7.0.0-00707-g0f9957102cc3 #1 PREEMPT
[   18.348402] Call trace:
[   18.348403]  show_stack+0x18/0x30 (C)
[   18.348404]  vpanic+0xf8/0x2dc
[   18.348405]  abort+0x0/0x4
[   18.348406]  arm64_serror_panic+0x70/0x80
[   18.348407]  do_serror+0x58/0x74
[   18.348408]  el1h_64_error_handler+0x38/0x60
[   18.348409]  el1h_64_error+0x70/0x74
[   18.348410]  arm_smmu_write_s2cr+0xa0/0x130 (P)
[   18.348411]  arm_smmu_device_reset+0x6c/0x2c0",
        kind: Kind::SError,
        says: &["SError", "arm_smmu_write_s2cr", "in task weston (PID 960) on CPU 5."],
        culprit: None,
        module: None,
    },
    Case {
        // github.com/ubicloud/ubicloud issue 1113.
        log: "\
[    6.768889] Unable to handle kernel execute from non-executable memory at virtual address ffffbd2fe97a3ba0
[    6.770090]   ESR = 0x000000008600000e
[    6.770102] Internal error: Oops: 000000008600000e [#1] SMP
[    6.773402] Modules linked in: sm4_ce(-) dm_multipath
[    6.773500] CPU: 1 PID: 300 Comm: modprobe Not tainted 6.5.0 #1
[    6.773501] pc : sm4_ce_setkey+0x0/0x20 [sm4_ce]
[    6.773502] lr : crypto_setkey+0x44/0x90
[    6.773503] Call trace:
[    6.773504]  sm4_ce_setkey+0x0/0x20 [sm4_ce]
[    6.773505]  crypto_setkey+0x44/0x90",
        kind: Kind::BadAddress,
        says: &["jumped to the bad address 0xffffbd2fe97a3ba0 (not executable) in sm4_ce_setkey (module sm4_ce)"],
        culprit: Some("sm4_ce_setkey"),
        module: Some("sm4_ce"),
    },
    Case {
        // A function pointer that is NULL: x30 says who called it.
        log: "\
Unable to handle kernel NULL pointer dereference at virtual address 0000000000000000
  ESR = 0x0000000086000004
Internal error: Oops: 0000000086000004 [#1] SMP
CPU: 2 PID: 44 Comm: kworker/2:1 Not tainted 6.12.0 #1
Workqueue: events do_later [mine]
pc : 0x0
lr : call_hook+0x24/0x40 [mine]
Call trace:
 0x0
 do_later+0x18/0x30 [mine]
 process_one_work+0x1f4/0x3d0
 worker_thread+0x6c/0x430
 kthread+0xe0/0xe4",
        kind: Kind::NullDereference,
        says: &[
            "jumped to a NULL pointer in call_hook (module mine), called from do_later,",
            "in the work do_later that kworker/2:1 (PID 44) did on CPU 2.",
        ],
        culprit: Some("call_hook"),
        module: Some("mine"),
    },
    Case {
        // What is freed is filled with 0x6b; the helper was passed it.
        log: "\
Unable to handle kernel paging request at virtual address 6b6b6b6b6b6b6b73
Internal error: Oops: 0000000096000044 [#1] SMP
CPU: 0 PID: 0 Comm: swapper/0 Not tainted 6.12.0 #1
pc : __pi_strlen+0x14/0x150
lr : show_name+0x24/0x40
Call trace:
 __pi_strlen+0x14/0x150
 show_name+0x24/0x40
 my_irq+0x18/0x30
 __handle_irq_event_percpu+0x60/0x1e0
 el1_interrupt+0x34/0x54
 el1h_64_irq+0x64/0x68
 default_idle_call+0x50/0x13c
Kernel panic - not syncing: Oops: Fatal exception in interrupt",
        kind: Kind::BadAddress,
        says: &[
            "wrote to the bad address 0x6b6b6b6b6b6b6b73 (the mark of freed memory) in show_name through strlen,",
            "called from my_irq, in an interrupt on CPU 0",
        ],
        culprit: Some("show_name"),
        module: None,
    },
    Case {
        log: "\
watchdog: Watchdog detected hard LOCKUP on cpu 2
CPU: 2 PID: 77 Comm: looper Not tainted 6.12.0 #1
pc : loop_with_irqs_off+0x14/0x20 [looper]
lr : run_loop+0x24/0x40 [looper]
Call trace:
 loop_with_irqs_off+0x14/0x20 [looper]
 run_loop+0x24/0x40 [looper]
Kernel panic - not syncing: Hard LOCKUP
CPU: 1 PID: 0 Comm: swapper/1 Not tainted 6.12.0 #1
Call trace:
 panic+0x184/0x364
 watchdog_hardlockup_check+0x1b0/0x2c0
 watchdog_buddy_check_hardlockup+0x60/0xa0",
        kind: Kind::HardLockup,
        says: &["CPU 2 was stuck and took no interrupts in loop_with_irqs_off (module looper)"],
        culprit: Some("loop_with_irqs_off"),
        module: Some("looper"),
    },
    Case {
        log: "\
------------[ cut here ]------------
refcount_t: underflow; use-after-free.
WARNING: CPU: 3 PID: 101 at lib/refcount.c:28 refcount_warn_saturate+0xf4/0x144
CPU: 3 PID: 101 Comm: user Tainted: G        W          6.1.0 #1
pc : refcount_warn_saturate+0xf4/0x144
lr : refcount_warn_saturate+0xf4/0x144
Call trace:
 refcount_warn_saturate+0xf4/0x144
 kobject_put+0x118/0x120
 put_thing+0x24/0x40 [things]
 close_thing+0x24/0x40 [things]
Kernel panic - not syncing: kernel: panic_on_warn set ...",
        kind: Kind::Refcount,
        says: &["reference count wrong (refcount_t: underflow; use-after-free.) in put_thing (module things) through kobject_put"],
        culprit: Some("put_thing"),
        module: Some("things"),
    },
    Case {
        log: "\
WARNING: CPU: 3 PID: 101 at drivers/foo/bar.c:12 foo_bar+0x1c/0x28
CPU: 3 PID: 101 Comm: user Not tainted 6.1.0 #1
pc : foo_bar+0x1c/0x28
lr : foo+0x1c/0x28
Call trace:
 foo_bar+0x1c/0x28
 foo+0x1c/0x28
Kernel panic - not syncing: kernel: panic_on_warn set ...",
        kind: Kind::Warning,
        says: &["A warning (at drivers/foo/bar.c:12)", "in foo_bar, called from foo,"],
        culprit: Some("foo_bar"),
        module: None,
    },
    Case {
        log: "\
==================================================================
BUG: KASAN: slab-use-after-free in read_it+0x3c/0x60 [things]
Read of size 8 at addr ffff0000c5a3b800 by task user/101
CPU: 3 PID: 101 Comm: user Not tainted 6.6.0 #1
Call trace:
 dump_backtrace+0x9c/0x11c
 show_stack+0x18/0x24
 dump_stack_lvl+0x60/0x80
 print_report+0x174/0x4f8
 kasan_report+0xb8/0x100
 __asan_load8+0x9c/0xc0
 read_it+0x3c/0x60 [things]
 read_all+0x3c/0x60 [things]
Kernel panic - not syncing: kasan.fault=panic set ...",
        kind: Kind::Sanitizer,
        says: &["KASAN: slab-use-after-free", "in read_it (module things), called from read_all"],
        culprit: Some("read_it"),
        module: Some("things"),
    },
    Case {
        log: "\
Kernel panic - not syncing: stack-protector: Kernel stack is corrupted in: copy_name+0x88/0x90 [mine]
CPU: 0 PID: 5 Comm: user Not tainted 6.1.0 #1
Call trace:
 panic+0x184/0x364
 __stack_chk_fail+0x1c/0x20
 copy_name+0x88/0x90 [mine]",
        kind: Kind::StackCorruption,
        says: &["stack was overwritten in copy_name (module mine), in task user (PID 5)"],
        culprit: Some("copy_name"),
        module: Some("mine"),
    },
    Case {
        log: "\
VFS: Cannot open root device \"\" or unknown-block(0,0): error -6
Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)
CPU: 0 PID: 1 Comm: swapper/0 Not tainted 6.1.0 #1
Call trace:
 panic+0x184/0x364
 mount_block_root+0x1a4/0x24c",
        kind: Kind::NoRoot,
        says: &["VFS: Unable to mount root fs on unknown-block(0,0)"],
        culprit: Some("mount_block_root"),
        module: None,
    },
    Case {
        log: "\
usercopy: Kernel memory exposure attempt detected from SLUB object 'kmalloc-64' (offset 0, size 128)!
------------[ cut here ]------------
kernel BUG at mm/usercopy.c:102!
Internal error: Oops - BUG: 00000000f2000800 [#1] SMP
CPU: 0 PID: 5 Comm: user Not tainted 6.1.0 #1
pc : usercopy_abort+0x98/0x9c
lr : usercopy_abort+0x98/0x9c
Call trace:
 usercopy_abort+0x98/0x9c
 __check_heap_object+0x160/0x180
 __check_object_size+0x1d8/0x2d0
 my_read+0x60/0xa0 [mine]",
        kind: Kind::BufferOverflow,
        says: &["usercopy: Kernel memory exposure attempt", "in my_read (module mine)"],
        culprit: Some("my_read"),
        module: Some("mine"),
    },
    Case {
        log: "\
Internal error: synchronous external abort: 0000000096000210 [#1] SMP
CPU: 0 PID: 5 Comm: user Not tainted 6.1.0 #1
pc : my_read_register+0x10/0x20
lr : my_probe+0x98/0x9c
Call trace:
 my_read_register+0x10/0x20
 my_probe+0x98/0x9c
Kernel panic - not syncing: synchronous external abort: Fatal exception",
        kind: Kind::BusError,
        says: &["hardware answered an access with an error in my_read_register, called from my_probe"],
        culprit: Some("my_read_register"),
        module: None,
    },
    Case {
        log: "\
Kernel panic - not syncing: dm-verity device corrupted
CPU: 0 PID: 5 Comm: kworker/u8:1 Not tainted 6.1.0 #1
Workqueue: kverityd verity_work [dm_verity]
Call trace:
 dump_stack+0x18/0x34
 panic+0x184/0x364
 verity_handle_err+0x190/0x1c0 [dm_verity]
 process_one_work+0x1f4/0x3d0",
        kind: Kind::Panic,
        says: &["panicked in verity_handle_err (module dm_verity), in the work verity_work that kworker/u8:1", ": dm-verity device corrupted."],
        culprit: Some("verity_handle_err"),
        module: Some("dm_verity"),
    },
    Case {
        // An oops that the kernel survived, long before.
        log: "\
Unable to handle kernel NULL pointer dereference at virtual address 0000000000000040
Internal error: Oops: 0000000096000046 [#1] SMP
CPU: 1 PID: 112 Comm: old Not tainted 6.1.0 #1
pc : old_fault+0x14/0x20
Call trace:
 old_fault+0x14/0x20
sysrq: Trigger a crash
Kernel panic - not syncing: sysrq triggered crash
CPU: 1 PID: 200 Comm: sh Tainted: G      D            6.1.0 #1
Call trace:
 panic+0x184/0x364
 sysrq_handle_crash+0x20/0x28
 __handle_sysrq+0x90/0x19c",
        kind: Kind::Sysrq,
        says: &["A user asked", "by sh (PID 200)"],
        culprit: Some("sysrq_handle_crash"),
        module: None,
    },
    Case {
        log: "[    1.0] all is well",
        ..CASE
    },
    CASE,
];

#[test]
fn logs_are_diagnosed() {
    for case in CASES {
        let found = Diagnosis::of_log(case.log);
        let sentence = &found.sentence;
        assert_eq!(found.kind, case.kind, "{sentence}\n{}", case.log);
        let mut rest = sentence.as_str();
        for part in case.says {
            let Some((_, behind)) = rest.split_once(part) else {
                panic!("{sentence:?} lacks {part:?}");
            };
            rest = behind;
        }
        assert!(
            sentence.ends_with('.') && !sentence.contains(".."),
            "{sentence}"
        );
        let culprit = found.culprit.as_ref().and_then(|culprit| {
            let function = culprit
                .function
                .as_ref()
                .map(|function| function.name.as_str());
            function.or(culprit.task.as_ref().map(|task| task.comm.as_str()))
        });
        assert_eq!(culprit, case.culprit, "{sentence}");
        let module = found
            .culprit
            .as_ref()
            .and_then(|culprit| culprit.function.as_ref());
        let module = module.and_then(|function| function.module.as_deref());
        assert_eq!(module, case.module, "{sentence}");
    }
}

#[test]
fn what_was_lost_is_told() {
    let found = Diagnosis::of_log("");
    assert_eq!(found.sentence, "The kernel ended, and nothing tells why.");
    assert!(!found.lacks.is_empty());
    assert_eq!((found.taint, found.culprit), (None, None));
}

#[test]
fn signatures_are_of_the_cause_and_not_of_the_boot() {
    let hash = |log: &str| Diagnosis::of_log(log).signature.hash;
    let panic = |device: &str| {
        format!("Kernel panic - not syncing: VFS: Unable to mount root fs on {device}")
    };
    assert_eq!(
        hash(&panic("unknown-block(0,0)")),
        hash(&panic("unknown-block(179,2)"))
    );
    let hashes: std::collections::BTreeSet<_> = CASES.iter().map(|case| hash(case.log)).collect();
    // The soft lockup of our module is there whole and cut, with other functions; of two that
    // say nothing both are the same.
    assert_eq!(hashes.len(), CASES.len() - 1);
}

proptest! {
    /// Whatever is left of a log, something is said.
    #[test]
    fn damaged_logs_are_survived(
        which in 0..CASES.len(),
        from in 0usize..2000,
        len in 0usize..3000,
        holes in proptest::collection::vec((0usize..2000, any::<char>()), 0..20),
    ) {
        let mut log: Vec<char> = CASES[which].log.chars().skip(from).take(len).collect();
        for (at, letter) in holes {
            if let Some(place) = log.get_mut(at) {
                *place = letter;
            }
        }
        let log: String = log.into_iter().collect();
        let found = Diagnosis::of_log(&log);
        prop_assert!(found.sentence.ends_with('.'));
        prop_assert_eq!(found.signature.hash.len(), 16);
    }
}
