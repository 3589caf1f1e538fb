// The payload's first instructions: from the dead kernel's jump to Rust.
//
// Entered with the MMU and caches off, at EL1, EL2 or EL2 with VHE, on any CPU, at any
// 64 KiB-aligned address (Linux, arch/arm64/kernel/machine_kexec.c; the Image header is
// Documentation/arch/arm64/booting.rst). x0 = the device tree's physical address, or 0.
//
//   1. Vectors: until the MMU is on, any exception resets the machine.
//   2. Which translation regime: at EL1, and at EL2 with VHE, where the *_EL1 names mean the
//      EL2 registers, it is the EL1 one; at EL2 without VHE the EL2 one.
//   3. Page tables for the payload itself, section by section with the permissions that each
//      needs, and for this code one to one.
//   4. MMU and caches on, jump to the link address, zero .bss, stacks, Rust.
//
// Other CPUs are started later, at secondary_boot, and use the same tables.
//
// Registers kept throughout:
//   x19 DTB address    x20 CNTVCT at entry   x21 SCTLR at entry   x22 exception level (1, 2)
//   x23 0: EL1 regime, 1: EL2 regime         x24 root table       x25 next free table
//   x26 physical minus link address          x27 XN bits for data x28 bits of every descriptor

    .section .text.head, "ax"
    .global _start
_start:
    b       boot
    .word   0
    .quad   0                           // text_offset
    .quad   __image_size                // image_size: with .bss and stacks
    .quad   0x8                         // flags: little-endian, any page size, anywhere
    .quad   0
    .quad   0
    .quad   0
    .ascii  "ARM\x64"
    .word   0
dtb_word:
    .quad   0                           // offset 64: the DTB, if x0 is 0; set by `kdraw load`

    .section .text.boot, "ax"
boot:
    msr     daifset, #0xf
    msr     spsel, #1
    msr     tpidr_el1, xzr              // the first CPU has number 0
    mov     x18, #0
    mov     x19, x0
    mrs     x22, CurrentEL
    lsr     x22, x22, #2
    mov     x23, #0
    cmp     x22, #2
    b.ne    1f
    mrs     x1, hcr_el2
    tbnz    x1, #34, 1f                 // HCR_EL2.E2H: VHE
    mov     x23, #1
1:
    // A fault before the MMU is on ends in a reset.
    adr     x1, boot_vectors
    cbnz    x23, 2f
    msr     vbar_el1, x1
    mrs     x21, sctlr_el1
    b       3f
2:  msr     vbar_el2, x1
    mrs     x21, sctlr_el2
3:  isb
    mrs     x20, cntvct_el0

    cbnz    x19, 4f
    ldr     x19, dtb_word
4:
    // Physical minus link address. The two views must not overlap: this code is mapped in both.
    adrp    x1, _start
    ldr     x2, =_start
    sub     x26, x1, x2
    ldr     x2, =__image_end
    cmp     x1, x2
    b.lo    reset_now

    // Zero the boot tables. The MMU is off, so this goes to memory; below, stale cache lines
    // over it are thrown away.
    adrp    x24, __boot_tables
    mov     x1, x24
    ldr     x2, =__boot_tables_end
    add     x2, x2, x26
5:  stp     xzr, xzr, [x1], #16
    cmp     x1, x2
    b.lo    5b
    add     x25, x24, #4096

    // Attributes: Normal memory (index 1), Inner Shareable, accessed.
    // EL1 regime: UXN always, PXN for data. EL2 regime: XN for data; AP[1] is RES1.
    mov     x27, #(1 << 53)
    mov     x28, #0x707
    orr     x28, x28, #(1 << 54)
    cbz     x23, 6f
    mov     x27, #(1 << 54)
    mov     x28, #0x747
