//! Memory barriers between the CPU and a cache-coherent device that reads and writes memory.
//!
//! A device is an observer in the Outer Shareable domain, so these are `OSH` barriers
//! (Arm ARM DDI 0487, B2.7.3); for a device that a hypervisor emulates on another CPU they are
//! stronger than needed, and that costs nothing measurable. Linux's `dma_wmb` and `dma_rmb` are
//! the same instructions. Off arm64, where only tests run, they are fences.

/// Orders what was stored to shared memory before whatever is stored next, be it to shared
/// memory (descriptors before the index that publishes them) or to a device register (the
/// index before the doorbell).
#[inline(always)]
pub fn publish() {
    #[cfg(target_arch = "aarch64")]
    aarch64_cpu::asm::barrier::dmb(aarch64_cpu::asm::barrier::OSHST);
    #[cfg(not(target_arch = "aarch64"))]
    core::sync::atomic::fence(core::sync::atomic::Ordering::Release);
}

/// Orders a load that told that the device is done before all later loads and stores: the
/// used index before the ring entry, the status byte and the data.
#[inline(always)]
pub fn acquire() {
    #[cfg(target_arch = "aarch64")]
    aarch64_cpu::asm::barrier::dmb(aarch64_cpu::asm::barrier::OSHLD);
    #[cfg(not(target_arch = "aarch64"))]
    core::sync::atomic::fence(core::sync::atomic::Ordering::Acquire);
}
