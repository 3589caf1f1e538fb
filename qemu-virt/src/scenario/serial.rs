//! Sends the captured memory again, over the console's UART, to `kdraw receive`.
//!
//! The plan is the one of the capture that went to the partition, where the line is the fallback:
//! it was not needed there. Here the partition is taken out of the plan, or its disk out of the
//! machine.
//!
//! QEMU's serial port is a socket here. A relay stands between it and the receiver: it records
//! what the payload sends, spoils bytes in both directions, and puts console text between them.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use kdraw_link::GRANULE;
use kdraw_link::frame::{Deframer, Frame, MAX_WIRE};

use super::again::{Again, OverSerial, Wish};
use super::result::Outcome;
use super::{Destination, evidence, watchdog};
use crate::qemu::{Machine, Qemu};
use crate::run;

/// How long one sending may take.
const LIMIT: Duration = Duration::from_secs(900);
/// Seconds that the payload has when nobody receives.
const NOBODY_BUDGET_S: u32 = 20;
/// Bytes per second at 115,200 baud: ten bits for each.
const BYTES_PER_SECOND: f64 = 11_520.0;
/// What a console says at the wrong moment.
const CHATTER: &[u8] = b"\r\n[  123.456789] random: crng init done\r\nlogin: ";
/// Bytes of the machine's after which a noisy line becomes a clean one: an emulated UART is too slow
/// for a whole dump that is sent six times over. `tests/tests/serial.rs` has noise to the end.
const NOISY_BYTES: u64 = 4 << 20;
/// Bytes between two such remarks.
const CHATTER_EVERY: usize = 300_000;

/// What happens to a sending.
#[derive(Clone, Copy, Debug, Default)]
struct Case {
    /// Bytes of 10,000 that are corrupted, lost, and repeated, each, in both directions, among the
    /// first [`NOISY_BYTES`].
    noise: u64,
    /// The console speaks.
    chatter: bool,
    /// The receiver is killed when its file has so many bytes, and begun again.
    kill_at: Option<u64>,
    /// The partition is the target, and its disk is not there.
    no_disk: bool,
}

/// What came of a sending.
struct Received {
    image: PathBuf,
    took: Duration,
    line_bytes: u64,
}

/// Sends the memory in each way; `reference` is the ELF of the dump on the partition.
pub fn check(again: &Again<'_>, reference: &Path, outcome: &mut Outcome) -> Result<()> {
    const KILL_AT: Option<u64> = Some(3 << 20);
    let briefly = again.scenario.target == Destination::SerialBriefly;
    let cases = [
        ("serial", Case::default()),
        (
            "serial-fallback",
            Case {
                no_disk: true,
                ..Case::default()
            },
        ),
        (
            "serial-chatter",
            Case {
                chatter: true,
                ..Case::default()
            },
        ),
        (
            "serial-restart",
            Case {
                kill_at: KILL_AT,
                ..Case::default()
            },
        ),
        (
            "serial-noise",
            Case {
                noise: 100,
                ..Case::default()
            },
        ),
    ];
    let cases = cases.into_iter().filter(|_| !briefly);
    for (name, case) in cases {
        let result = send(again, name, case).and_then(|received| {
            let same = same_as(again, name, &received.image, reference)?;
            let seconds = received.took.as_secs_f64();
            outcome.time(name, seconds * 1000.0);
            outcome.size(name, received.line_bytes);
            Ok(format!(
                "{same}; {seconds:.1} s, {:.2} MB over the line",
                received.line_bytes as f64 / 1e6
            ))
        });
        outcome.check_result(name, result);
    }
    let nobody = nobody(again, briefly);
    outcome.check_result("serial-nobody", nobody);
    Ok(())
}