6:
    // Text read-only and executable, read-only data, writable data, the two stacks.
    ldr     x8, =__image_start
    ldr     x9, =__text_end
    mov     x10, #(1 << 7)
    bl      map_section
    ldr     x8, =__text_end
    ldr     x9, =__rodata_end
    orr     x10, x27, #(1 << 7)
    bl      map_section
    ldr     x8, =__data_start
    ldr     x9, =__data_end
    mov     x10, x27
    bl      map_section
    ldr     x8, =__stack_start
    ldr     x9, =__stack_end
    mov     x10, x27
    bl      map_section
    ldr     x8, =__fault_stack_start
    ldr     x9, =__fault_stack_end
    mov     x10, x27
    bl      map_section

    // This code one to one, for the moment at which the MMU goes on.
    adrp    x0, _start
    orr     x1, x0, x28
    orr     x1, x1, #(1 << 7)
    bl      map_page
    adrp    x0, _start
    add     x0, x0, #4096
    orr     x1, x0, x28
    orr     x1, x1, #(1 << 7)
    bl      map_page

    // Lines that were speculated over the tables while they were written.
    mrs     x3, ctr_el0
    ubfx    x3, x3, #16, #4
    mov     x4, #4
    lsl     x4, x4, x3                  // smallest data cache line, bytes
    mov     x1, x24
    ldr     x2, =__boot_tables_end
    add     x2, x2, x26
7:  dc      ivac, x1
    add     x1, x1, x4
    cmp     x1, x2
    b.lo    7b
    dsb     sy

    bl      mmu_on
    ldr     x1, =linked
    br      x1

// Where PSCI CPU_ON starts another CPU: MMU and caches off, x0 = context (entry.rs
// `secondary_context`): bits 15:0 number, 17:16 the exception level and 18 the regime of the
// first CPU. It does the same to this CPU's registers, and uses no memory but this code before
// the MMU is on. A fault until then, or another exception level, and it stays here.
    .global secondary_boot
secondary_boot:
    msr     daifset, #0xf
    msr     spsel, #1
    mov     x18, #2                     // boot_vectors do not reset, but wait
    mov     x19, x0
    ubfx    x1, x19, #16, #2
    ubfx    x23, x19, #18, #1
    mrs     x22, CurrentEL
    lsr     x22, x22, #2
    adr     x2, boot_vectors
    cmp     x22, x1
    b.ne    park_now
    cmp     x22, #2
    b.ne    2f
    // E2H as the first CPU has it, before any register that it renames.
    mov     x3, #(1 << 31)
    cbnz    x23, 1f
    orr     x3, x3, #(1 << 34)
    orr     x3, x3, #(1 << 27)
1:  msr     hcr_el2, x3
    isb
2:  cbnz    x23, 3f
    msr     vbar_el1, x2
    b       4f
3:  msr     vbar_el2, x2
4:  isb
    adrp    x24, __boot_tables
    bl      mmu_on
    ldr     x1, =secondary_linked
    br      x1

// Sets the translation regime up, with the root table x24, and MMU and caches on; the caller
// runs where the tables map it one to one.
mmu_on:
    // Memory types: 0 Device-nGnRnE, 1 Normal Write-Back.
    mov     x0, #0xff00
    // TCR: 48-bit addresses from TTBR0, 4 KiB granule, walks cached and Inner Shareable.
    mov     x1, #0x3510
    mrs     x2, id_aa64mmfr0_el1
    and     x2, x2, #0xf
    mov     x3, #5                      // at most 48 bits of physical address
    cmp     x2, x3
    csel    x2, x2, x3, ls
    mov     x3, #3
    cbnz    x23, 8f

    // EL1 regime: no TTBR1. WXN: nothing writable is executable.
    orr     x1, x1, #(1 << 23)
    orr     x1, x1, #(1 << 31)
    orr     x1, x1, x2, lsl #32
    lsl     x3, x3, #20
    msr     cpacr_el1, x3               // FP and SIMD are not trapped
    cmp     x22, #2
    b.ne    81f
    mrs     x4, hcr_el2
    orr     x4, x4, #(1 << 27)          // TGE: EL2&0 regime
    orr     x4, x4, #(1 << 5)           // AMO: SErrors come here
    msr     hcr_el2, x4
    isb
81: msr     mair_el1, x0
    msr     tcr_el1, x1
    msr     ttbr0_el1, x24
    isb
    tlbi    vmalle1
    ic      iallu
    dsb     nsh
    isb
    ldr     x4, =0x30d81805             // RES1 | M | C | I | SPAN | WXN
    msr     sctlr_el1, x4
    isb
    b       9f

