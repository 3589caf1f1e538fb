//! VMCOREINFO: the crashed kernel's own table of symbols, sizes and offsets, as text.
//!
//! Lines of `KEY=value`, some keys typed: `SYMBOL(name)=hex`, `OFFSET(struct.member)=decimal`,
//! `SIZE(name)`, `LENGTH(name)`, `NUMBER(name)`. What a kernel can do is always decided by a
//! key's presence, never by its version. Lookups scan the text (3–4 KiB) anew: no table, no heap.
//!
//! Source: `include/linux/vmcore_info.h` (formerly `crash_core.h`),
//! `arch/arm64/kernel/vmcore_info.c`.

use kdraw_format::addr::KernelVirtAddr;

use crate::notes::{NoteIter, VMCOREINFO_NAME};

/// A view of the VMCOREINFO text.
#[derive(Clone, Copy, Debug)]
pub struct Vmcoreinfo<'a> {
    text: &'a [u8],
}

impl<'a> Vmcoreinfo<'a> {
    /// Views `text`, up to the first NUL.
    pub fn new(text: &'a [u8]) -> Self {
        Self {
            text: text.split(|&byte| byte == 0).next().unwrap_or_default(),
        }
    }

    /// Finds the note `VMCOREINFO` among `notes`.
    pub fn from_notes(notes: &'a [u8]) -> Option<Self> {
        NoteIter::new(notes)
            .find(|note| note.name == VMCOREINFO_NAME)
            .map(|note| Self::new(note.desc))
    }

