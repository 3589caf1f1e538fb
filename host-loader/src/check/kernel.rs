//! The machine and its kernel: can anything be loaded at all?

use std::io::Read;

use flate2::read::GzDecoder;

use crate::check::facts::Facts;
use crate::check::finding::Judgement;
use crate::load::machine::{self, NotReady};
use crate::system::System;

/// What the kernel must be built with.
const OPTIONS: [&str; 2] = ["CONFIG_KEXEC", "CONFIG_CRASH_DUMP"];
/// The configuration of the running kernel (CONFIG_IKCONFIG_PROC).
const CONFIG_GZ: &str = "/proc/config.gz";
/// More than any kernel's configuration has, in bytes.
const MAX_CONFIG: u64 = 16 << 20;
/// The EFI variable whose fifth byte says whether Secure Boot is on (UEFI 2.10, 3.3).
const SECURE_BOOT: &str =
    "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";

/// An arm64 machine, and we are root.
pub fn machine(facts: &Facts<'_>) -> Judgement {
    match machine::may_load(facts.system) {
        Ok(()) => Judgement::green("arm64, and this process may load"),
        Err(why @ NotReady::NotRoot(_)) => Judgement::red(why.to_string()).fix("sudo kdraw check"),
        Err(why) => Judgement::red(why.to_string()),
    }
}

/// The running kernel was built for it.
pub fn options(facts: &Facts<'_>) -> Judgement {
    let system = facts.system;
    let release = system.kernel_release();
    let file = format!("/boot/config-{release}");
    let (name, text) = if let Some(text) = unpacked(system) {
        (CONFIG_GZ.to_owned(), text)
    } else if let Ok(text) = system.text(&file) {
        (file, text)
    } else if facts.loaded.is_ok() {
        return Judgement::green("it has loaded a crash image");
    } else {
        return Judgement::amber(format!(
            "neither {CONFIG_GZ} nor {file} tells what it was built with"
        ))
        .fix("modprobe configs");
    };
    judge(&[(name, text)])
}

/// Every kernel in /boot was built for it.
pub fn options_of_all(facts: &Facts<'_>) -> Judgement {
    let entries = std::fs::read_dir(facts.system.path("/boot"));
    let names = entries.into_iter().flatten().flatten();
    let mut names: Vec<String> = names
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with("config-"))
        .map(|name| format!("/boot/{name}"))
        .collect();
    names.sort();
    let with_text = |name: String| Some((name.clone(), facts.system.text(&name).ok()?));
    let configs: Vec<_> = names.into_iter().filter_map(with_text).collect();
    if configs.is_empty() {
        return Judgement::amber("no /boot/config-* tells what the kernel was built with");
    }
    judge(&configs)
}

fn judge(configs: &[(String, String)]) -> Judgement {
    let mut names = Vec::new();
    for (name, text) in configs {
        let is_set = |option: &&str| text.lines().any(|line| line == format!("{option}=y"));
        let missing: Vec<&str> = OPTIONS.into_iter().filter(|it| !is_set(it)).collect();
        if !missing.is_empty() {
            let options: Vec<String> = missing
                .iter()
                .map(|option| format!("-e {}", option.trim_start_matches("CONFIG_")))
                .collect();
            return Judgement::red(format!("built without {} ({name})", missing.join(", "))).fix(
                format!(
                    "scripts/config {} && make  # in the kernel's source",
                    options.join(" ")
                ),
            );
        }
        names.push(name.as_str());
    }
    Judgement::green(format!(
        "built with {} ({})",
        OPTIONS.join(", "),
        names.join(", ")
    ))
}

/// The text of /proc/config.gz.
fn unpacked(system: &System) -> Option<String> {
    let packed = system.bytes(CONFIG_GZ).ok()?;
    let mut text = String::new();
    let mut unpacked = GzDecoder::new(packed.as_slice()).take(MAX_CONFIG);
    unpacked.read_to_string(&mut text).ok()?;
    Some(text)
}

/// It takes a crash image.
pub fn kexec(facts: &Facts<'_>) -> Judgement {
    let secure = facts.system.bytes(SECURE_BOOT).ok();
    let secure = secure.and_then(|found| found.get(4).copied()) == Some(1);
    match machine::kexec_is_allowed(facts.system) {
        Ok(()) if secure => {
            Judgement::green("allowed; Secure Boot is on, but the kernel is not locked down")
        }
        Ok(()) => Judgement::green("allowed: neither switched off nor locked down"),
        Err(why @ (NotReady::Disabled { .. } | NotReady::LockedDown(_)))
            if facts.loaded.is_ok() =>
        {
            Judgement::green(format!("{why}; what was loaded before stays loaded"))
        }
        Err(why @ NotReady::Disabled { sysctl, .. }) => {
            let file = setter(facts.system, sysctl);
            Judgement::red(why.to_string()).fix(format!("sed -i /{sysctl}/d {file} && reboot"))
        }
        Err(why @ NotReady::LockedDown(_)) if secure => {
            Judgement::red(why.to_string()).fix("mokutil --disable-validation && reboot")
        }
        Err(why @ NotReady::LockedDown(_)) => {
            Judgement::red(why.to_string()).fix("remove lockdown= from the command line; reboot")
        }
        Err(why) => Judgement::red(why.to_string()).fix("install a kernel with CONFIG_KEXEC=y"),
    }
}

/// The file that sets a sysctl at boot, or all that may.
fn setter(system: &System, sysctl: &str) -> String {
    let folders = ["/etc/sysctl.d", "/usr/lib/sysctl.d"].into_iter();
    let below = folders.flat_map(|folder| {
        let entries = std::fs::read_dir(system.path(folder)).into_iter().flatten();
        let names = entries.flatten().map(|entry| entry.file_name());
        names.map(move |name| format!("{folder}/{}", name.to_string_lossy()))
    });
    let mut files = ["/etc/sysctl.conf".to_owned()].into_iter().chain(below);
    let found = files.find(|file| {
        let text = system.text(file).unwrap_or_default();
        text.lines()
            .any(|line| !line.trim_start().starts_with('#') && line.contains(sysctl))
    });
    found.unwrap_or_else(|| "/etc/sysctl.conf /etc/sysctl.d/*.conf".to_owned())
}
