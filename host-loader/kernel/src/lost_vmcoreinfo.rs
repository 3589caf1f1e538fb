//! VMCOREINFO of a dump whose notes lack it, found in the memory itself.
//!
//! QEMU's `dump-guest-memory` and `virsh dump` know of VMCOREINFO only if the machine has the
//! device `vmcoreinfo` and the guest a driver for it. But the kernel makes it when it boots, at
//! the start of a page (`vmcoreinfo_data`), and as a note at the start of another
//! (`vmcoreinfo_note`), to which a crash adds `CRASHTIME`.
//!
//! Memory may have others: of an earlier kernel, of a guest's guest, of whoever reads dumps. The
//! right one fits this memory: the page tables that it names lead to where it says that the image
//! is, and the kernel's own name there is the one that it tells. Of several that fit, one with
//! `CRASHTIME` is taken.
//!
//! Source: `kernel/vmcore_info.c` (formerly `crash_core.c`); QEMU `docs/specs/vmcoreinfo.rst`.

use kdraw_format::addr::{FRAME_SIZE, PhysAddr};
use kdraw_linux::layout::KernelLayout;
use kdraw_linux::memory::PhysMem;
use kdraw_linux::notes::{NoteIter, NoteWriter, VMCOREINFO_NAME};
use kdraw_linux::translate::VirtMem;
use kdraw_linux::uname::Uname;
use kdraw_linux::vmcoreinfo::Vmcoreinfo;

use crate::page_cache::PageCache;

/// How the text begins.
const FIRST: &[u8] = b"OSRELEASE=";
/// How the note begins, after its lengths: type 0 and the name, padded.
const NAMED: &[u8] = b"\0\0\0\0VMCOREINFO\0\0";
/// Frames that are read at once: 64 KiB, one page of the largest kind.
const AT_ONCE: u64 = 16;
/// The longest text or note, in frames; kernels write one.
const MAX_FRAMES: u64 = 16;

/// Searches frames for VMCOREINFO; returns it as a note.
pub fn search(
    memory: &dyn PhysMem,
    frames: impl IntoIterator<Item = (u64, u64)>,
) -> Option<Vec<u8>> {
    let mut known = None;
    let mut bytes = vec![0; (AT_ONCE * FRAME_SIZE) as usize];
    for (first, end) in frames {
        let mut frame = first;
        while frame < end {
            // Pieces lie as pages do, of whatever size.
            let next = frame.saturating_add(1).next_multiple_of(AT_ONCE).min(end);
            let len = next.saturating_sub(frame).saturating_mul(FRAME_SIZE);
            let piece = bytes.get_mut(..len as usize)?;
            let whole = memory
                .read(PhysAddr(frame.saturating_mul(FRAME_SIZE)), piece)
                .is_ok();
            for (number, page) in (frame..next).zip(piece.chunks_exact_mut(FRAME_SIZE as usize)) {
                let at = PhysAddr(number.saturating_mul(FRAME_SIZE));
                if !whole && memory.read(at, page).is_err() {
                    continue;
                }
                let Some(note) = begins(page).then(|| candidate(memory, at)).flatten() else {
                    continue;
                };
                let info = Vmcoreinfo::from_notes(&note)?;
                if info.crash_time().is_some() {
                    return Some(note);
                }
                known.get_or_insert(note);
            }
            frame = next;
        }
    }
    known
}

fn begins(page: &[u8]) -> bool {
    page.starts_with(FIRST) || page.get(8..).is_some_and(|rest| rest.starts_with(NAMED))
}

/// The note or text at an address, if it is this kernel's; as a note.
fn candidate(memory: &dyn PhysMem, at: PhysAddr) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut page = [0; FRAME_SIZE as usize];
    for number in 0..MAX_FRAMES {
        let at = at.checked_add(number.saturating_mul(FRAME_SIZE))?;
        if memory.read(at, &mut page).is_err() {
            break;
        }
        bytes.extend_from_slice(&page);
        // A text ends with a zero; a note tells its length.
        if bytes.starts_with(FIRST) && page.contains(&0) {
            break;
        }
    }
    let note = NoteIter::new(&bytes).next();
    let info = match note.filter(|note| note.name == VMCOREINFO_NAME) {
        Some(note) => Vmcoreinfo::new(note.desc),
        None => Vmcoreinfo::new(&bytes),
    };
    fits(memory, &info)?;
    let text = info.text();
    let mut note = vec![0; text.len().saturating_add(64)];
    let mut writer = NoteWriter::new(&mut note, 0);
    writer.push(VMCOREINFO_NAME, 0, text)?;
    let len = writer.len();
    note.truncate(len);
    Some(note)
}

