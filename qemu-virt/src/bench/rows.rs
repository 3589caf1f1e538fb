//! What is measured: one row per machine and way to save its memory.
//!
//! The rows of a group take turns, so that a change of the host's load meets all of them.

use crate::disk_bus::DiskBus;
use crate::material::Suite;
use crate::scenario::kdump::{Method, RESERVATION};
use crate::scenario::{Compress, DumpOptions};

/// What saves the memory of the kernel that panicked.
#[derive(Clone, Copy, Debug)]
pub enum Tool {
    /// kdraw, told so.
    Kdraw(DumpOptions),
    /// A second Linux, told so.
    Kdump(Method),
    /// Nothing: the Linux that runs writes onto the dump partition, past its page cache. What a
    /// driver that is not ours gets out of the same device.
    Dd,
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Host time.
    Time,
    /// The guest's instructions.
    Instructions,
    /// Only whether it works.
    Function,
}

/// A row of the table.
#[derive(Clone, Debug)]
pub struct Row {
    /// The rows among which it is compared.
    pub group: &'static str,
    /// What tells it from the others of its group, beside the tool.
    pub at: String,
    pub kernel: Suite,
    /// RAM in MiB.
    pub mem: u64,
    pub cpus: u32,
    /// How the disk is attached.
    pub disk: DiskBus,
    /// The most bytes that QEMU lets it move in a second; 0 is no limit.
    pub disk_limit: u64,
    /// Memory that the guest fills before it panics, in MiB.
    pub fill: u64,
    /// The crash region, as on the kernel's command line.
    pub reserved: &'static str,
    pub tool: Tool,
    pub measure: Measure,
    pub runs: usize,
}

/// The names by which groups are chosen and told.
pub mod group {
    /// The comparison proper: 6.1, 1 GiB, 2 CPUs.
    pub const CORE: &str = "core";
    /// Kernels that makedumpfile refuses.
    pub const KERNELS: &str = "kernels";
    /// Along the number of CPUs.
    pub const CPUS: &str = "cpus";
    /// Along the size of RAM, half of it filled.
    pub const MEMORY: &str = "memory";
    /// Along the size of RAM, the same amount filled.
    pub const GROWTH: &str = "growth";
    /// Along the kinds of disk.
    pub const DISKS: &str = "disks";
    /// Counted instructions.
    pub const INSTRUCTIONS: &str = "instructions";
    /// How small the crash region may be.
    pub const RESERVATION: &str = "reservation";
    /// What is done with a dump afterwards, on this machine.
    pub const HOST: &str = "host";
}

/// Every page as it is.
const LEVEL_0_RAW: Tool = kdraw(0, Compress::None);
/// Every page, compressed.
const LEVEL_0: Tool = kdraw(0, Compress::Lz4);
/// The kernel's own pages, compressed.
const LEVEL_31: Tool = kdraw(31, Compress::Lz4);

const MAKEDUMPFILE_0_RAW: Tool = kdump("-d 0", "makedumpfile -d 0 /proc/vmcore /mnt/vmcore");
const MAKEDUMPFILE_0: Tool = kdump("-l -d 0", "makedumpfile -l -d 0 /proc/vmcore /mnt/vmcore");
const MAKEDUMPFILE_31: Tool = kdump("-l -d 31", "makedumpfile -l -d 31 /proc/vmcore /mnt/vmcore");
const MAKEDUMPFILE_31_ZSTD: Tool =
    kdump("-z -d 31", "makedumpfile -z -d 31 /proc/vmcore /mnt/vmcore");
const MAKEDUMPFILE_0_ZSTD: Tool = kdump("-z -d 0", "makedumpfile -z -d 0 /proc/vmcore /mnt/vmcore");
/// All that can be done where makedumpfile refuses the kernel.
const COPY: Tool = kdump("cp", "cp /proc/vmcore /mnt/vmcore");
/// More than one CPU in the crash kernel.
const MAKEDUMPFILE_0_THREADS: Tool = Tool::Kdump(Method {
    name: "-l -d 0, 2 CPUs",
    command: "makedumpfile -l -d 0 --num-threads 2 /proc/vmcore /mnt/vmcore",
    cpus: 2,
});

const fn kdraw(level: u8, compress: Compress) -> Tool {
    Tool::Kdraw(DumpOptions {
        level,
        compress: Some(compress),
        cpus: 0,
    })
}

const fn kdump(name: &'static str, command: &'static str) -> Tool {
    Tool::Kdump(Method {
        name,
        command,
        cpus: 1,
    })
}

impl Tool {
    /// Tells the tool and what it was told.
    pub fn name(&self) -> String {
        match self {
            Self::Kdraw(options) => {
                let packed = match options.compress {
                    Some(Compress::None) => "raw",
                    Some(Compress::Deflate) => "Deflate",
                    // The tool's choice for a disk.
                    Some(Compress::Lz4) | None => "LZ4",
                };
                format!("kdraw {} {packed}", options.level)
            }
            Self::Kdump(method) => format!("kdump {}", method.name),
            Self::Dd => "Linux dd".into(),
        }
    }
}

impl Row {
    /// The name by which it is told and chosen, alone in the table.
    pub fn name(&self) -> String {
        let at = if self.at.is_empty() {
            String::new()
        } else {
            format!(" {}", self.at)
        };
        format!("{}{at}: {}", self.group, self.tool.name())
    }

