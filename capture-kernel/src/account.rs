//! What the black box tells: gathered from the crashed kernel by VMCOREINFO alone, each piece
//! if it can be had.

use kdraw_boards::machine::Machine;
use kdraw_format::addr::PhysRange;
use kdraw_format::black_box::{CPU_RECORD, tag};
use kdraw_format::records::RecordWriter;
use kdraw_linux::classify::{Classifier, ClassifyError};
use kdraw_linux::layout::KernelLayout;
use kdraw_linux::notes::PrStatus;
use kdraw_linux::panic_reason::PanicReason;
use kdraw_linux::printk::PrintkLog;
use kdraw_linux::translate::VirtMem;
use kdraw_linux::uname::Uname;
use kdraw_linux::vmcoreinfo::Vmcoreinfo;

use kdraw_pipeline::worth::Judge;

use crate::console::say;
use crate::entry::EntryState;
use crate::evidence::Evidence;
use crate::trust::Trusted;

/// Bytes of the black box kept for the end of the log, however many CPUs there are.
const LOG_TAIL: usize = 16 << 10;
/// The most that it takes if there is room for more: the whole log comes next.
const MAX_LOG_TAIL: usize = 24 << 10;

/// Bytes of log that are said on a line before a dump is sent over it: a third of a second at
/// 115,200 baud.
const SAID: usize = 4 << 10;

/// Why pages cannot be told apart.
#[derive(Debug, thiserror::Error)]
pub enum Untold {
    /// VMCOREINFO is missing, or does not say how the kernel lies in memory.
    #[error("nothing tells how the kernel lies in memory")]
    NoKernel,
    /// Its struct pages cannot be understood.
    #[error("{0}")]
    Classify(#[from] ClassifyError),
}

/// The crashed kernel, as far as it can be understood, and the circumstances.
pub struct Account<'a> {
    entry: &'a EntryState,
    machine: Machine<'a>,
    trusted: &'a Trusted,
    notes: &'a [u8],
    info: Option<Vmcoreinfo<'a>>,
    virt: Option<VirtMem<&'a Evidence>>,
}

impl<'a> Account<'a> {
    /// Looks at the merged `notes` and at memory through them.
    pub fn new(
        entry: &'a EntryState,
        machine: Machine<'a>,
        trusted: &'a Trusted,
        notes: &'a [u8],
        evidence: &'a Evidence,
    ) -> Self {
        let info = Vmcoreinfo::from_notes(notes);
        let layout = info
            .as_ref()
            .and_then(|info| KernelLayout::from_vmcoreinfo(info).ok());
        let virt = layout.map(|layout| VirtMem::new(evidence, layout));
        Self {
            entry,
            machine,
            trusted,
            notes,
            info,
            virt,
        }
    }