8:  // EL2 regime.
    orr     x1, x1, #(1 << 23)
    orr     x1, x1, #(1 << 31)
    orr     x1, x1, x2, lsl #16
    mov     x4, #0x33ff
    msr     cptr_el2, x4                // FP and SIMD are not trapped
    mov     x4, #(1 << 31)
    orr     x4, x4, #(1 << 5)
    msr     hcr_el2, x4                 // RW; AMO: SErrors come here
    msr     mair_el2, x0
    msr     tcr_el2, x1
    msr     ttbr0_el2, x24
    isb
    tlbi    alle2
    ic      iallu
    dsb     nsh
    isb
    ldr     x4, =0x30cd1835             // RES1 | M | C | I | WXN
    msr     sctlr_el2, x4
    isb
9:  ret

    .macro  set_vectors                 // of the exception level that x23 tells; uses x1
    cbnz    x23, 1f
    adr     x1, vectors_el1
    msr     vbar_el1, x1
    b       2f
1:  adr     x1, vectors_el2
    msr     vbar_el2, x1
2:
    .endm

// From here on at the link address, with MMU and caches on.
linked:
    set_vectors
    isb
    ldr     x1, =__bss_start
    ldr     x2, =__bss_end
3:  stp     xzr, xzr, [x1], #16
    cmp     x1, x2
    b.lo    3b
    // Exceptions have a stack of their own: the ELx stack pointer. Rust runs on SP_EL0.
    ldr     x1, =__fault_stack_end
    mov     sp, x1
    msr     spsel, #0
    ldr     x1, =__stack_end
    mov     sp, x1
    mov     x29, #0
    mov     x30, #0
    mov     x0, x19
    mov     x1, x26
    mov     x2, x20
    mov     x3, x21
    orr     x4, x22, x23, lsl #8
    bl      kdraw_main
    b       reset_now