/// Sends to a receiver, and waits until both have ended.
fn send(again: &Again<'_>, name: &str, case: Case) -> Result<Received> {
    let image = again.place.file(&format!("{name}.img"));
    let socket = again.place.sockets().join("line");
    let relay = Relay::listen(&socket, &again.place.file(&format!("{name}.line")), case)?;
    let mut receiver = receiver(again, name, &socket, &image)?;
    let started = Instant::now();
    let mut killed = false;
    let way = OverSerial {
        budget_s: 0,
        is_fallback: case.no_disk,
    };
    sending(again, name, way, &relay, || {
        let len = image.metadata().map_or(0, |found| found.len());
        if let Some(limit) = case.kill_at
            && !killed
            && len >= limit
        {
            killed = true;
            receiver.kill()?;
            receiver.wait()?;
            thread::sleep(Duration::from_secs(2));
            receiver = self::receiver(again, name, &socket, &image)?;
        }
        Ok(())
    })?;
    let took = started.elapsed();
    let status = receiver.wait()?;
    ensure!(status.success(), "kdraw receive ended with {status}");
    ensure!(
        case.kill_at.is_none() || killed,
        "the dump was too small to kill the receiver in it"
    );
    let recording = std::fs::read(again.place.file(&format!("{name}.line")))?;
    let said = String::from_utf8_lossy(&recording);
    let words = [
        Some("reason: "),
        Some("dump complete"),
        case.no_disk.then_some("falling back"),
        again.scenario.watchdog.then_some(watchdog::RUNS),
    ];
    for words in words.into_iter().flatten() {
        ensure!(said.contains(words), "the console did not say {words:?}");
    }
    Ok(Received {
        image,
        took,
        line_bytes: relay.carried(),
    })
}

fn receiver(again: &Again<'_>, name: &str, socket: &Path, image: &Path) -> Result<Child> {
    let log = again.place.file(&format!("{name}.receive"));
    let log = File::options().create(true).append(true).open(log)?;
    Ok(Command::new(&again.dist.kdraw)
        .args(["receive", "--json", "--timeout", "60"])
        .arg(format!("unix:{}", socket.display()))
        .arg("-o")
        .arg(image)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()?)
}