    /// The merged ELF notes.
    pub fn notes(&self) -> &'a [u8] {
        self.notes
    }

    /// The kernel's log, if it can be read.
    pub fn log(&self) -> Option<PrintkLog<'_, &'a Evidence>> {
        PrintkLog::open(self.virt.as_ref()?, self.info.as_ref()?).ok()
    }

    /// How the kernel lies in memory, and where its image is, for an ELF header.
    pub fn layout(&self) -> (Option<KernelLayout>, Option<PhysRange>) {
        let image = self.virt.as_ref().zip(self.info.as_ref());
        (
            self.virt.as_ref().map(|virt| *virt.layout()),
            image.and_then(|(virt, info)| virt.image(info)),
        )
    }

    /// How its pages are told apart.
    ///
    /// # Errors
    /// Why they cannot be.
    pub fn judge(&self) -> Result<Judge<'_, &'a Evidence>, Untold> {
        let (virt, info) = self
            .virt
            .as_ref()
            .zip(self.info.as_ref())
            .ok_or(Untold::NoKernel)?;
        Ok(Judge {
            classifier: Classifier::new(virt, info)?,
            virt,
            info,
        })
    }

    /// Says what a person wants to know first, for whoever only records the console: the reason
    /// and the end of the log.
    pub fn say(&self) {
        let Some(log) = self.log() else {
            say!("the crashed kernel's log cannot be read");
            return;
        };
        let mut end = [0; SAID];
        let len = log.tail(&mut end);
        let end = end.get(..len).unwrap_or_default();
        say!("the end of the crashed kernel's log:");
        for line in end.split(|byte| *byte == b'\n') {
            if let Ok(text) = core::str::from_utf8(line)
                && !text.is_empty()
            {
                say!("| {text}");
            }
        }
        if let Some(reason) = log.panic_reason().headline() {
            say!("reason: {reason}");
        }
    }

    /// Writes the black box's records, the most telling first.
    pub fn black_box(&self, records: &mut RecordWriter<'_>) {
        let (entry, plan) = (self.entry, &self.trusted.plan);
        let log = self.log();
        let mut text = |tag, text: &str| records.put(tag, &[text.as_bytes()]);
        let reason = log.as_ref().map(PrintkLog::panic_reason);
        if let Some(line) = reason.as_ref().and_then(PanicReason::headline) {
            text(tag::REASON, line);
        }
        if let Some(info) = &self.info {
            if let Some(release) = info.key("OSRELEASE") {
                text(tag::OS_RELEASE, release);
            }
            if let Some(id) = info.build_id() {
                text(tag::BUILD_ID, id);
            }
        }
        text(tag::MODEL, self.machine.model().unwrap_or_default());
        text(tag::HOSTNAME, &plan.hostname);
        text(tag::PAYLOAD_VERSION, env!("CARGO_PKG_VERSION"));
        if let Some(time) = self.info.as_ref().and_then(Vmcoreinfo::crash_time) {
            records.put(tag::CRASH_TIME, &[&time.to_le_bytes()]);
        }
        let uname = self.virt.as_ref().zip(self.info.as_ref());
        if let Some(name) = uname.and_then(|(virt, info)| Uname::read(virt, info)) {
            let fields = [
                &name.sysname,
                &name.nodename,
                &name.release,
                &name.version,
                &name.machine,
            ];
            let mut parts: heapless::Vec<&[u8], 10> = heapless::Vec::new();
            for field in fields {
                let _ = parts.push(field.as_bytes());
                let _ = parts.push(b"\n");
            }
            records.put(tag::UNAME, &parts);
        }
        let vhe = entry.level == 2 && !entry.el2_regime;
        let state = [
            entry.mpidr,
            u64::from(entry.level),
            u64::from(vhe),
            entry.sctlr,
        ];
        records.put(
            tag::ENTRY,
            &state.map(u64::to_le_bytes).each_ref().map(|v| &v[..]),
        );
        let region = [
            self.trusted.crash_region.start.0,
            self.trusted.crash_region.end.0,
        ]
        .map(u64::to_le_bytes);
        records.put(tag::CRASH_REGION, &region.each_ref().map(|v| &v[..]));
        records.put(tag::PAYLOAD_HASH, &[&plan.image.checksum.to_le_bytes()]);
        for (number, cpu) in (0u32..).zip(PrStatus::all(self.notes)) {
            if records.room() < LOG_TAIL.saturating_add(CPU_RECORD) {
                break;
            }
            let registers = cpu.registers();
            let mut values = [[0; 8]; 34];
            let sources =
                registers
                    .x
                    .iter()
                    .chain([&registers.sp, &registers.pc, &registers.pstate]);
            for (value, register) in values.iter_mut().zip(sources) {
                *value = register.to_le_bytes();
            }
            let (number, pid) = (number.to_le_bytes(), cpu.pid().to_le_bytes());
            records.put(tag::CPU, &[&number, &pid, values.as_flattened()]);
        }
        if let Some(log) = log {
            records.put_with(tag::LOG_TAIL, |room| {
                let len = room.len().min(MAX_LOG_TAIL);
                log.tail(room.get_mut(..len).unwrap_or_default())
            });
        }
    }
}
