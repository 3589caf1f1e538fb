//! Has the boot loader ask Linux for the crash region: `crashkernel=` on the kernel's command line.
//!
//! - [`crashkernel`] knows what Linux makes of every form of the option, [`kdump_rules`] what kdump
//!   would take, [`suggestion`] what this machine needs.
//! - One file for each boot loader, in the table [`BOOT_LOADERS`]: [`extlinux`], [`raspberry_pi`],
//!   [`armbian`], [`grub`], [`systemd_boot`], [`kernel_install`], [`u_boot_menu`],
//!   [`flash_kernel`]; and [`device_tree`] for a blob that is named.
//! - They share [`command_line`], [`shell`] for settings that are shell files, [`lines`] for others,
//!   and [`root`], which keeps to the inside of an image.
//! - What they propose is a [`proposal`], shown as a diff; [`change`] makes it and takes it back.
//!
//! A system may have settings for several boot loaders, and which one starts it cannot be told from
//! its files; so all get the option, and one that is not used does no harm.

pub mod armbian;
pub mod change;
pub mod command_line;
pub mod crashkernel;
pub mod device_tree;
pub mod extlinux;
pub mod flash_kernel;
pub mod grub;
pub mod kdump_rules;
pub mod kernel_install;
pub mod lines;
pub mod proposal;
pub mod raspberry_pi;
pub mod root;
pub mod shell;
pub mod suggestion;
pub mod systemd_boot;
pub mod u_boot_menu;

use crashkernel::NAME;
use proposal::Proposal;
use root::Root;
use serde::Serialize;

use crate::error::Error;

/// Where a kind of boot loader, or what makes its configuration, keeps the kernel's command line.
pub trait BootLoader: Sync {
    /// What people call it.
    fn name(&self) -> &'static str;

    /// The files that it reads, whether they are there or not.
    fn files(&self, root: &Root) -> Vec<String>;

    /// Proposes what makes it pass `crashkernel=VALUE`: one proposal for each file of it that
    /// matters, changed or not. None if the system has no such boot loader.
    ///
    /// # Errors
    /// [`Error`] if a file cannot be read or understood.
    fn propose(&self, root: &Root, value: &str) -> Result<Vec<Proposal>, Error>;

    /// What has to be run after a change.
    fn afterwards(&self, root: &Root) -> Option<Afterwards>;
}

/// All of them.
pub static BOOT_LOADERS: [&dyn BootLoader; 8] = [
    &extlinux::Extlinux,
    &raspberry_pi::RaspberryPi,
    &armbian::Armbian,
    &systemd_boot::SystemdBoot,
    &kernel_install::KernelInstall,
    &grub::Grub,
    &u_boot_menu::UBootMenu,
    &flash_kernel::FlashKernel,
];

/// Programs of kdump, and the services that run them.
const RIVALS: [(&str, &str); 2] = [
    ("/usr/sbin/kdump-config", "kdump-tools"),
    ("/usr/bin/kdumpctl", "kdump"),
];

/// A command that makes a change count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Afterwards {
    /// The program and its arguments.
    pub command: Vec<&'static str>,
    /// Whether kdraw may run it; if not, it only tells of it.
    pub may_run: bool,
}

impl Afterwards {
    /// A command that kdraw runs if it is told to make changes.
    pub fn run(command: &[&'static str]) -> Self {
        Self {
            command: command.to_vec(),
            may_run: true,
        }
    }

    /// A command that people run.
    pub fn tell(command: &[&'static str]) -> Self {
        Self {
            command: command.to_vec(),
            may_run: false,
        }
    }
}

/// What is proposed for a whole system.
#[derive(Clone, Debug, Default)]
pub struct Proposed {
    /// The boot loaders that were found.
    pub boot_loaders: Vec<&'static str>,
    /// One for each file.
    pub proposals: Vec<Proposal>,
    /// What is to be run if they are made.
    pub afterwards: Vec<Afterwards>,
    /// What people should know of the system.
    pub notes: Vec<String>,
}

/// Asks every boot loader.
///
/// # Errors
/// [`Error::NoBootLoader`] if there is none, or what one of them says.
pub fn propose(root: &Root, value: &str) -> Result<Proposed, Error> {
    let mut all = Proposed::default();
    for boot_loader in BOOT_LOADERS {
        let proposals = boot_loader.propose(root, value)?;
        if proposals.is_empty() {
            continue;
        }
        all.boot_loaders.push(boot_loader.name());
        if proposals.iter().any(Proposal::changes) {
            all.afterwards.extend(boot_loader.afterwards(root));
        }
        for proposal in proposals {
            // Two of them may read one file, or one file by two names; they want the same of it.
            if all
                .proposals
                .iter()
                .all(|other| other.real != proposal.real)
            {
                all.proposals.push(proposal);
            }
        }
    }
    let rivals = RIVALS.iter().filter(|(file, _)| root.has(file));
    all.notes.extend(rivals.map(|(_, service)| {
        format!(
            "kdump is installed, and its service loads a crash kernel that has no room in {NAME}{value} \
             but would take kdraw's place; `systemctl disable --now {service}` switches it off"
        )
    }));
    if all.proposals.is_empty() {
        let files = BOOT_LOADERS.iter().flat_map(|found| found.files(root));
        return Err(Error::NoBootLoader {
            root: root.folder().to_owned(),
            looked: files.collect::<Vec<_>>().join(", "),
        });
    }
    Ok(all)
}
