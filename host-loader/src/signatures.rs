//! File systems and other owners of a partition, told by their magic numbers.
//!
//! Only asked before `kdraw format` overwrites something. Sources: each project's on-disk
//! header, as util-linux's libblkid has them too.

use kdraw_format::walk::ReadAt;

/// Name, byte offset, magic.
const TABLE: &[(&str, u64, &[u8])] = &[
    ("an ext4 (or ext2, ext3) file system", 0x438, b"\x53\xef"),
    ("an XFS file system", 0, b"XFSB"),
    ("a btrfs file system", 0x1_0040, b"_BHRfS_M"),
    ("an F2FS file system", 0x400, b"\x10\x20\xf5\xf2"),
    ("a squashfs file system", 0, b"hsqs"),
    ("an EROFS file system", 0x400, b"\xe2\xe1\xf5\xe0"),
    ("an NTFS file system", 3, b"NTFS    "),
    ("an exFAT file system", 3, b"EXFAT   "),
    ("a FAT file system", 54, b"FAT"),
    ("a FAT32 file system", 82, b"FAT32   "),
    ("a UBI volume", 0, b"UBI#"),
    ("a JFS file system", 0x8000, b"JFS1"),
    ("an ISO 9660 file system", 0x8001, b"CD001"),
    ("a LUKS volume", 0, b"LUKS\xba\xbe"),
    ("an LVM physical volume", 0x218, b"LVM2 001"),
    ("a member of a Linux RAID", 0x1000, b"\xfc\x4e\x2b\xa9"),
    ("a member of a Linux RAID", 0, b"\xfc\x4e\x2b\xa9"),
    (
        "a bcache device",
        0x1018,
        b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca",
    ),
    ("a swap area", 0xff6, b"SWAPSPACE2"),
    ("a swap area", 0x3ff6, b"SWAPSPACE2"),
    ("a swap area", 0xfff6, b"SWAPSPACE2"),
    ("a ZFS member", 0x2_0000, b"\x0c\xb1\xba\0\0\0\0\0"),
    ("an Android boot image", 0, b"ANDROID!"),
];

/// Names what `device` holds, if it is in the table.
pub fn identify(device: &mut impl ReadAt) -> Option<&'static str> {
    TABLE
        .iter()
        .find(|(_, offset, magic)| {
            let mut found = vec![0; magic.len()];
            device.read_at(*offset, &mut found).is_ok() && found == *magic
        })
        .map(|(name, ..)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kdraw_format::walk::ReadFailed;

    struct Bytes(Vec<u8>);

    impl ReadAt for Bytes {
        fn read_at(&mut self, offset: u64, into: &mut [u8]) -> Result<(), ReadFailed> {
            let from = offset as usize;
            let found = self.0.get(from..from + into.len());
            into.copy_from_slice(found.ok_or(ReadFailed { offset })?);
            Ok(())
        }
    }

    #[test]
    fn each_magic_is_found_in_its_place_only() {
        for (name, offset, magic) in TABLE {
            let mut disk = vec![0; 256 << 10];
            disk[*offset as usize..][..magic.len()].copy_from_slice(magic);
            assert_eq!(identify(&mut Bytes(disk)), Some(*name));
        }
        assert_eq!(identify(&mut Bytes(vec![0; 256 << 10])), None);
        assert_eq!(identify(&mut Bytes(vec![0; 100])), None);
    }
}
