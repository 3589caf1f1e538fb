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
//! (`crash_notes`), or else that the dump notes of it (`NT_PRSTATUS`); a sleeping one with those of
//! its last switch (`thread.cpu_context`).
//!
//! Bounds: [`MAX_FRAMES`], and no record twice.
//!
//! Source: Arm AAPCS64 6.4.6; `arch/arm64/kernel/stacktrace.c`, `entry.S` (`kernel_entry`),
//! `arch/arm64/include/asm/stacktrace/frame.h`.

use std::collections::BTreeSet;

use kdraw_linux::notes::{PrStatus, Registers};

use crate::crash_notes;
use crate::log::Caller;
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
    /// The CPUs, what each ran, and their registers; those of which the dump tells that.
    ///
    /// # Errors
    /// [`Error`] if it tells that of none.
    pub fn cpu_states(&'k self) -> Result<Vec<Cpu<'k>>, Error> {
        let numbers = self.cpus();
        let listed = numbers.as_deref().unwrap_or_default();
        let saved = crash_notes::all(self);
        let mut notes: Vec<_> = PrStatus::all(self.notes()).map(Some).collect();
        // CPUs that never stopped have no note; the others' are in the order of the CPUs. QEMU
        // counts CPUs, from 1 on, where others tell their tasks.
        let pids = notes.iter().flatten().map(PrStatus::pid);
        let counted = (1..).zip(pids).all(|(number, pid)| pid == number);
        let in_order = counted || notes.len() == listed.len();
        let mut cpus = Vec::new();
        let mut lost = numbers.as_ref().err().cloned();
        for (index, number) in listed.iter().enumerate() {
            let known = || -> Result<_, Error> {
                let current = self.current(*number)?;
                current
                    .map(|task| Ok((task, task.get("pid")? as i32)))
                    .transpose()
            };
            let (current, pid) = match known() {
                Ok(Some(known)) => known,
                Ok(None) => continue,
                Err(why) => {
                    lost = Some(why);
                    continue;
                }
            };
            let own = match in_order {
                true => notes.get_mut(index),
                false => notes
                    .iter_mut()
                    .find(|note| note.is_some_and(|note| note.pid() == pid)),
            };
            let noted = own.and_then(Option::take);
            let saved = saved.get(number).filter(|saved| saved.pid == pid);
            let saved = saved.map(|saved| saved.registers);
            cpus.push(Cpu {
                number: *number,
                current,
                registers: saved.or(noted.map(|note| note.registers())),
            });
        }
        // Where a CPU's run queue is absent, its note tells the task's number.
        if notes.iter().any(Option::is_some) && !counted {
            for task in self.all_tasks().unwrap_or_default() {
                let pid = task.get("pid").map_or(0, |pid| pid as i32);
                let mut left = notes.iter().flatten();
                let note = left.find(|note| pid != 0 && note.pid() == pid);
                let number = task.any_field(&["thread_info.cpu", "cpu"]);
                if let (Some(note), Ok(number)) = (note, number.and_then(|cpu| cpu.number()))
                    && cpus
                        .iter()
                        .all(|cpu: &Cpu<'_>| u64::from(cpu.number) != number)
                {
                    cpus.push(Cpu {
                        number: number as u32,
                        current: task,
                        registers: Some(note.registers()),
                    });
                }
            }
        }
        if cpus.is_empty() {
            return Err(lost.unwrap_or_else(|| Error::NoSymbol("the task of any CPU".into())));
        }
        Ok(cpus)
    }

    /// The CPU that panicked: what the kernel noted, or who wrote the log's last record.
    pub fn panicked_cpu(&self, cpus: &[Cpu<'_>]) -> Option<u32> {
        let noted = self.symbol("panic_cpu");
        let noted = noted.and_then(|at| self.read_number(at, 4).ok());
        let is_cpu = |number: u32| cpus.iter().any(|cpu| cpu.number == number);
        if let Some(cpu) = noted.map(|cpu| cpu as u32).filter(|cpu| is_cpu(*cpu)) {
            return Some(cpu);
        }
        let last = self.last_caller()?;
        let wrote = |cpu: &&Cpu<'_>| match last {
            Caller::Task(pid) => cpu.current.get("pid") == Ok(pid.into()),
            Caller::Cpu(number) => cpu.number == number,
        };
        cpus.iter().find(wrote).map(|cpu| cpu.number)
    }

    /// The stack from some registers on, its newest frame interrupted.
    ///
    /// # Errors
    /// [`Error`] if the kernel's types are not known.
    pub fn interrupted_stack(&'k self, registers: Registers) -> Result<Stack<'k>, Error> {
        if registers.pstate & MODE == 0 && registers.pc & KERNEL_BIT == 0 {
            // Whoever dumps a machine that runs may find it in a program.
            return Ok(Stack {
                frames: Vec::new(),
                end: End::User(Box::new(registers)),
            });
        }
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
    /// is its own). A function that calls itself has both, and before its first call x30 is right
    /// all the same.
    fn hidden_caller(&'k self, registers: &Registers, record_lr: u64) -> Option<Frame<'k>> {
        let [.., lr] = registers.x;
        let pc = self.without_pac(lr);
        let caller = self.call(pc, 0);
        // Where the kernel jumped to nowhere, x30 says from where.
        let own = self.place(registers.pc).map(|own| own.symbol.address);
        let is_other = Some(caller.place?.symbol.address) != own;
        let is_first = || own.is_some_and(|start| self.is_prologue(start, registers.pc));
        (is_other && pc != record_lr || is_first()).then_some(caller)
    }

    /// Whether a function's instructions from its start up to `pc` are its first ones, and neither
    /// call nor set x29, which is what makes a record the newest.
    ///
    /// Source: Arm Architecture Reference Manual (DDI 0487), C6.2: BL, BLR, ADD (immediate), of
    /// which `MOV x29, sp` is one.
    fn is_prologue(&self, start: u64, pc: u64) -> bool {
        /// Bytes; prologues are shorter.
        const LONGEST: u64 = 128;
        let mut instructions = (start..pc).step_by(4);
        pc.wrapping_sub(start) <= LONGEST
            && instructions.all(|at| {
                self.read_number(at, 4).is_ok_and(|word| {
                    let is = |mask: u64, bits: u64| word & mask == bits;
                    let calls = is(0xfc00_0000, 0x9400_0000) || is(0xfeff_f800, 0xd63f_0800);
                    let calls = calls || is(0xffff_fc1f, 0xd63f_0000);
                    let sets_x29 = is(0xff80_03ff, 0x9100_03fd);
                    !calls && !sets_x29
                })
            })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::btf::tests::Word::{Name, Number};
    use crate::btf::tests::Writer;
    use crate::fake::{Ram, VA, notes, with_types};

    /// Where `pt_regs` lie on the stack, and their record in them.
    const REGS: u64 = 0x2200;
    const RECORD: u64 = REGS + 34 * 8;
    /// EL1 with its own stack pointer, and EL0.
    const KERNEL: u64 = 5;
    const PROGRAM: u64 = 0;

    /// `pt_regs`, of before 6.13 or since.
    fn types(has_meta: bool) -> Writer {
        let mut types = Writer::new(0, 0);
        let word = types.add("u64", 1 << 24, 8, &[Number(64)]);
        let array = |types: &mut Writer, count| {
            types.add("", 3 << 24, 0, &[Number(word), Number(word), Number(count)])
        };
        let regs = array(&mut types, 31);
        let record = array(&mut types, 2);
        let meta = [
            Name("record"),
            Number(record),
            Number(0),
            Name("type"),
            Number(word),
            Number(128),
        ];
        let meta = types.add("frame_record_meta", 4 << 24 | 2, 24, &meta);
        let record = if has_meta { meta } else { record };
        let bit = |word: u32| Number(word * 64);
        let members = [
            Name("regs"),
            Number(regs),
            bit(0),
            Name("sp"),
            Number(word),
            bit(31),
            Name("pc"),
            Number(word),
            bit(32),
            Name("pstate"),
            Number(word),
            bit(33),
            Name("stackframe"),
            Number(record),
            bit(34),
        ];
        types.add("pt_regs", 4 << 24 | 5, 37 * 8, &members);
        types
    }

    fn put_regs(ram: &mut Ram, fp: u64, lr: u64, pc: u64, pstate: u64) {
        let mut words = vec![0; 34];
        (words[29], words[30], words[32], words[33]) = (fp, lr, pc, pstate);
        ram.put_words(REGS, &words);
    }

    /// A stack: `handler`, called by `entry`, which interrupted `leaf`, which `caller` called,
    /// which a program's system call did. Its functions, and how it ends.
    fn walked(has_meta: bool, damage: &dyn Fn(&mut Ram)) -> (Vec<String>, End) {
        let mut ram = Ram::default();
        let symbols = [
            ("handler", 0x1_1000),
            ("entry", 0x1_2000),
            ("leaf", 0x1_3000),
            ("caller", 0x1_4000),
            ("outer", 0x1_5000),
            ("_etext", 0x1_6000),
        ];
        // The code is signed: the upper bits of what is returned to are the code.
        let signed = |at: u64| (VA + at) & !(0x7f << 48) | 0x2a << 48;
        ram.put_words(0x2100, &[VA + RECORD, signed(0x1_2010)]);
        let record = match has_meta {
            true => [0, 0, 2],
            false => [VA + 0x2400, VA + 0x1_3008, 0],
        };
        ram.put_words(RECORD, &record);
        put_regs(
            &mut ram,
            VA + 0x2400,
            signed(0x1_4010),
            VA + 0x1_3008,
            KERNEL,
        );
        // `leaf` has no record: this one is its caller's.
        ram.put_words(0x2400, &[VA + 0x2700, signed(0x1_5010)]);
        ram.put_words(0x2700, &[0, 0, 1]);
        let mut words = vec![0; 34];
        (words[32], words[33]) = (0x40_1000, PROGRAM);
        ram.put_words(0x2700 - 34 * 8, &words);
        damage(&mut ram);
        let options = with_types(&mut ram, 0x4_0000, &types(has_meta), &symbols);
        let notes = notes();
        let kernel = Kernel::open(&ram, &notes, options).unwrap();
        let mut registers = Registers {
            pc: VA + 0x1_1004,
            ..Registers::default()
        };
        (registers.x[29], registers.x[30]) = (VA + 0x2100, VA + 0x1_2010);
        let stack = kernel.interrupted_stack(registers).unwrap();
        let name = |frame: &Frame<'_>| {
            let mark = if frame.registers.is_some() { "!" } else { "" };
            let place = frame.place.unwrap();
            format!("{mark}{}+{:#x}", place.symbol.name, place.offset)
        };
        (stack.frames.iter().map(name).collect(), stack.end)
    }

    #[test]
    fn stacks_lead_through_exceptions() {
        let expected = [
            "!handler+0x4",
            "entry+0x10",
            "!leaf+0x8",
            "caller+0x10",
            "outer+0x10",
        ];
        for has_meta in [false, true] {
            let (frames, end) = walked(has_meta, &|_| {});
            assert_eq!(frames, expected, "{has_meta}");
            assert!(matches!(end, End::User(regs) if regs.pc == 0x40_1000));
        }
    }

    #[test]
    fn a_function_that_calls_itself_is_interrupted() {
        const NOP: u64 = 0xd503_201f;
        const MOV_X29_SP: u64 = 0x9100_03fd;
        let frames = |code: [u64; 2]| {
            let itself = VA + 0x1_3010;
            let damage = |ram: &mut Ram| {
                ram.put_words(0x1_3000, &[code[0] | code[1] << 32]);
                put_regs(ram, VA + 0x2400, itself, VA + 0x1_3008, KERNEL);
                ram.put_words(0x2400, &[VA + 0x2700, itself]);
            };
            walked(true, &damage).0
        };
        let outer = ["!handler+0x4", "entry+0x10", "!leaf+0x8", "leaf+0x10"];
        assert_eq!(frames([NOP, NOP]), [&outer[..], &["leaf+0x10"]].concat());
        assert_eq!(frames([NOP, MOV_X29_SP]), outer, "the record is its own");
    }

    #[test]
    fn damaged_stacks_end() {
        let (frames, end) = walked(false, &|ram| ram.put_words(0x2400, &[VA + 0x2100]));
        assert_eq!(
            (frames.len(), end),
            (5, End::Broken(VA + 0x2100)),
            "a circle"
        );
        let (_, end) = walked(false, &|ram| ram.put_words(0x2400, &[VA + 0x9000]));
        assert_eq!(end, End::Absent(VA + 0x9000));
        let (_, end) = walked(true, &|ram| ram.put_words(0x2400, &[0x1234]));
        assert_eq!(end, End::Broken(0x1234));
    }
}
