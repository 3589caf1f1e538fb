//! SD host controllers to play against, each a set of registers with a [`slot::Slot`] behind, and
//! what their tests share.
#![allow(dead_code, reason = "each test uses a part of it")]

pub mod bench;
pub mod card;
pub mod dw_mmc;
pub mod meson_gx;
pub mod sdhci;
pub mod slot;
pub mod usdhc;

use std::cell::RefCell;
use std::rc::Rc;

use kdraw_drivers::registers::{Registers, Width};
use slot::Slot;

use crate::machine::SteppingClock;

/// A clock on which each look takes a tenth of a millisecond.
pub type SlowClock = SteppingClock<100>;

/// A controller.
pub trait FakeHost {
    /// The card's slot.
    fn slot(&mut self) -> &mut Slot;

    /// Controller and card as a kernel would have left them.
    fn leave_running(&mut self);

    /// The card's clock in Hz; 0 if it is off.
    fn hz(&self) -> u32;

    /// Whoever reads or writes a register.
    fn read(&mut self, offset: usize, width: Width) -> u64;
    fn write(&mut self, offset: usize, width: Width, value: u64);
}

/// A controller's registers.
#[derive(Debug)]
pub struct FakeRegisters<H>(pub Rc<RefCell<H>>);

impl<H: FakeHost> Registers for FakeRegisters<H> {
    fn size(&self) -> usize {
        0x1000
    }

    fn read(&self, offset: usize, width: Width) -> u64 {
        let mut host = self.0.borrow_mut();
        host.slot().accesses += 1;
        host.read(offset, width)
    }

    fn write(&self, offset: usize, width: Width, value: u64) {
        let mut host = self.0.borrow_mut();
        host.slot().accesses += 1;
        host.write(offset, width, value);
    }
}
