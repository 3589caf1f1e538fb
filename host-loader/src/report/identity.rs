//! Which kernel crashed, on what, and when.

use kdraw_kernel::Kernel;
use kdraw_kernel::read::printable;
use kdraw_linux::uname::Uname;
use serde::Serialize;

use super::capture::Capture;
use super::log::Log;
use crate::text;

/// The most bytes of a command line.
const COMMAND_LINE: usize = 4096;
/// The most properties of a device tree's root.
const PROPERTIES: usize = 64;

/// Which kernel crashed, on what, and when; what is not known is absent.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Identity {
    /// The machine's name.
    pub hostname: Option<String>,
    /// The kernel's release.
    pub release: Option<String>,
    /// Its version: when it was built, and by whom.
    pub version: Option<String>,
    /// Its build id.
    pub build_id: Option<String>,
    /// The board, as the device tree or the firmware names it.
    pub model: Option<String>,
    /// What the device tree's root is compatible with, the most special first.
    pub compatible: Vec<String>,
    /// The kinds of CPUs: how many, and which.
    pub cpus: Vec<CpuKind>,
    /// Bytes of memory that the kernel had.
    pub memory_bytes: Option<u64>,
    /// The boot's id, as /proc/sys/kernel/random/boot_id had it.
    pub boot_id: Option<String>,
    /// Nanoseconds from boot to the log's last record.
    pub uptime_ns: Option<u64>,
    /// When it crashed, in seconds since 1970.
    pub crash_time: Option<u64>,
    /// The same for people.
    pub crashed: Option<String>,
    /// The kernel's command line.
    pub command_line: Option<String>,
}

/// CPUs of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CpuKind {
    /// How many.
    pub count: u64,
    /// Their name, such as `Cortex-A72 r0p3`; `None` if that is not known.
    pub name: Option<String>,
}

impl Identity {
    /// Reads what the kernel says of itself.
    pub fn of(kernel: &Kernel<'_>) -> Self {
        let info = kernel.vmcoreinfo();
        let uname = Uname::read(kernel.virt(), &info).unwrap_or_default();
        let field = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let own = |text: &str| Some(printable(text.as_bytes()));
        let (model, compatible) = device_tree(kernel).unwrap_or_default();
        Self {
            hostname: field(&uname.nodename),
            release: field(&uname.release).or_else(|| info.key("OSRELEASE").and_then(own)),
            version: field(&uname.version),
            build_id: info.build_id().and_then(own),
            model: model.or_else(|| {
                // "Hardware name" of traces: by the device tree or by DMI.
                let at = kernel.symbol("dump_stack_arch_desc_str")?;
                let name = kernel.read_text(at, 128).ok()?;
                field(name.strip_suffix(" (DT)").unwrap_or(&name))
            }),
            compatible,
            cpus: cpus(kernel),
            memory_bytes: memory(kernel),
            boot_id: boot_id(kernel),
            command_line: kernel.symbol("saved_command_line").and_then(|at| {
                let text = kernel.read_text(kernel.read_u64(at).ok()?, COMMAND_LINE);
                field(text.ok()?.trim_end())
            }),
            crash_time: info.crash_time().filter(|time| *time > 0),
            ..Self::default()
        }
    }

    /// Adds what the capture noted and the log tells, where the kernel's memory does not.
    pub fn add_told(&mut self, capture: &Capture, log: Option<&Log>) {
        let told = &capture.told;
        let or = |own: &mut Option<String>, other: Option<&String>| {
            if own.is_none() {
                *own = other.filter(|text| !text.is_empty()).cloned();
            }
        };
        let uname = |index: usize| told.uname.get(index);
        or(&mut self.hostname, uname(1).or(told.hostname.as_ref()));
        or(&mut self.release, uname(2).or(told.os_release.as_ref()));
        or(&mut self.version, uname(3));
        or(&mut self.build_id, told.build_id.as_ref());
        or(&mut self.model, told.model.as_ref());
        if let Some(log) = log {
            or(&mut self.model, log.model.as_ref());
            or(&mut self.command_line, log.command_line.as_ref());
            self.uptime_ns = log.uptime_ns();
        }
        let told_time = told.crash_time.filter(|time| *time > 0);
        self.crash_time = self.crash_time.or(told_time);
        self.crashed = self.crash_time.map(text::time);
    }
}

