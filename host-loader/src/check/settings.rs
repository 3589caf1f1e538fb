//! What makes the kernel panic, and what it does then: what the configuration asks for, beside
//! what the running kernel has.
//!
//! Sources: Linux Documentation/admin-guide/sysctl/kernel.rst, Documentation/admin-guide/sysrq.rst,
//! Documentation/admin-guide/kernel-parameters.txt (crash_kexec_post_notifiers).

use crate::check::facts::Facts;
use crate::check::finding::Judgement;
use crate::check::fix::{self, Remedy};
use crate::config::Panic;

/// Where the kernel's settings are.
pub const SYSCTL: &str = "/proc/sys/kernel";
/// Where the kernel shows whether notifiers come first.
pub const POST_NOTIFIERS: &str = "/sys/module/kernel/parameters/crash_kexec_post_notifiers";
/// The bit of kernel.sysrq for what dumps processes and such, sysrq-c too
/// (`drivers/tty/sysrq.c`, SYSRQ_ENABLE_DUMP); 1 stands for everything.
const SYSRQ_DUMP: i64 = 8;

/// A setting that is to be 1 at least.
fn wanted(facts: &Facts<'_>, name: &'static str, asked: bool, without: &str) -> Judgement {
    let Ok(text) = facts.system.text(format!("{SYSCTL}/{name}")) else {
        return match asked {
            true => Judgement::red(format!("asked for, but this kernel has no kernel.{name}"))
                .fix(format!("{name} = false in /etc/kdraw.conf")),
            false => Judgement::green(format!("this kernel has no kernel.{name}; not asked for")),
        };
    };
    match (text.parse::<i64>().unwrap_or(0) > 0, asked) {
        (true, _) => Judgement::green(text),
        (false, false) => Judgement::green(format!("{text}; not asked for")),
        (false, true) => {
            Remedy::Sysctl { name, value: 1 }.judge(format!("kernel.{name} is {text}: {without}"))
        }
    }
}

impl Remedy {
    /// Red, and this sets it right.
    fn judge(self, reason: String) -> Judgement {
        let fix = self.command();
        Judgement::red(reason).fix(fix).remedy(self)
    }
}

/// An oops is a panic.
pub fn panic_on_oops(facts: &Facts<'_>) -> Judgement {
    let asked = facts.config.panic.panic_on_oops;
    let without = "an oops would not be captured";
    wanted(facts, "panic_on_oops", asked, without)
}

/// A hung task is a panic, if asked for.
pub fn hung_task_panic(facts: &Facts<'_>) -> Judgement {
    let asked = facts.config.panic.hung_task_panic;
    let without = "a hung task would not be captured";
    wanted(facts, "hung_task_panic", asked, without)
}

/// A soft lockup is a panic, if asked for.
pub fn softlockup_panic(facts: &Facts<'_>) -> Judgement {
    let asked = facts.config.panic.softlockup_panic;
    let without = "a soft lockup would not be captured";
    wanted(facts, "softlockup_panic", asked, without)
}

/// A hard lockup is a panic, if asked for.
pub fn hardlockup_panic(facts: &Facts<'_>) -> Judgement {
    let asked = facts.config.panic.hardlockup_panic;
    let without = "a hard lockup would not be captured";
    wanted(facts, "hardlockup_panic", asked, without)
}

/// The console's sysrq-c works.
pub fn sysrq(facts: &Facts<'_>) -> Judgement {
    let asked = facts.config.panic.sysrq;
    let Ok(text) = facts.system.text(format!("{SYSCTL}/sysrq")) else {
        return match asked {
            true => Judgement::red("asked for, but this kernel has no CONFIG_MAGIC_SYSRQ")
                .fix("sysrq = false in /etc/kdraw.conf"),
            false => Judgement::green("this kernel has no CONFIG_MAGIC_SYSRQ; not asked for"),
        };
    };
    let found = text.parse().unwrap_or(0);
    if found == 1 || found & SYSRQ_DUMP != 0 {
        return Judgement::green(text);
    }
    if !asked {
        return Judgement::green(format!("{text}; not asked for"));
    }
    Remedy::Sysctl {
        name: "sysrq",
        value: found | SYSRQ_DUMP,
    }
    .judge(format!(
        "kernel.sysrq is {text}, without the bit {SYSRQ_DUMP}: the console's sysrq-c does nothing"
    ))
}

/// A panic that is not captured ends in a reboot.
pub fn panic(facts: &Facts<'_>) -> Judgement {
    let asked = facts.config.panic.panic;
    let text = facts.system.text(format!("{SYSCTL}/panic"));
    let text = text.unwrap_or_else(|_| "0".to_owned());
    match (text.as_str(), asked) {
        ("0", 0) => Judgement::green("0; not asked for"),
        ("0", seconds) => Remedy::Sysctl {
            name: "panic",
            value: seconds.into(),
        }
        .judge("kernel.panic is 0: a panic that is not captured hangs for ever".to_owned()),
        _ => Judgement::green(format!(
            "{text} (seconds until a panic that is not captured reboots)"
        )),
    }
}

/// The capture does not wait for code of the broken kernel.
pub fn post_notifiers(facts: &Facts<'_>) -> Judgement {
    let asked = facts.config.panic.crash_kexec_post_notifiers;
    let first = facts.system.text(POST_NOTIFIERS).is_ok_and(|it| it == "Y");
    match (first, asked) {
        (false, false) => Judgement::green("N"),
        (true, true) => Judgement::green("Y, as asked for"),
        (true, false) => Remedy::PostNotifiers(false).judge(
            "Y: the broken kernel's own panic notifiers run before the capture, and may hang"
                .to_owned(),
        ),
        (false, true) => Remedy::PostNotifiers(true)
            .judge("N: the kernel's panic notifiers are asked for, but do not run".to_owned()),
    }
}

/// What a system that is not running will have is asked for in its files.
pub fn of_image(facts: &Facts<'_>) -> Judgement {
    let asked = asked(&facts.config.panic);
    let missing: Vec<_> = asked
        .into_iter()
        .filter(|(name, value)| fix::persistent(facts.system, name) != Some(*value))
        .collect();
    if missing.is_empty() {
        return Judgement::green(format!("{} sets what is asked for", fix::SYSCTL_FILE));
    }
    let names: Vec<&str> = missing.iter().map(|(name, _)| *name).collect();
    let reason = format!("{} does not set {}", fix::SYSCTL_FILE, names.join(", "));
    Judgement::red(reason)
        .fix(fix::COMMAND)
        .remedy(Remedy::Persist(missing))
}

/// The sysctls that the configuration asks for.
fn asked(panic: &Panic) -> Vec<(&'static str, i64)> {
    [
        ("panic_on_oops", i64::from(panic.panic_on_oops)),
        ("hung_task_panic", panic.hung_task_panic.into()),
        ("softlockup_panic", panic.softlockup_panic.into()),
        ("hardlockup_panic", panic.hardlockup_panic.into()),
        ("panic", panic.panic.into()),
    ]
    .into_iter()
    .filter(|(_, value)| *value != 0)
    .collect()
}