/// Lets the payload send; `watch` is asked again and again meanwhile.
fn sending(
    again: &Again<'_>,
    name: &str,
    way: OverSerial,
    relay: &Relay,
    mut watch: impl FnMut() -> Result<()>,
) -> Result<Duration> {
    let wish = Wish {
        serial: Some(way),
        ..Wish::level(again.scenario.dump.level)
    };
    let disk = again.place.file(&format!("{name}.disk"));
    let port = again.place.sockets().join("serial0");
    let kernel = again.scenario.kernel()?;
    let (start, loaded, disk) = again.prepared(wish, disk)?;
    let machine = Machine {
        serial: Some(&port),
        disk: (!way.is_fallback).then_some(&disk.path),
        ..again.machine(&kernel, &disk)
    };
    let log = again.place.file(&format!("{name}.log"));
    let mut qemu = Qemu::start(&machine, &log, LIMIT)?;
    let begun = Instant::now();
    let stream = loop {
        match UnixStream::connect(&port) {
            Ok(stream) => break stream,
            Err(error) if begun.elapsed() > Duration::from_secs(20) => return Err(error.into()),
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    };
    relay.connect(stream)?;
    again.begin(&qemu, &start, &loaded)?;
    let begun = Instant::now();
    while !qemu.has_ended()? {
        watch()?;
        if begun.elapsed() > LIMIT {
            bail!("not sent after {} s", LIMIT.as_secs());
        }
        thread::sleep(Duration::from_millis(20));
    }
    std::fs::remove_file(&disk.path)?;
    Ok(begun.elapsed())
}

/// Checks that an image has what the partition has.
fn same_as(again: &Again<'_>, name: &str, image: &Path, reference: &Path) -> Result<String> {
    run::quiet(Command::new(&again.dist.kdraw).arg("verify").arg(image))?;
    let folder = again.place.file(&format!("{name}.extracted"));
    let extracted = evidence::extract_what_is_there(again.dist, image, &folder)?;
    ensure!(extracted.complete, "the dump is not complete");
    let (ours, theirs) = (std::fs::read(&extracted.elf)?, std::fs::read(reference)?);
    ensure!(
        ours == theirs,
        "the vmcore has {} bytes and differs from the partition's of {}",
        ours.len(),
        theirs.len()
    );
    let told = format!("vmcore of {} bytes as on the partition", ours.len());
    run::remove_dir(&folder)?;
    std::fs::remove_file(image)?;
    Ok(told)
}

/// Checks what is on the line when nobody receives: the black box, twice, in time.
fn nobody(again: &Again<'_>, is_fallback: bool) -> Result<String> {
    let name = "serial-nobody";
    let socket = again.place.sockets().join("line");
    let recording = again.place.file(&format!("{name}.line"));
    let relay = Relay::listen(&socket, &recording, Case::default())?;
    let way = OverSerial {
        budget_s: NOBODY_BUDGET_S,
        is_fallback,
    };
    let took = sending(again, name, way, &relay, || Ok(()))?;
    ensure!(
        took.as_secs() <= u64::from(NOBODY_BUDGET_S) + 5,
        "the reset came after {} s",
        took.as_secs()
    );
    let bytes = std::fs::read(&recording)?;
    let said = Said::of(&bytes);
    ensure!(
        said.times.iter().all(|times| *times == 2) && said.times.len() * GRANULE > 4096,
        "granules were said so often: {:?}",
        said.times
    );
    let seconds = said.first_pass as f64 / BYTES_PER_SECOND;
    ensure!(seconds < 15.0, "one pass takes {seconds:.1} s");
    let text = String::from_utf8_lossy(&bytes);
    ensure!(
        text.contains("reason: ") && text.contains("nobody answers"),
        "the recording does not tell people what happened"
    );
    ensure!(
        !again.scenario.watchdog || text.contains(watchdog::RUNS),
        "the watchdog was not found running"
    );
    let image = again.place.file(&format!("{name}.img"));
    // It ends with 1: the dump is not complete.
    let received = Command::new(&again.dist.kdraw)
        .arg("receive")
        .arg(&recording)
        .arg("-o")
        .arg(&image)
        .output()?;
    let info = run::output(Command::new(&again.dist.kdraw).arg("info").arg(&image))?;
    ensure!(
        info.contains("sysrq triggered crash") || info.contains("Kernel panic"),
        "no black box in the recording: {info} {}",
        String::from_utf8_lossy(&received.stderr)
    );
    Ok(format!(
        "{} bytes of tape said twice, one pass takes {seconds:.1} s at 115200 baud; reset after \
         {:.1} s of {NOBODY_BUDGET_S}",
        said.times.len() * GRANULE,
        took.as_secs_f64()
    ))
}

/// What a recording has.
#[derive(Default)]
struct Said {
    /// How often each granule of the tape was said.
    times: Vec<u32>,
    /// Bytes up to the end of the first pass, the text before it included.
    first_pass: usize,
}

impl Said {
    fn of(recording: &[u8]) -> Self {
        let mut this = Self::default();
        let mut deframer = Deframer::<MAX_WIRE>::default();
        let mut session = None;
        for (at, byte) in recording.iter().enumerate() {
            let Some(stretch) = deframer.take(*byte) else {
                continue;
            };
            match Frame::decode(stretch, session) {
                Some(Frame::Sync { tape, .. }) => session = Some(tape.session()),
                Some(Frame::Data { first, bytes }) => {
                    let first = first as usize;
                    let end = first + bytes.len() / GRANULE;
                    if end > this.times.len() {
                        this.times.resize(end, 0);
                        this.first_pass = at + 1;
                    }
                    this.times[first..end]
                        .iter_mut()
                        .for_each(|times| *times += 1);
                }
                _ => {}
            }
        }
        this
    }
}

/// A small generator (xorshift64): the same noise in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    /// What a line makes of bytes.
    fn spoil(&mut self, bytes: &[u8], noise: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes.len() + 64);
        for &byte in bytes {
            let mut hit = || noise > 0 && self.below(10_000) < noise;
            let (corrupted, lost, repeated) = (hit(), hit(), hit());
            let byte = match corrupted {
                true => self.below(256) as u8,
                false => byte,
            };
            let copies = usize::from(!lost) * (1 + usize::from(repeated));
            out.extend(std::iter::repeat_n(byte, copies));
        }
        out
    }
}

