//! Builds the elfcorehdr: where the dead kernel's notes and memory will be.
//!
//! One `PT_NOTE` per CPU that has a note buffer, one for VMCOREINFO, one `PT_LOAD` per range of
//! RAM; all offsets are physical addresses. No `PT_LOAD` for the kernel image: the payload needs
//! none, and finding `_text` is what stock kexec fails at on kernels without KALLSYMS_ALL.
//! Source: `fs/proc/vmcore.c`, `kernel/crash_core.c` (`crash_prepare_elf64_headers`),
//! Documentation/ABI/testing/sysfs-devices-system-cpu (`crash_notes`).

use kdraw_format::addr::PhysRange;

use crate::error::Error;
use crate::system::System;

const IDENT: [u8; 16] = [0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const ET_CORE: u16 = 4;
const EM_AARCH64: u16 = 183;
const EHDR_LEN: u16 = 64;
const PHDR_LEN: u16 = 56;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const RWX: u32 = 7;

/// Physical address and length of a note buffer.
pub type NotePlace = (u64, u64);

/// Reads where the running kernel keeps its notes: one place per CPU in their order, and
/// VMCOREINFO's last.
///
/// # Errors
/// [`Error::Io`] or [`Error::Content`]; a CPU without a buffer is left out.
pub fn notes(system: &System) -> Result<Vec<NotePlace>, Error> {
    const CPUS: &str = "/sys/devices/system/cpu";
    let folder = system.path(CPUS);
    let mut numbers: Vec<u32> = std::fs::read_dir(&folder)
        .map_err(Error::io("list", &folder))?
        .filter_map(|entry| {
            let name = entry.ok()?.file_name();
            name.to_str()?.strip_prefix("cpu")?.parse().ok()
        })
        .collect();
    numbers.sort_unstable();
    let mut places = Vec::new();
    for number in numbers {
        let file = format!("{CPUS}/cpu{number}/crash_notes");
        if system.exists(&file) {
            let address = hexadecimal(system, &file, &system.text(&file)?)?;
            places.push((address, system.number(&format!("{file}_size"))?));
        }
    }
    const VMCOREINFO: &str = "/sys/kernel/vmcoreinfo";
    let text = system.text(VMCOREINFO)?;
    let (address, size) = text.split_once(' ').unwrap_or((&text, ""));
    places.push((
        hexadecimal(system, VMCOREINFO, address)?,
        hexadecimal(system, VMCOREINFO, size)?,
    ));
    Ok(places)
}

/// How many CPUs `notes` come from: the last one is VMCOREINFO's.
pub fn cpus(notes: &[NotePlace]) -> u64 {
    (notes.len() as u64).saturating_sub(1).max(1)
}

fn hexadecimal(system: &System, file: &str, text: &str) -> Result<u64, Error> {
    let digits = text.trim().trim_start_matches("0x");
    u64::from_str_radix(digits, 16).map_err(|_| Error::Content {
        path: system.path(file),
        found: text.chars().take(40).collect(),
        expected: "a hexadecimal number",
    })
}

/// Builds the header.
///
/// # Errors
/// [`Error::NoRoom`] if there are more ranges than program headers.
pub fn build(notes: &[NotePlace], memory: &[PhysRange]) -> Result<Vec<u8>, Error> {
    let headers = notes.len().saturating_add(memory.len());
    let count = u16::try_from(headers)
        .ok()
        .filter(|count| *count < u16::MAX)
        .ok_or(Error::NoRoom {
            what: "an elfcorehdr",
            need: headers as u64,
            room: u64::from(u16::MAX),
            hint: "this machine has more CPUs and memory ranges than ELF program headers",
        })?;
    let mut out = Vec::new();
    out.extend(IDENT);
    out.extend(ET_CORE.to_le_bytes());
    out.extend(EM_AARCH64.to_le_bytes());
    out.extend(1u32.to_le_bytes()); // e_version
    out.extend(0u64.to_le_bytes()); // e_entry
    out.extend(u64::from(EHDR_LEN).to_le_bytes()); // e_phoff
    out.extend(0u64.to_le_bytes()); // e_shoff
    out.extend(0u32.to_le_bytes()); // e_flags
    for half in [EHDR_LEN, PHDR_LEN, count, 0, 0, 0] {
        out.extend(half.to_le_bytes());
    }
    for (address, len) in notes {
        program_header(&mut out, PT_NOTE, 0, *address, *len);
    }
    for range in memory {
        program_header(&mut out, PT_LOAD, RWX, range.start.0, range.len());
    }
    Ok(out)
}

fn program_header(out: &mut Vec<u8>, kind: u32, flags: u32, address: u64, len: u64) {
    out.extend(kind.to_le_bytes());
    out.extend(flags.to_le_bytes());
    // p_offset, p_vaddr, p_paddr, p_filesz, p_memsz, p_align
    for word in [address, 0, address, len, len, 0] {
        out.extend(word.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kdraw_format::addr::PhysAddr;
    use kdraw_linux::elfcorehdr::{Claim, ElfCoreHdr};
    use std::fs;

    #[test]
    fn notes_come_in_cpu_order_and_the_reader_finds_everything() {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        for (cpu, address) in [(0, "7f001000"), (2, "7f003000"), (10, "7f00b000")] {
            let folder = format!("sys/devices/system/cpu/cpu{cpu}");
            put(&format!("{folder}/crash_notes"), address);
            put(&format!("{folder}/crash_notes_size"), "424\n");
        }
        put("sys/devices/system/cpu/cpufreq/x", "");
        put("sys/devices/system/cpu/cpu3/online", "0");
        put("sys/kernel/vmcoreinfo", "0x41234000 1024\n");
        let notes = notes(&System::new(root.path())).unwrap();
        assert_eq!(
            notes,
            [
                (0x7f00_1000, 424),
                (0x7f00_3000, 424),
                (0x7f00_b000, 424),
                (0x4123_4000, 0x1024),
            ]
        );
        let memory = [PhysRange {
            start: PhysAddr(0x4000_0000),
            end: PhysAddr(0x7f00_0000),
        }];
        let bytes = build(&notes, &memory).unwrap();
        let header = ElfCoreHdr::parse(&bytes).unwrap();
        assert_eq!(header.notes().count(), 4);
        let loads: Vec<_> = header.loads().collect();
        assert_eq!(
            loads,
            [Claim {
                start: PhysAddr(0x4000_0000),
                len: 0x3f00_0000
            }]
        );
    }

    #[test]
    fn garbage_in_sysfs_is_named() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("sys/devices/system/cpu")).unwrap();
        fs::create_dir_all(root.path().join("sys/kernel")).unwrap();
        fs::write(root.path().join("sys/kernel/vmcoreinfo"), "what\n").unwrap();
        let error = notes(&System::new(root.path())).unwrap_err();
        assert!(error.to_string().contains("vmcoreinfo"), "{error}");
    }
}