/// Whether it tells of the kernel that this memory is of.
fn fits(memory: &dyn PhysMem, info: &Vmcoreinfo<'_>) -> Option<()> {
    let layout = KernelLayout::from_vmcoreinfo(info).ok()?;
    let virt = VirtMem::new(PageCache::new(memory), layout);
    let mapping = virt.walk(layout.stext).ok()?;
    let inside = layout.stext.0.checked_sub(mapping.va.0)?;
    let is_there =
        Some(mapping.pa.0.checked_add(inside)?) == layout.image_pa(layout.stext).map(|pa| pa.0);
    let uname = Uname::read(&virt, info)?;
    (is_there && info.key("OSRELEASE") == Some(uname.release.as_str())).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{PA, Ram, VA};

    const RELEASE: &str = "6.1.0-56-arm64";

    /// A kernel with page tables, in whose memory is what `put` puts there.
    fn found(put: &dyn Fn(&mut Ram, &str)) -> Option<String> {
        let mut ram = Ram::default();
        // The image's 2 MiB block, by tables of three levels below the root's.
        for (level, table) in (0u64..3).zip([0x1_000u64, 0x2_000, 0x3_000]) {
            let index = VA >> (39 - 9 * level) & 0x1ff;
            let next = match level {
                2 => PA | 1,
                _ => (PA + table + 0x1000) | 3,
            };
            ram.put_words(table + index * 8, &[next]);
        }
        let text = format!(
            "OSRELEASE={RELEASE}\nPAGESIZE=4096\nSYMBOL(swapper_pg_dir)={:x}\n\
             SYMBOL(_stext)={:x}\nNUMBER(VA_BITS)=48\nNUMBER(kimage_voffset)=0x{:x}\n\
             NUMBER(PHYS_OFFSET)=0x0\nSYMBOL(init_uts_ns)={:x}\n\
             OFFSET(uts_namespace.name)=0\n",
            VA + 0x1000,
            VA + 0x1_0000,
            VA - PA,
            VA + 0x1_8000,
        );
        for (number, field) in (0u64..).zip(["Linux", "host", RELEASE, "#1", "aarch64"]) {
            ram.put(0x1_8000 + number * 65, field.as_bytes());
        }
        ram.put(0x1_8000 + 5 * 65, &[0]);
        put(&mut ram, &text);
        let first = PA / 4096;
        let note = search(&ram, [(first, first + 512)])?;
        Some(String::from_utf8(Vmcoreinfo::from_notes(&note)?.text().to_vec()).unwrap())
    }

    fn as_note(text: &str) -> Vec<u8> {
        let mut note = vec![0; 4096];
        let mut writer = NoteWriter::new(&mut note, 0);
        writer.push(VMCOREINFO_NAME, 0, text.as_bytes()).unwrap();
        note
    }

    #[test]
    fn the_kernels_own_is_found() {
        assert_eq!(found(&|_, _| {}), None);
        let text = found(&|ram, text| ram.put(0x2_0000, text.as_bytes())).unwrap();
        assert!(text.starts_with("OSRELEASE=6.1"), "{text}");
        assert_eq!(
            found(&|ram, text| ram.put(0x2_0010, text.as_bytes())),
            None,
            "it begins with a page"
        );
        let text = found(&|ram, text| {
            ram.put(0x2_0000, text.as_bytes());
            ram.put(0x2_4000, &as_note(&format!("{text}CRASHTIME=17\n")));
        });
        assert!(text.unwrap().ends_with("CRASHTIME=17\n"), "the newest");
    }

    #[test]
    fn anothers_is_not_taken() {
        for (from, to) in [
            ("OSRELEASE=6.1", "OSRELEASE=6.2"),
            (
                "swapper_pg_dir)=ffff80008000",
                "swapper_pg_dir)=ffff80008001",
            ),
            (
                "kimage_voffset)=0xffff8000400",
                "kimage_voffset)=0xffff8000401",
            ),
            ("VA_BITS)=48", "VA_BITS)=99"),
        ] {
            let other = |ram: &mut Ram, text: &str| {
                assert!(text.contains(from), "{text}");
                ram.put(0x2_0000, text.replace(from, to).as_bytes());
            };
            assert_eq!(found(&other), None, "{to}");
        }
    }
}
