//! Which kernel crashed: the initial UTS namespace's `struct new_utsname`.
//!
//! Six strings of 65 bytes at `init_uts_ns + OFFSET(uts_namespace.name)`. 5.10 does not export
//! the offset; its release is VMCOREINFO's `OSRELEASE`.
//!
//! Source: `include/uapi/linux/utsname.h`, `kernel/vmcore_info.c`.

use heapless::String;
use kdraw_format::addr::KernelVirtAddr;

use crate::memory::PhysMem;
use crate::translate::VirtMem;
use crate::vmcoreinfo::Vmcoreinfo;

/// Bytes of one string, with its NUL (`__NEW_UTS_LEN` + 1).
const FIELD_LEN: usize = 65;

/// A string of `struct new_utsname`.
pub type Field = String<64>;

/// What `uname` would have said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uname {
    /// `Linux`.
    pub sysname: Field,
    /// The host name.
    pub nodename: Field,
    /// Such as `6.12.107+deb13-arm64`.
    pub release: Field,
    /// Such as `#1 SMP Debian 6.12.107-1 (2026-11-01)`.
    pub version: Field,
    /// `aarch64`.
    pub machine: Field,
}

impl Uname {
    /// Reads it; `None` if VMCOREINFO does not say where, or if what stands there is no
    /// printable text beginning with `Linux`.
    pub fn read<M: PhysMem>(virt: &VirtMem<M>, info: &Vmcoreinfo) -> Option<Self> {
        let namespace = info.symbol("init_uts_ns")?;
        let at = namespace.0.wrapping_add(info.offset("uts_namespace.name")?);
        let mut bytes = [0; FIELD_LEN * 5];
        virt.read(KernelVirtAddr(at), &mut bytes).ok()?;
        let mut fields = bytes.chunks_exact(FIELD_LEN).map(field);
        let mut next = || fields.next().flatten();
        let uname = Self {
            sysname: next()?,
            nodename: next()?,
            release: next()?,
            version: next()?,
            machine: next()?,
        };
        (uname.sysname == "Linux").then_some(uname)
    }
}

fn field(bytes: &[u8]) -> Option<Field> {
    let text = bytes.split(|byte| *byte == 0).next()?;
    if !text.iter().all(|byte| matches!(byte, b' '..=b'~')) {
        return None;
    }
    Field::try_from(core::str::from_utf8(text).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::tests::Ram;
    use crate::translate::tests::layout;

    const INFO: &[u8] = b"SYMBOL(init_uts_ns)=ffff800080100000\nOFFSET(uts_namespace.name)=4\n";

    #[test]
    fn strings_lie_65_bytes_apart() {
        let mut ram = Ram::default();
        let fields = [
            "Linux",
            "board",
            "6.12.107+deb13-arm64",
            "#1 SMP",
            "aarch64",
        ];
        for (at, text) in (0x4010_0004..).step_by(65).zip(fields) {
            ram.put(at, text.as_bytes());
        }
        let virt = VirtMem::new(&ram, layout(12, 48, 48));
        let uname = Uname::read(&virt, &Vmcoreinfo::new(INFO)).unwrap();
        assert_eq!((&*uname.nodename, &*uname.machine), ("board", "aarch64"));
        assert_eq!(
            (&*uname.release, &*uname.version),
            ("6.12.107+deb13-arm64", "#1 SMP")
        );
        // 5.10 exports no offset.
        let old = Vmcoreinfo::new(b"SYMBOL(init_uts_ns)=ffff800080100000\n");
        assert_eq!(Uname::read(&virt, &old), None);
        // Overwritten, unterminated, unreadable.
        for (at, bytes) in [
            (0x4010_0045, &[0xffu8; 3][..]),
            (0x4010_0004, b"Linuz"),
            (0x4010_0045, &[b'x'; 65]),
        ] {
            let mut bad = Ram::default();
            bad.put(0x4010_0004, b"Linux");
            bad.put(at, bytes);
            let virt = VirtMem::new(&bad, layout(12, 48, 48));
            assert_eq!(Uname::read(&virt, &Vmcoreinfo::new(INFO)), None);
        }
        let nothing = Ram::default();
        assert_eq!(
            Uname::read(
                &VirtMem::new(&nothing, layout(12, 48, 48)),
                &Vmcoreinfo::new(INFO)
            ),
            None
        );
    }
}