// The same for another CPU, with the stacks of its number.
secondary_linked:
    set_vectors
    and     x0, x19, #0xffff
    msr     tpidr_el1, x0
    isb
    ldr     x1, =SECONDARY_STACKS       // [stack's end, fault stack's end], from number 1 on
    add     x1, x1, x0, lsl #4
    ldp     x2, x3, [x1, #-16]
    mov     sp, x3
    msr     spsel, #0
    mov     sp, x2
    mov     x29, #0
    mov     x30, #0
    bl      kdraw_secondary

// Stops this CPU for good: interrupts are masked, and what wakes it sends it back to sleep.
    .global park_now
park_now:
    msr     daifset, #0xf
1:  wfi
    b       1b

// Maps link addresses x8 to x9 with the permission bits x10.
map_section:
    mov     x11, x30
1:  cmp     x8, x9
    b.hs    2f
    mov     x0, x8
    add     x1, x8, x26
    orr     x1, x1, x28
    orr     x1, x1, x10
    bl      map_page
    add     x8, x8, #4096
    b       1b
2:  ret     x11

// Writes descriptor x1 for virtual address x0, making tables on the way. The linker script
// bounds the image, and with it the tables needed, to what there is room for.
map_page:
    mov     x2, x24
    mov     x3, #39
1:  lsr     x4, x0, x3
    and     x4, x4, #511
    add     x4, x2, x4, lsl #3
    cmp     x3, #12
    b.eq    3f
    ldr     x5, [x4]
    cbnz    x5, 2f
    orr     x5, x25, #3
    str     x5, [x4]
    add     x25, x25, #4096
2:  and     x2, x5, #0x0000fffffffff000
    sub     x3, x3, #9
    b       1b
3:  str     x1, [x4]
    ret

// A fault in the handling of a fault: the end of the first CPU is the machine's, that of another
// only its own.
give_up:
    mrs     x1, tpidr_el1
    cbnz    x1, park_now
// Resets the machine with nothing but registers: by smc at EL2, by hvc and then smc at EL1 (one
// that is not implemented comes back, or traps to a vector that comes here again, with x18
// counting the tries). PSCI SYSTEM_RESET, Arm DEN 0022.
    .global reset_now
reset_now:
    msr     daifset, #0xf
    mov     x18, #0
    adr     x1, boot_vectors
    mrs     x2, CurrentEL
    tbnz    x2, #3, 1f
    msr     vbar_el1, x1
    b       2f
1:  msr     vbar_el2, x1
2:  isb
reset_try:
    add     x18, x18, #1
    mov     x0, #0x0009
    movk    x0, #0x8400, lsl #16
    mrs     x1, CurrentEL
    tbnz    x1, #3, 1f                  // EL2
    cmp     x18, #1
    b.ne    1f
    hvc     #0
    b       reset_try
1:  cmp     x18, #2
    b.hi    2f
    smc     #0
    b       reset_try
2:  wfe                                 // nothing answers: the watchdog's turn
    b       2b

    .balign 2048
boot_vectors:
    .rept   16
    .balign 128
    b       reset_try
    .endr
    .balign 128

// A vector that saves everything and calls Rust: x0 = frame, x1 = 0 synchronous, 1 SError.
// Frame: x0 to x30, ELR, SPSR, ESR, FAR, SP_EL0.
    .macro  vector el, kind
    .balign 128
    sub     sp, sp, #288
    stp     x0, x1, [sp]
    mov     x0, #\kind
    b       save_\el
    .endm

    .macro  vector_dead
    .balign 128
    b       give_up
    .endm

    .macro  vector_table el
    .balign 2048
vectors_\el:
    vector  \el, 0                      // current EL with SP_EL0: the payload's own
    vector_dead
    vector_dead
    vector  \el, 1
    .rept   12                          // on the fault stack already, or from below: give up
    vector_dead
    .endr
    .endm

    .macro  save el
save_\el:
    stp     x2, x3, [sp, #16]
    stp     x4, x5, [sp, #32]
    stp     x6, x7, [sp, #48]
    stp     x8, x9, [sp, #64]
    stp     x10, x11, [sp, #80]
    stp     x12, x13, [sp, #96]
    stp     x14, x15, [sp, #112]
    stp     x16, x17, [sp, #128]
    stp     x18, x19, [sp, #144]
    stp     x20, x21, [sp, #160]
    stp     x22, x23, [sp, #176]
    stp     x24, x25, [sp, #192]
    stp     x26, x27, [sp, #208]
    stp     x28, x29, [sp, #224]
    mrs     x2, elr_\el
    mrs     x3, spsr_\el
    mrs     x4, esr_\el
    mrs     x5, far_\el
    mrs     x6, sp_el0
    stp     x30, x2, [sp, #240]
    stp     x3, x4, [sp, #256]
    stp     x5, x6, [sp, #272]
    mov     x1, x0
    mov     x0, sp
    bl      kdraw_exception
    ldr     x2, [sp, #248]
    msr     elr_\el, x2
    ldp     x2, x3, [sp, #16]
    ldp     x4, x5, [sp, #32]
    ldp     x6, x7, [sp, #48]
    ldp     x8, x9, [sp, #64]
    ldp     x10, x11, [sp, #80]
    ldp     x12, x13, [sp, #96]
    ldp     x14, x15, [sp, #112]
    ldp     x16, x17, [sp, #128]
    ldp     x18, x19, [sp, #144]
    ldr     x30, [sp, #240]
    ldp     x0, x1, [sp], #288
    eret
    .endm

    .section .text.vectors, "ax"
    vector_table el1
    vector_table el2
    .balign 128
    save    el1
    save    el2

// evidence_copy(x0 to, x1 from, x2 bytes: a multiple of 64, not 0) -> x0: 0 copied, 1 faulted.
//
// The only code that loads from the crashed kernel's memory. An abort or SError in it comes
// back as a result (kdraw_exception sends it to evidence_copy_fault); SErrors are let in only
// here, and the barrier before the end makes those of its own loads arrive while they are.
    .global evidence_copy, evidence_copy_end, evidence_copy_fault
evidence_copy:
    msr     daifclr, #4
1:  ldp     x3, x4, [x1]
    ldp     x5, x6, [x1, #16]
    ldp     x7, x8, [x1, #32]
    ldp     x9, x10, [x1, #48]
    add     x1, x1, #64
    stp     x3, x4, [x0]
    stp     x5, x6, [x0, #16]
    stp     x7, x8, [x0, #32]
    stp     x9, x10, [x0, #48]
    add     x0, x0, #64
    subs    x2, x2, #64
    b.ne    1b
    dsb     sy
    isb
evidence_copy_end:
    msr     daifset, #4
    isb
    mov     x0, #0
    ret
evidence_copy_fault:
    msr     daifset, #4
    isb
    mov     x0, #1
    ret
