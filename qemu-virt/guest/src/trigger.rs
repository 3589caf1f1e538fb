//! Ways to panic a distribution's kernel, each after some settings: files, and what is written there.
//!
//! - `sysrq`: `c` into /proc/sysrq-trigger; the handler calls `panic()` in process context.
//! - `null`: the same key, after the harness has put a load from address 0 over the first
//!   instructions of `sysrq_handle_crash` through QEMU's debug port: a real NULL pointer
//!   dereference in kernel mode, on kernels without LKDTM. Needs `panic_on_oops`.
//! - `out-of-memory`: takes memory until there is none; needs `vm.panic_on_oom`.
//! - `init-exit`: ends. Needs to be process 1.
//! - `none`: nothing but the settings, of which the last may do it.
//! - `irq-off`: the harness sends a serial BREAK and `c`; the handler then runs in the
//!   interrupt of the UART, with interrupts masked.

use std::io::Read;

use crate::{Result, read, write};

/// Panics the kernel on a CPU; returns when the panic is left to the harness or to the kernel.
pub fn panic(kind: &str, cpu: usize, settings: &[(&str, &str)]) -> Result<()> {
    write("/proc/sys/kernel/sysrq", "1")?;
    write("/proc/sys/kernel/panic_on_oops", "1")?;
    let mut only = rustix::thread::CpuSet::new();
    only.set(cpu);
    rustix::thread::sched_setaffinity(None, &only).map_err(|e| format!("CPU {cpu}: {e}"))?;
    for (file, value) in settings {
        write(file, value)?;
    }
    match kind {
        "none" => Ok(()),
        "out-of-memory" => take_all_memory(),
        "init-exit" => std::process::exit(7),
        "sysrq" => {
            println!("guest: panic sysrq on cpu {cpu}");
            write("/proc/sysrq-trigger", "c")
        }
        "null" => {
            println!("guest: patch {:#x}", crash_handler()?);
            // The harness answers with a line when the patch is in place.
            std::io::stdin()
                .read_exact(&mut [0])
                .map_err(|e| format!("stdin: {e}"))?;
            println!("guest: panic null on cpu {cpu}");
            write("/proc/sysrq-trigger", "c")
        }
        "irq-off" => {
            let interrupt = uart_interrupt()?;
            write(
                &format!("/proc/irq/{interrupt}/smp_affinity_list"),
                &cpu.to_string(),
            )?;
            println!("guest: break on cpu {cpu}");
            Ok(())
        }
        other => Err(format!(
            "panic={other} is none of sysrq, null, irq-off, out-of-memory, init-exit, none"
        )),
    }
}

/// Takes memory until the kernel has none.
fn take_all_memory() -> Result<()> {
    let mut taken = Vec::new();
    loop {
        taken.push(vec![1_u8; 1 << 20]);
    }
}

/// Returns the physical address of `sysrq_handle_crash`.
///
/// The image is mapped in one piece, and begins on a multiple of 2 MiB in both address spaces
/// (Documentation/arch/arm64/booting.rst; the randomised offset is such a multiple too). "Kernel
/// code" in /proc/iomem and `_stext` both lie in its first 64 KiB.
fn crash_handler() -> Result<u64> {
    let symbols = read("/proc/kallsyms")?;
    let symbol = |name: &str| {
        let line = symbols
            .lines()
            .find(|line| line.split(' ').nth(2) == Some(name));
        let value = line.and_then(|line| hexadecimal(line.split(' ').next()?));
        value
            .filter(|value| *value != 0)
            .ok_or(format!("/proc/kallsyms does not tell {name}"))
    };
    let iomem = read("/proc/iomem")?;
    let code = iomem
        .lines()
        .find(|line| line.ends_with("Kernel code"))
        .and_then(|line| hexadecimal(line.trim().split('-').next()?))
        .ok_or("/proc/iomem does not tell Kernel code")?;
    let image = |inside: u64| inside & !((2 << 20) - 1);
    let offset = symbol("sysrq_handle_crash")?.wrapping_sub(image(symbol("_stext")?));
    Ok(image(code).wrapping_add(offset))
}

fn hexadecimal(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}

/// Returns the interrupt number of the PL011.
fn uart_interrupt() -> Result<u32> {
    read("/proc/interrupts")?
        .lines()
        .find(|line| line.ends_with("uart-pl011"))
        .and_then(|line| line.trim().split(':').next()?.parse().ok())
        .ok_or_else(|| "/proc/interrupts has no uart-pl011".into())
}
