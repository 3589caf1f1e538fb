//! The few ELF64 constants and layouts that an elfcorehdr and a vmcore consist of.
//!
//! Source: System V ABI (gABI) chapters 4 and 5; `include/uapi/linux/elf.h`.

/// Bytes of an ELF64 file header.
pub const EHDR_LEN: usize = 64;
/// Bytes of an ELF64 program header.
pub const PHDR_LEN: usize = 56;

/// Magic, class 64, little-endian, version 1.
pub(crate) const IDENT: [u8; 7] = [0x7f, b'E', b'L', b'F', 2, 1, 1];
/// `e_type`: core file.
pub(crate) const ET_CORE: u16 = 4;
/// `e_machine`: arm64.
pub(crate) const EM_AARCH64: u16 = 183;
/// `e_phnum`: the true number is `sh_info` of section header 0.
pub(crate) const PN_XNUM: u16 = 0xffff;
/// `p_type`: memory.
pub(crate) const PT_LOAD: u32 = 1;
/// `p_type`: notes.
pub(crate) const PT_NOTE: u32 = 4;

/// Offsets inside the file header.
pub(crate) mod ehdr {
    pub(crate) const TYPE: usize = 16;
    pub(crate) const MACHINE: usize = 18;
    pub(crate) const PHOFF: usize = 32;
    pub(crate) const SHOFF: usize = 40;
    pub(crate) const FLAGS: usize = 48;
    pub(crate) const PHENTSIZE: usize = 54;
    pub(crate) const PHNUM: usize = 56;
}

/// Offsets inside a program header.
pub(crate) mod phdr {
    pub(crate) const TYPE: usize = 0;
    pub(crate) const OFFSET: usize = 8;
    pub(crate) const MEMSZ: usize = 40;
}

/// Offset of `sh_info` inside a section header.
pub(crate) const SH_INFO: usize = 44;
