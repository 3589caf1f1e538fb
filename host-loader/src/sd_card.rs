//! What sysfs tells of the SD card or eMMC device that a disk is on.
//!
//! `…/mmc_host/mmc0/mmc0:0001/block/mmcblk0/mmcblk0p4`: the folder on the bus `mmc` is the card.
//! Source: Linux `drivers/mmc/core/sd.c`, `mmc.c`, the attributes `type` and `rca`.

use std::fs;
use std::path::{Path, PathBuf};

use kdraw_format::plan::Card;

use crate::controller::subsystem;

/// Finds the card above a disk; `None` if it is on none, or one that the payload has to identify
/// itself since sysfs does not tell its address.
pub fn of(disk: &Path) -> Option<Card> {
    let folder = disk
        .ancestors()
        .find(|folder| subsystem(folder).as_deref() == Some("mmc"))?;
    let text = |file| fs::read_to_string(folder.join(file)).ok();
    let rca = text("rca")?;
    let rca = u16::from_str_radix(rca.trim().strip_prefix("0x")?, 16).ok()?;
    match text("type")?.trim() {
        "SD" => Some(Card::Sd(rca)),
        "MMC" => Some(Card::Mmc(rca)),
        _ => None,
    }
}

/// Whether a disk is a hardware partition of an eMMC device, such as `mmcblk0boot0`: it has block
/// addresses of its own, which the payload does not select.
pub fn is_hardware_partition(disk: &Path) -> bool {
    let names = disk.ancestors().filter_map(Path::file_name);
    let mut names = names.filter_map(|name| name.to_str());
    names.any(|name| {
        let rest = name.strip_prefix("mmcblk");
        let rest = rest.map(|rest| rest.trim_start_matches(|c: char| c.is_ascii_digit()));
        rest.is_some_and(|rest| {
            ["boot", "gp", "rpmb"]
                .iter()
                .any(|kind| rest.starts_with(kind))
        })
    })
}

/// Keeps the card and everything above it out of runtime suspend, until the next boot: a
/// controller whose clock or power is off would not be seen at the crash. Returns what it could
/// not be done for.
pub fn keep_awake(disk: &Path) -> Vec<PathBuf> {
    let card = disk
        .ancestors()
        .skip_while(|folder| subsystem(folder).as_deref() != Some("mmc"));
    let controls = card.map(|folder| folder.join("power/control"));
    let is_auto =
        |path: &PathBuf| fs::read_to_string(path).is_ok_and(|control| control.trim() == "auto");
    controls
        .filter(is_auto)
        .filter(|path| fs::write(path, "on").is_err())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A card's disk with these files at the card, below a controller.
    fn disk(root: &Path, files: &[(&str, &str)]) -> PathBuf {
        let card = root.join("devices/platform/fe340000.mmc/mmc_host/mmc0/mmc0:0001");
        let disk = card.join("block/mmcblk0/mmcblk0p4");
        fs::create_dir_all(&disk).unwrap();
        symlink("/sys/bus/mmc", card.join("subsystem")).unwrap();
        for (file, text) in files {
            fs::write(card.join(file), text).unwrap();
        }
        disk
    }

    #[test]
    fn a_cards_kind_and_address_are_found() {
        for (files, expected) in [
            (
                &[("type", "SD\n"), ("rca", "0xaaaa\n")][..],
                Some(Card::Sd(0xaaaa)),
            ),
            (
                &[("type", "MMC\n"), ("rca", "0x0001\n")],
                Some(Card::Mmc(1)),
            ),
            (&[("type", "SDIO\n"), ("rca", "0x0001\n")], None),
            (&[("type", "SD\n"), ("rca", "nonsense\n")], None),
            (&[("type", "SD\n")], None),
        ] {
            let root = tempfile::tempdir().unwrap();
            assert_eq!(of(&disk(root.path(), files)), expected, "{files:?}");
        }
        assert_eq!(of(Path::new("/sys/devices/virtual/block/vda")), None);
    }

    #[test]
    fn boot_partitions_are_told_apart() {
        for (name, expected) in [
            ("mmcblk0/mmcblk0p4", false),
            ("mmcblk1", false),
            ("vda/vda4", false),
            ("mmcblk0boot0", true),
            ("mmcblk2boot1/mmcblk2boot1p1", true),
            ("mmcblk12gp0", true),
            ("mmcblk0rpmb", true),
        ] {
            assert_eq!(is_hardware_partition(Path::new(name)), expected, "{name}");
        }
    }

    #[test]
    fn the_way_to_the_card_is_kept_awake() {
        let root = tempfile::tempdir().unwrap();
        let disk = disk(root.path(), &[]);
        let control = |up: usize, text: &str| {
            let folder = disk.ancestors().nth(up).unwrap().join("power");
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("control"), text).unwrap();
            folder.join("control")
        };
        // The disk's own is its business; card, host class (never suspended), controller.
        let (own, card, class, controller) = (
            control(0, "auto\n"),
            control(3, "auto\n"),
            control(4, "on\n"),
            control(6, "auto\n"),
        );
        assert_eq!(keep_awake(&disk), Vec::<PathBuf>::new());
        let texts = [own, card, class, controller].map(|path| fs::read_to_string(path).unwrap());
        assert_eq!(texts, ["auto\n", "on", "on\n", "on"]);
    }
}
