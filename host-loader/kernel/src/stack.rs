//! Stacks: who called whom, by frame pointers.
//!
//! A frame record is the caller's frame pointer and the return address; x29 points to the
//! newest. Where an exception interrupted the kernel, its entry code leaves a `pt_regs` with a
//! record in its `stackframe`, so that the chain leads through it: until 6.12 the interrupted
//! x29 and pc; since 6.13 (c2c6b27b5aa1) two zeros and a word that says what it is, 1 the last
//! record, 2 a `pt_regs`. Return addresses lose the pointer authentication code in their upper
//! bits. An interrupted function that has made no record yet, or makes none, would hide its
//! caller; x30 tells it.
//!
//! A running task begins with the registers that its CPU saved when it was stopped
//! (`NT_PRSTATUS`), a sleeping one with those of its last switch (`thread.cpu_context`).
//!
//! Bounds: [`MAX_FRAMES`], and no record twice.
//!
//! Source: Arm AAPCS64 6.4.6; `arch/arm64/kernel/stacktrace.c`, `entry.S` (`kernel_entry`),
//! `arch/arm64/include/asm/stacktrace/frame.h`.

use std::collections::BTreeSet;

use kdraw_linux::notes::{PrStatus, Registers};

use crate::object::{Error, Object};
use crate::{Kernel, Place};

/// The most frames of a stack: 64 KiB of the smallest.
pub const MAX_FRAMES: usize = 4096;
/// Set in every kernel address, whatever else the upper bits are.
const KERNEL_BIT: u64 = 1 << 55;
/// PSTATE: the exception level and the stack pointer.
const MODE: u64 = 0xf;

/// How a stack's walk ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// At its first frame.
    Bottom,
    /// At what entered the kernel from a program, with the program's registers.
    User(Box<Registers>),
    /// At a frame record that cannot be read.
    Absent(u64),
    /// At one that is none.
    Broken(u64),
}

/// A frame.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'k> {
    /// Where it goes on: a return address, or the interrupted instruction.
    pub pc: u64,
    /// The function.
    pub place: Option<Place<'k>>,
    /// Where its frame record is; 0 for the newest.
    pub record: u64,
    /// Registers, if it was interrupted and did not call.
    pub registers: Option<Registers>,
}

/// A task's stack, newest frame first.
#[derive(Clone, Debug)]
pub struct Stack<'k> {
    /// Its frames.
    pub frames: Vec<Frame<'k>>,
    /// How it ended.
    pub end: End,
}

/// A CPU when it stopped.
#[derive(Clone, Copy, Debug)]
pub struct Cpu<'k> {
    /// Its number.
    pub number: u32,
    /// The task that it ran.
    pub current: Object<'k>,
    /// Its registers; none if it never stopped.
    pub registers: Option<Registers>,
}

/// Where `pt_regs` has what.
struct RegsLayout {
    /// The frame record.
    record: u64,
    /// Whether a word behind it says what it is.
    has_meta: bool,
    pc: u64,
    sp: u64,
    pstate: u64,
}