/// Model and `compatible` of the device tree's root.
fn device_tree(kernel: &Kernel<'_>) -> Option<(Option<String>, Vec<String>)> {
    let root = kernel.read_u64(kernel.symbol("of_root")?).ok()?;
    let root = kernel.object("struct device_node", root).ok()?;
    let (mut model, mut compatible) = (None, Vec::new());
    let mut next = root.follow("properties").ok()?;
    for _ in 0..PROPERTIES {
        let Some(property) = next else { break };
        let name = property.field("name").and_then(|name| name.text());
        let value = || -> Option<Vec<u8>> {
            let len = usize::try_from(property.get("length").ok()?).ok()?;
            let mut bytes = vec![0; len.min(4096)];
            kernel.read(property.get("value").ok()?, &mut bytes).ok()?;
            Some(bytes)
        };
        let texts = |bytes: Vec<u8>| -> Vec<String> {
            let texts = bytes.split(|byte| *byte == 0).map(printable);
            texts.filter(|text| !text.is_empty()).collect()
        };
        match name.as_deref() {
            Ok("model") => model = value().and_then(|bytes| texts(bytes).into_iter().next()),
            Ok("compatible") => compatible = value().map(texts).unwrap_or_default(),
            _ => {}
        }
        next = property.follow("next").ok().flatten();
    }
    Some((model, compatible))
}

/// The CPUs, those of one kind together.
fn cpus(kernel: &Kernel<'_>) -> Vec<CpuKind> {
    let mut kinds: Vec<CpuKind> = Vec::new();
    for cpu in kernel.cpus().unwrap_or_default() {
        let data = kernel.per_cpu("cpu_data", "struct cpuinfo_arm64", cpu);
        let midr = data.and_then(|data| data.get("reg_midr"));
        let name = midr.ok().filter(|midr| *midr != 0).map(cpu_name);
        match kinds.iter_mut().find(|kind| kind.name == name) {
            Some(kind) => kind.count = kind.count.saturating_add(1),
            None => kinds.push(CpuKind { count: 1, name }),
        }
    }
    kinds
}

/// A CPU's name by MIDR_EL1: implementer in bits 31:24, variant 23:20, part 15:4, revision 3:0.
///
/// Source: Arm ARM, MIDR_EL1; the part numbers from each core's technical reference manual.
fn cpu_name(midr: u64) -> String {
    const ARM: [(u64, &str); 27] = [
        (0xd03, "Cortex-A53"),
        (0xd04, "Cortex-A35"),
        (0xd05, "Cortex-A55"),
        (0xd07, "Cortex-A57"),
        (0xd08, "Cortex-A72"),
        (0xd09, "Cortex-A73"),
        (0xd0a, "Cortex-A75"),
        (0xd0b, "Cortex-A76"),
        (0xd0c, "Neoverse-N1"),
        (0xd0d, "Cortex-A77"),
        (0xd0e, "Cortex-A76AE"),
        (0xd40, "Neoverse-V1"),
        (0xd41, "Cortex-A78"),
        (0xd42, "Cortex-A78AE"),
        (0xd44, "Cortex-X1"),
        (0xd46, "Cortex-A510"),
        (0xd47, "Cortex-A710"),
        (0xd48, "Cortex-X2"),
        (0xd49, "Neoverse-N2"),
        (0xd4b, "Cortex-A78C"),
        (0xd4d, "Cortex-A715"),
        (0xd4e, "Cortex-X3"),
        (0xd4f, "Neoverse-V2"),
        (0xd80, "Cortex-A520"),
        (0xd81, "Cortex-A720"),
        (0xd82, "Cortex-X4"),
        (0xd8e, "Neoverse-N3"),
    ];
    let (implementer, part) = (midr >> 24 & 0xff, midr >> 4 & 0xfff);
    let known = ARM.iter().find(|(number, _)| *number == part);
    let name = match (implementer, known) {
        (0x41, Some((_, name))) => (*name).to_owned(),
        (0x41, None) => format!("Arm part {part:#x}"),
        _ => format!("implementer {implementer:#x}, part {part:#x}"),
    };
    format!("{name} r{}p{}", midr >> 20 & 0xf, midr & 0xf)
}

/// Bytes of memory that the kernel manages.
fn memory(kernel: &Kernel<'_>) -> Option<u64> {
    let pages = kernel.read_u64(kernel.symbol("_totalram_pages")?).ok()?;
    let page = kernel.vmcoreinfo().page_size().unwrap_or(4096);
    pages.checked_mul(page).filter(|bytes| *bytes > 0)
}

fn boot_id(kernel: &Kernel<'_>) -> Option<String> {
    let mut id = [0; 16];
    kernel.read(kernel.symbol("sysctl_bootid")?, &mut id).ok()?;
    // It is made when somebody first asks for it.
    (id != [0; 16]).then(|| text::uuid(&id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_have_the_names_of_their_manuals() {
        for (midr, expected) in [
            (0x410f_d083, "Cortex-A72 r0p3"),
            (0x412f_d050, "Cortex-A55 r2p0"),
            (0x411f_dff0, "Arm part 0xdff r1p0"),
            (0x610f_0221, "implementer 0x61, part 0x22 r0p1"),
        ] {
            assert_eq!(cpu_name(midr), expected, "{midr:#x}");
        }
    }
}
