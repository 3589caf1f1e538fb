//! What a capture needs, one requirement after the other: is it so, why not, and what fixes it.
//!
//! - [`facts`]: what the requirements are judged by, looked up once.
//! - [`finding`]: what came of a requirement, and how it is shown.
//! - [`kernel`], [`place`], [`board`], [`settings`], [`service`], [`files`]: the requirements.
//! - [`fix`]: what of it can be set right here and now.
//! - [`rehearsal`]: the capture that `kdraw test` walks through without a crash.
//!
//! Red is what a panic now, or the next boot, would fail at, or what the configuration asks for in
//! vain; amber is what works with less than it could, or could not be told.

pub mod board;
pub mod facts;
pub mod files;
pub mod finding;
pub mod fix;
pub mod kernel;
pub mod place;
pub mod rehearsal;
pub mod service;
pub mod settings;

use facts::Facts;
use finding::{Finding, Judgement};

/// A requirement: its name, and how it is judged.
pub type Requirement = (&'static str, fn(&Facts<'_>) -> Judgement);

/// What a capture of the running system needs, in the order in which it is set up.
const RUNNING: &[Requirement] = &[
    ("machine", kernel::machine),
    ("configuration", files::configuration),
    ("kernel", kernel::options),
    ("kexec", kernel::kexec),
    ("payload", place::payload),
    ("crash region", place::crash_region),
    ("device tree", board::device_tree),
    ("console", board::console),
    ("reset", board::reset),
    ("watchdog", board::watchdog),
    ("storage", place::storage),
    ("target", place::target),
    ("room", place::room),
    ("loaded", place::loaded),
    ("panic_on_oops", settings::panic_on_oops),
    ("sysrq", settings::sysrq),
    ("hung_task_panic", settings::hung_task_panic),
    ("softlockup_panic", settings::softlockup_panic),
    ("hardlockup_panic", settings::hardlockup_panic),
    ("panic", settings::panic),
    ("crash_kexec_post_notifiers", settings::post_notifiers),
    ("service", service::service),
    ("save", files::save),
];

/// What an image of a system tells before it is booted.
const IMAGE: &[Requirement] = &[
    ("configuration", files::configuration),
    ("kernel", kernel::options_of_all),
    ("panic settings", settings::of_image),
    ("service", service::service),
];

/// Judges every requirement.
pub fn all(facts: &Facts<'_>) -> Vec<Finding> {
    let requirements = match facts.is_image {
        true => IMAGE,
        false => RUNNING,
    };
    judge(requirements, facts)
}

/// Judges some requirements.
fn judge(requirements: &[Requirement], facts: &Facts<'_>) -> Vec<Finding> {
    let finding = |(name, look): &Requirement| look(facts).of(name);
    requirements.iter().map(finding).collect()
}