/// What stands between QEMU and the receiver.
struct Relay {
    shared: Arc<Shared>,
    socket: PathBuf,
}

struct Shared {
    case: Case,
    recording: Mutex<File>,
    /// The receiver that is there, and the machine.
    client: Mutex<Option<UnixStream>>,
    machine: Mutex<Option<UnixStream>>,
    carried: Mutex<u64>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Relay {
    /// Listens for receivers, one after the other.
    fn listen(socket: &Path, recording: &Path, case: Case) -> Result<Self> {
        match std::fs::remove_file(socket) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let listener = UnixListener::bind(socket).context("no socket for the receiver")?;
        let shared = Arc::new(Shared {
            case,
            recording: Mutex::new(File::create(recording)?),
            client: Mutex::new(None),
            machine: Mutex::new(None),
            carried: Mutex::new(0),
        });
        let listening = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(from) = client.try_clone() else { return };
                *lock(&listening.client) = Some(client);
                let shared = Arc::clone(&listening);
                thread::spawn(move || shared.up(from));
            }
        });
        Ok(Self {
            shared,
            socket: socket.to_owned(),
        })
    }

    /// Carries what the machine sends.
    fn connect(&self, machine: UnixStream) -> Result<()> {
        *lock(&self.shared.machine) = Some(machine.try_clone()?);
        let shared = Arc::clone(&self.shared);
        thread::spawn(move || shared.down(machine));
        Ok(())
    }

    fn carried(&self) -> u64 {
        *lock(&self.shared.carried)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // Nobody else can connect; the threads end with their streams.
        let _ = std::fs::remove_file(&self.socket);
    }
}

impl Shared {
    /// How noisy the line is by now.
    fn noise(&self) -> u64 {
        match *lock(&self.carried) < NOISY_BYTES {
            true => self.case.noise,
            false => 0,
        }
    }

    fn down(&self, mut from: UnixStream) {
        let mut random = Random(0x1234_5678_9abc_def1);
        let mut piece = vec![0; 4096];
        let mut until_chatter = CHATTER_EVERY;
        while let Ok(count) = from.read(&mut piece)
            && count > 0
        {
            let bytes = piece.get(..count).unwrap_or_default();
            let noise = self.noise();
            *lock(&self.carried) += count as u64;
            // What cannot be recorded is missed by the checks.
            let _ = lock(&self.recording).write_all(bytes);
            let mut bytes = random.spoil(bytes, noise);
            until_chatter = until_chatter.saturating_sub(count);
            if self.case.chatter && until_chatter == 0 {
                until_chatter = CHATTER_EVERY;
                let middle = bytes.len() / 2;
                bytes.splice(middle..middle, CHATTER.iter().copied());
            }
            let mut client = lock(&self.client);
            if let Some(stream) = &mut *client
                && stream.write_all(&bytes).is_err()
            {
                *client = None;
            }
        }
        // The machine has ended: so has the line.
        if let Some(client) = lock(&self.client).take() {
            let _ = client.shutdown(std::net::Shutdown::Both);
        }
    }

    fn up(&self, mut from: UnixStream) {
        let mut random = Random(0xfeed_5678_9abc_def1);
        let mut piece = vec![0; 4096];
        while let Ok(count) = from.read(&mut piece)
            && count > 0
        {
            let bytes = piece.get(..count).unwrap_or_default();
            let bytes = random.spoil(bytes, self.noise());
            if let Some(machine) = &mut *lock(&self.machine)
                && machine.write_all(&bytes).is_err()
            {
                return;
            }
        }
    }
}
