//! From the plan's serial line to a block device: see `kdraw-link`.

use kdraw_boards::machine::Machine;
use kdraw_drivers::line;
use kdraw_format::plan::Plan;
use kdraw_link::frame::Tape;
use kdraw_pipeline::ports::DeviceError;
use kdraw_pipeline::serial::Patience;

use crate::clock::Counter;
use crate::uart::Place;
use crate::{budget_us, console, watchdog};

/// How long the first answer is waited for at the most, in microseconds.
const ANSWER_US: u64 = 30_000_000;
/// How long a receiver that fell silent is waited for at the most: a cable is pulled, a computer
/// restarted.
const SILENCE_US: u64 = 300_000_000;
/// What there is beside the budget to send what is on its way when it ends.
pub const DRAIN_US: u64 = 120_000_000;
/// How long an epitaph waits for the receiver that there was, in microseconds.
const EPITAPH_US: u64 = 10_000_000;

/// A serial line that a dump is sent over.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    place: Place,
    dump_id: [u8; 16],
    budget_us: u64,
}

impl Line {
    /// Finds the UART that the plan names; what is said on the console is said there too from now
    /// on.
    ///
    /// # Errors
    /// What the device tree lacks.
    pub fn find(
        machine: &Machine<'_>,
        plan: &Plan,
        dump_id: [u8; 16],
    ) -> Result<Self, kdraw_boards::Error> {
        let uart = machine.uart(&plan.serial)?;
        let place = Place::of(machine, &uart).ok_or(kdraw_boards::Error::NotMapped {
            address: uart.registers.start.0,
        })?;
        console::speak_there_too(place);
        Ok(Self {
            place,
            dump_id,
            budget_us: budget_us(plan.budget_s),
        })
    }

    /// Begins the dump's tape on it.
    ///
    /// # Errors
    /// As of [`line::Line::new`].
    pub fn begin(&self) -> Result<line::Line, DeviceError> {
        let half = self.budget_us / 2;
        let patience = Patience {
            answer_us: half.min(ANSWER_US),
            silence_us: half.min(SILENCE_US),
            total_us: self.budget_us.saturating_add(DRAIN_US),
        };
        self.tape(0, patience)
    }

    /// Begins another tape on it, for an epitaph.
    ///
    /// # Errors
    /// As of [`line::Line::new`].
    pub fn begin_again(&self) -> Result<line::Line, DeviceError> {
        let patience = Patience {
            answer_us: EPITAPH_US,
            silence_us: EPITAPH_US,
            total_us: EPITAPH_US.saturating_mul(2),
        };
        self.tape(1, patience)
    }

    fn tape(&self, number: u8, patience: Patience) -> Result<line::Line, DeviceError> {
        let tape = Tape {
            dump_id: self.dump_id,
            number,
        };
        let port = self.place.open().telling(watchdog::progress);
        line::Line::new(port, &Counter, tape, patience)
    }
}
