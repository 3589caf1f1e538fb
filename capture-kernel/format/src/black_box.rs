//! The black box: the small first chunk of a dump, and all of a journal record.
//!
//! It is durable before any page is read, so that even a capture that dies at once leaves
//! the reason, the registers and the end of the log. Its data is [`crate::records`] with the
//! tags below; text is UTF-8 and not terminated.

/// Bytes that a black-box chunk takes at most: one journal record.
pub const BLACK_BOX_CHUNK: usize = crate::layout::JOURNAL_RECORD as usize;

/// The tags of the black box's records.
pub mod tag {
    /// Text: the panic's reason, one line.
    pub const REASON: u16 = 1;
    /// Text: OSRELEASE of VMCOREINFO.
    pub const OS_RELEASE: u16 = 2;
    /// Text: BUILD-ID of VMCOREINFO, 40 hexadecimal digits.
    pub const BUILD_ID: u16 = 3;
    /// u64: CRASHTIME of VMCOREINFO, seconds since 1970.
    pub const CRASH_TIME: u16 = 4;
    /// Text: uname's sysname, nodename, release, version, machine, each ended by a newline.
    pub const UNAME: u16 = 5;
    /// Text: `/model` of the device tree.
    pub const MODEL: u16 = 6;
    /// Text: the host name as the plan has it.
    pub const HOSTNAME: u16 = 7;
    /// One per CPU: u32 number in note order, u32 pid, then x0–x30, sp, pc, pstate (34 × u64).
    pub const CPU: u16 = 8;
    /// Text: the end of the kernel log; the last record.
    pub const LOG_TAIL: u16 = 9;
    /// Text: the payload's version.
    pub const PAYLOAD_VERSION: u16 = 10;
    /// u64 × 4: MPIDR of the CPU that the payload runs on, CurrentEL (1 or 2), 1 if VHE, SCTLR
    /// at entry.
    pub const ENTRY: u16 = 11;
    /// u64 × 2: the crash region's first byte and the byte after its last.
    pub const CRASH_REGION: u16 = 12;
    /// u64: XXH64 of the payload image, to find the capture.elf that decodes its log.
    pub const PAYLOAD_HASH: u16 = 13;
}

/// Bytes of one [`tag::CPU`] record.
pub const CPU_RECORD: usize = 8 + 34 * 8;