    /// Whether it needs a QEMU in which a CPU that waits for an event (WFE) does wait, as in 11.1:
    /// in 7.2 it keeps a core of the host busy, which CPUs at work then lack.
    pub fn newest_qemu(&self) -> bool {
        self.group == group::CPUS
    }
}

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// The core rows, once or twice.
    Quick,
    /// All that is published.
    Default,
    /// Also the smallest crash region of kdump, and kdump on two CPUs.
    Full,
}

/// Returns the rows; `runs` is how often those of the core are run.
pub fn all(extent: Extent, runs: usize) -> Vec<Row> {
    let base = Row {
        group: group::CORE,
        at: String::new(),
        kernel: Suite::Bookworm,
        mem: 1024,
        cpus: 2,
        disk: DiskBus::VirtioMmio,
        disk_limit: 0,
        fill: 512,
        reserved: "",
        tool: LEVEL_31,
        measure: Measure::Time,
        runs,
    };
    let mut rows = Vec::new();
    let mut add = |base: &Row, tools: &[(Tool, usize)]| {
        for (tool, runs) in tools {
            rows.push(Row {
                tool: *tool,
                runs: *runs,
                reserved: match tool {
                    _ if !base.reserved.is_empty() => base.reserved,
                    Tool::Kdraw(_) => "8M",
                    Tool::Kdump(_) => RESERVATION,
                    Tool::Dd => "",
                },
                ..base.clone()
            });
        }
    };
    let core = [
        LEVEL_31,
        MAKEDUMPFILE_31,
        LEVEL_0,
        MAKEDUMPFILE_0,
        LEVEL_0_RAW,
        MAKEDUMPFILE_0_RAW,
    ];
    add(&base, &core.map(|tool| (tool, runs)));
    // One CPU: with more of them, what those that wait execute would count too.
    let counted = Row {
        group: group::INSTRUCTIONS,
        cpus: 1,
        measure: Measure::Instructions,
        ..base.clone()
    };
    if extent == Extent::Quick {
        add(&counted, &[(LEVEL_31, 1), (MAKEDUMPFILE_31, 1)]);
        return rows;
    }
    add(
        &base,
        &[(MAKEDUMPFILE_31_ZSTD, 3), (MAKEDUMPFILE_0_ZSTD, 2)],
    );
    if extent == Extent::Full {
        add(&base, &[(MAKEDUMPFILE_0_THREADS, 1)]);
    }
    add(&counted, &core.map(|tool| (tool, 2)));
    for (kernel, at) in [(Suite::Trixie, "6.12"), (Suite::Sid, "7.x")] {
        let base = Row {
            group: group::KERNELS,
            at: at.into(),
            kernel,
            ..base.clone()
        };
        add(&base, &[(LEVEL_31, 3), (LEVEL_0, 3), (COPY, 3)]);
    }
    for cpus in [1, 4] {
        let base = Row {
            group: group::CPUS,
            at: cpus.to_string(),
            cpus,
            ..base.clone()
        };
        add(
            &base,
            &[
                (LEVEL_31, 3),
                (LEVEL_0, 7),
                (MAKEDUMPFILE_31, 2),
                (MAKEDUMPFILE_0, 1),
            ],
        );
    }
    for (mem, at) in [(2048, "2 GiB"), (4096, "4 GiB")] {
        let base = Row {
            group: group::MEMORY,
            at: at.into(),
            mem,
            fill: mem / 2,
            ..base.clone()
        };
        add(
            &base,
            &[
                (LEVEL_31, 3),
                (LEVEL_0, 3),
                (MAKEDUMPFILE_31, 2),
                (MAKEDUMPFILE_0, 1),
            ],
        );
    }
    for (mem, at) in [
        (1024, "1 GiB"),
        (2048, "2 GiB"),
        (4096, "4 GiB"),
        (8192, "8 GiB"),
    ] {
        let base = Row {
            group: group::GROWTH,
            at: at.into(),
            mem,
            ..base.clone()
        };
        add(&base, &[(LEVEL_31, 3)]);
    }
    for (disk, at) in [
        (DiskBus::VirtioMmio, "virtio"),
        (DiskBus::Nvme, "nvme"),
        (DiskBus::Sdhci, "sdhci"),
    ] {
        let base = Row {
            group: group::DISKS,
            at: at.into(),
            disk,
            ..base.clone()
        };
        // As many bytes as there can be, and nothing else to do: the device is what is measured.
        add(&base, &[(LEVEL_0_RAW, 3), (Tool::Dd, 2)]);
    }
    for (disk, at) in [
        (DiskBus::VirtioMmio, "virtio, 10 MB/s"),
        (DiskBus::Sdhci, "sdhci, 10 MB/s"),
    ] {
        let base = Row {
            group: group::DISKS,
            at: at.into(),
            disk,
            // What a card of speed class 10 writes: the medium is the bound, as on a board.
            disk_limit: 10_000_000,
            ..base.clone()
        };
        add(&base, &[(LEVEL_31, 3)]);
    }
    let mut smallest = |tool: Tool, sizes: &[&'static str]| {
        for reserved in sizes {
            let base = Row {
                group: group::RESERVATION,
                at: (*reserved).into(),
                reserved,
                measure: Measure::Function,
                ..base.clone()
            };
            add(&base, &[(tool, 1)]);
        }
    };
    smallest(LEVEL_31, &["4M"]);
    if extent == Extent::Full {
        smallest(MAKEDUMPFILE_31, &["72M", "68M"]);
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        for extent in [Extent::Quick, Extent::Default, Extent::Full] {
            let mut seen = std::collections::HashSet::new();
            for row in all(extent, 5) {
                assert!(seen.insert(row.name()), "{} twice", row.name());
            }
        }
    }
}