impl<'k> Kernel<'k> {
    /// The CPUs, what each ran, and their registers.
    ///
    /// # Errors
    /// [`Error`] if the kernel does not tell what its CPUs ran.
    pub fn cpu_states(&'k self) -> Result<Vec<Cpu<'k>>, Error> {
        let mut cpus = Vec::new();
        for number in self.cpus()? {
            if let Some(current) = self.current(number)? {
                cpus.push(Cpu {
                    number,
                    current,
                    registers: None,
                });
            }
        }
        let mut notes: Vec<_> = PrStatus::all(self.notes()).collect();
        // CPUs that never stopped have no note; the others' are in the order of the CPUs.
        let all_stopped = notes.len() == cpus.len();
        for cpu in &mut cpus {
            let pid = cpu.current.get("pid")? as i32;
            let own = notes.iter().position(|note| note.pid() == pid);
            let own = if all_stopped { Some(0) } else { own };
            if let Some(own) = own.filter(|own| *own < notes.len()) {
                cpu.registers = Some(notes.remove(own).registers());
            }
        }
        Ok(cpus)
    }

    /// The stack from some registers on, its newest frame interrupted.
    ///
    /// # Errors
    /// [`Error`] if the kernel's types are not known.
    pub fn interrupted_stack(&'k self, registers: Registers) -> Result<Stack<'k>, Error> {
        let frame = Frame {
            pc: registers.pc,
            place: self.place(registers.pc),
            record: 0,
            registers: Some(registers),
        };
        let [.., fp, _] = registers.x;
        self.walk(frame, fp)
    }

    /// The caller of an interrupted function that has no frame record: where x30 points, unless
    /// that is in the function itself (behind a call of its own) or in the record (which then
    /// is its own).
    fn hidden_caller(&'k self, registers: &Registers, record_lr: u64) -> Option<Frame<'k>> {
        let [.., lr] = registers.x;
        let pc = self.without_pac(lr);
        let caller = self.call(pc, 0);
        let own = self.place(registers.pc)?.symbol.address;
        let is_other = caller.place?.symbol.address != own;
        (is_other && pc != record_lr).then_some(caller)
    }

    /// The stack of a task that does not run.
    ///
    /// # Errors
    /// [`Error`].
    pub fn sleeping_stack(&'k self, task: &Object<'_>) -> Result<Stack<'k>, Error> {
        let saved = task.field("thread.cpu_context")?;
        let pc = self.without_pac(saved.get("pc")?);
        let frame = self.call(pc, 0);
        self.walk(frame, saved.get("fp")?)
    }

    /// A frame that called another.
    fn call(&'k self, pc: u64, record: u64) -> Frame<'k> {
        // A call may be its function's last instruction.
        let place = self.place(pc.wrapping_sub(1)).map(|place| Place {
            offset: place.offset.wrapping_add(1),
            ..place
        });
        Frame {
            pc,
            place,
            record,
            registers: None,
        }
    }

    fn without_pac(&self, address: u64) -> u64 {
        let upper = u64::MAX.checked_shl(self.virt().layout().va_bits_actual);
        match address & KERNEL_BIT {
            0 => address,
            _ => address | upper.unwrap_or(0),
        }
    }

    fn regs_layout(&'k self) -> Result<RegsLayout, Error> {
        let regs = self.object("struct pt_regs", 0)?;
        let at = |field: &str| regs.field(field).map(|field| field.address);
        Ok(RegsLayout {
            record: at("stackframe")?,
            has_meta: regs.has("stackframe.type"),
            pc: at("pc")?,
            sp: at("sp")?,
            pstate: at("pstate")?,
        })
    }

    fn read_regs(&self, layout: &RegsLayout, record: u64) -> Option<Registers> {
        let regs = record.wrapping_sub(layout.record);
        let read = |at: u64| self.read_u64(regs.wrapping_add(at)).ok();
        let mut x = [0; 31];
        for (number, register) in (0u64..).zip(&mut x) {
            *register = read(number.wrapping_mul(8))?;
        }
        Some(Registers {
            x,
            sp: read(layout.sp)?,
            pc: read(layout.pc)?,
            pstate: read(layout.pstate)?,
        })
    }

    fn walk(&'k self, newest: Frame<'k>, fp: u64) -> Result<Stack<'k>, Error> {
        const FINAL: u64 = 1;
        const REGS: u64 = 2;
        let layout = self.regs_layout()?;
        let mut frames = vec![newest];
        let mut seen = BTreeSet::new();
        let mut fp = fp;
        let end = loop {
            if fp & 7 != 0 || fp & KERNEL_BIT == 0 || !seen.insert(fp) {
                break End::Broken(fp);
            }
            if frames.len() >= MAX_FRAMES {
                break End::Broken(fp);
            }
            let (Ok(next), Ok(lr)) = (self.read_u64(fp), self.read_u64(fp.wrapping_add(8))) else {
                break End::Absent(fp);
            };
            let pc = self.without_pac(lr);
            let newest = frames.last().and_then(|frame| frame.registers);
            frames.extend(newest.and_then(|newest| self.hidden_caller(&newest, pc)));
            let meta = match layout.has_meta && (next, lr) == (0, 0) {
                true => self.read_u64(fp.wrapping_add(16)).unwrap_or(FINAL),
                false => 0,
            };
            let ends = (next, lr) == (0, 0);
            let regs = match (ends, meta) {
                (true, FINAL) | (_, REGS) | (false, _) | (true, 0) => self.read_regs(&layout, fp),
                _ => None,
            };
            let user = regs.filter(|regs| regs.pstate & MODE == 0 && regs.pc != 0);
            // An interrupted frame's record repeats what the registers say.
            let interrupted = regs.filter(|regs| {
                let [.., x29, _] = regs.x;
                meta == REGS || regs.pc == lr && x29 == next && !ends
            });
            if let Some(registers) = interrupted.filter(|regs| regs.pstate & MODE != 0) {
                frames.push(Frame {
                    pc: registers.pc,
                    place: self.place(registers.pc),
                    record: fp,
                    registers: Some(registers),
                });
                [.., fp, _] = registers.x;
                continue;
            }
            if ends {
                break user.map_or(End::Bottom, |regs| End::User(Box::new(regs)));
            }
            if pc & KERNEL_BIT == 0 {
                break End::Broken(fp);
            }
            frames.push(self.call(pc, fp));
            fp = next;
        };
        Ok(Stack { frames, end })
    }
}