    /// The whole text.
    pub fn text(&self) -> &'a [u8] {
        self.text
    }

    /// The value of a plain key such as `OSRELEASE`; `None` if absent or not UTF-8.
    pub fn key(&self, key: &str) -> Option<&'a str> {
        self.value(|line| line.strip_prefix(key.as_bytes())?.strip_prefix(b"="))
    }

    /// `SYMBOL(name)`: a kernel virtual address.
    pub fn symbol(&self, name: &str) -> Option<KernelVirtAddr> {
        u64::from_str_radix(self.typed("SYMBOL", name)?, 16)
            .ok()
            .map(KernelVirtAddr)
    }

    /// Every `SYMBOL`. Not all are addresses of the image: `vmemmap` is a value.
    pub fn symbols(&self) -> impl Iterator<Item = KernelVirtAddr> + use<'a> {
        self.text.split(|&byte| byte == b'\n').filter_map(|line| {
            let line = core::str::from_utf8(line.strip_prefix(b"SYMBOL(")?).ok()?;
            let (_, value) = line.split_once(")=")?;
            u64::from_str_radix(value, 16).ok().map(KernelVirtAddr)
        })
    }

    /// `OFFSET(struct.member)`, in bytes.
    pub fn offset(&self, member: &str) -> Option<u64> {
        self.typed("OFFSET", member)?.parse().ok()
    }

    /// `SIZE(name)`, in bytes.
    pub fn size(&self, name: &str) -> Option<u64> {
        self.typed("SIZE", name)?.parse().ok()
    }

    /// `LENGTH(name)`, in array elements.
    pub fn length(&self, name: &str) -> Option<u64> {
        self.typed("LENGTH", name)?.parse().ok()
    }

    /// `NUMBER(name)`: decimal, possibly negative, or hexadecimal with `0x`. A number above
    /// `i64::MAX` (an address) comes out negative; cast it back to `u64`.
    pub fn number(&self, name: &str) -> Option<i64> {
        let text = self.typed("NUMBER", name)?;
        match text.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).ok().map(u64::cast_signed),
            None => text
                .parse()
                .ok()
                .or_else(|| text.parse().ok().map(u64::cast_signed)),
        }
    }

    /// `KERNELOFFSET`: how far KASLR moved the image; hexadecimal without `0x`.
    pub fn kernel_offset(&self) -> Option<u64> {
        u64::from_str_radix(self.key("KERNELOFFSET")?, 16).ok()
    }

    /// `PAGESIZE` if it is one that arm64 has: 4, 16 or 64 KiB.
    pub fn page_size(&self) -> Option<u64> {
        self.key("PAGESIZE")?
            .parse()
            .ok()
            .filter(|size| [4096, 16384, 65536].contains(size))
    }

    /// `CRASHTIME`: when it crashed, seconds since 1970. Only a crashing kernel adds it.
    pub fn crash_time(&self) -> Option<u64> {
        self.key("CRASHTIME")?.parse().ok()
    }

    /// `BUILD-ID` if it is one: 40 hexadecimal digits. Some stable kernels (5.15.168 and later,
    /// 6.1.113–118, 6.6.55–62, 6.10.14, 6.11.3–9) print garbage there.
    pub fn build_id(&self) -> Option<&'a str> {
        self.key("BUILD-ID")
            .filter(|id| id.len() == 40 && id.bytes().all(|digit| digit.is_ascii_hexdigit()))
    }

    fn typed(&self, kind: &str, name: &str) -> Option<&'a str> {
        self.value(|line| {
            let name_on = line.strip_prefix(kind.as_bytes())?.strip_prefix(b"(")?;
            name_on.strip_prefix(name.as_bytes())?.strip_prefix(b")=")
        })
    }

    /// What the first line has that `value_of` accepts.
    fn value(&self, value_of: impl Fn(&'a [u8]) -> Option<&'a [u8]>) -> Option<&'a str> {
        let value = self.text.split(|&byte| byte == b'\n').find_map(value_of)?;
        core::str::from_utf8(value).ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &[u8] = b"OSRELEASE=6.12.107+deb13-arm64\nBUILD-ID=0123456789abcdef0123456789abcdef01234567\n\
PAGESIZE=4096\nSYMBOL(_stext)=ffffd8b7c4e10000\nOFFSET(uts_namespace.name)=0\nSIZE(page)=64\n\
LENGTH(zone.free_area)=11\nNUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)=-129\nNUMBER(kimage_voffset)=0xffffd8b784c00000\n\
NUMBER(TCR_EL1_T1SZ)=0x10\nKERNELOFFSET=58b744e00000\nSYMBOL(bad)=xyz\nCRASHTIME=1700000000\n\0SIZE(hidden)=1\n";

    #[test]
    fn each_kind_of_key_is_read_in_its_own_base() {
        let info = Vmcoreinfo::new(TEXT);
        assert_eq!(info.key("OSRELEASE"), Some("6.12.107+deb13-arm64"));
        assert_eq!(
            info.symbol("_stext"),
            Some(KernelVirtAddr(0xffff_d8b7_c4e1_0000))
        );
        assert_eq!(info.offset("uts_namespace.name"), Some(0));
        assert_eq!(info.size("page"), Some(64));
        assert_eq!(info.length("zone.free_area"), Some(11));
        assert_eq!(info.number("PAGE_BUDDY_MAPCOUNT_VALUE"), Some(-129));
        assert_eq!(info.number("TCR_EL1_T1SZ"), Some(16));
        assert_eq!(
            info.number("kimage_voffset").map(i64::cast_unsigned),
            Some(0xffff_d8b7_84c0_0000)
        );
        assert_eq!(info.kernel_offset(), Some(0x58b7_44e0_0000));
        assert_eq!(info.page_size(), Some(4096));
        assert_eq!(info.crash_time(), Some(1_700_000_000));
        assert!(info.build_id().is_some());
        // Absent, malformed, of another kind, behind the end.
        assert_eq!(info.symbol("_text"), None);
        assert_eq!(info.symbol("bad"), None);
        assert_eq!(info.offset("page"), None);
        assert_eq!(info.size("hidden"), None);
    }

    #[test]
    fn a_garbage_build_id_or_page_size_is_none() {
        for text in [
            "BUILD-ID=\u{1}\u{2}",
            "BUILD-ID=0123",
            "PAGESIZE=8192",
            "PAGESIZE=",
            "",
        ] {
            let info = Vmcoreinfo::new(text.as_bytes());
            assert_eq!(
                (info.build_id(), info.page_size()),
                (None, None),
                "{text:?}"
            );
        }
        assert_eq!(Vmcoreinfo::new(b"BUILD-ID=\xff\xfe\n").build_id(), None);
    }

    proptest! {
        #[test]
        fn any_text_is_searched_to_its_end(text in proptest::collection::vec(any::<u8>(), 0..400)) {
            let info = Vmcoreinfo::new(&text);
            let _ = (info.symbol("a"), info.number("a"), info.key(""), info.offset(""));
        }
    }
}
