//! `kdraw receive`: takes a dump from a serial line.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use indicatif::ProgressBar;
use kdraw_format::slot::Outcome;
use serde::Serialize;

use crate::exit::Verdict;
use crate::progress;
use crate::random;
use crate::receive::port::{Came, Line, Port};
use crate::receive::{Event, Reception};
use crate::text;

/// How long the line is listened to at once.
const LISTEN: Duration = Duration::from_millis(50);
/// After how long without a byte the line is quiet: an answer that is due goes out.
const QUIET: Duration = Duration::from_millis(5);
/// How often a line that has ended is opened again.
const REOPEN: Duration = Duration::from_secs(1);
/// How long the line must be silent after the end of a dump, so that the board heard it too.
const LINGER: Duration = Duration::from_secs(1);
/// How long that is waited for at the most.
const LINGER_AT_MOST: Duration = Duration::from_secs(10);

/// Take a dump from a serial line, into a file that the other commands read.
///
/// For a board that was armed with `kdraw load --target serial:ttyX`, or with --fallback. Start it
/// before or after the panic: it says nothing on the line until a board calls, so a console can be
/// left to it. The board calls for half a minute, and sends the black box twice meanwhile.
///
/// The file is an image of a dump partition; whatever arrived can be read from it at any moment, also
/// after an interruption. Started again with the same file, it goes on where it ended, as long as the board
/// still calls. Console text between the frames goes to standard error.
///
/// DEVICE may also be a recording of the line, made by a terminal: the black box is read from it.
///
/// Exit code 1 if the dump is not complete.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  kdraw receive /dev/ttyUSB0
  kdraw receive tcp:terminalserver:7012 -o board7.img && kdraw extract board7.img -o /var/crash
  kdraw receive recorded-console.log -o blackbox.img && kdraw info blackbox.img")]
pub struct Args {
    /// A terminal device, unix:PATH, tcp:HOST:PORT (raw, no telnet), or a recording.
    #[arg(value_name = "DEVICE|unix:PATH|tcp:HOST:PORT")]
    line: Line,
    /// The file; without it kdraw-ID.img, named after the dump, in this folder.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The device's speed: what the board's console has.
    #[arg(long, value_name = "BAUD", default_value_t = 115_200)]
    baud: u32,
    /// Ends when nothing came for so many seconds; 0: never.
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    timeout: u64,
    /// Prints the result as JSON.
    #[arg(long)]
    json: bool,
}

/// What came of it.
#[derive(Serialize)]
struct Report {
    file: Option<PathBuf>,
    /// How the dump ended; nothing if it did not.
    outcome: Option<&'static str>,
    reason: Option<String>,
    file_bytes: u64,
    line_bytes: u64,
    line_frames: u64,
    line_damaged: u64,
    seconds: f64,
}

/// Runs the command.
///
/// # Errors
/// If the line cannot be opened, or the file not written.
pub fn run(args: &Args) -> Result<Verdict> {
    let open = || args.line.open(args.baud);
    let mut port = open().with_context(|| format!("cannot open {:?}", args.line))?;
    let mut reception =
        Reception::new(args.output.as_deref(), u16::from_le_bytes(random::bytes()?));
    let mut talk = Talk::new();
    let mut heard = Instant::now();
    loop {
        let wait = match reception.owes_answer() {
            true => QUIET,
            false => LISTEN,
        };
        match port.read(wait) {
            Came::Bytes(bytes) => {
                heard = Instant::now();
                let mut events = Vec::new();
                let taken = reception.take(&bytes, &mut events);
                events.iter().for_each(|event| talk.tell(event));
                taken?;
                if let Some(answer) = reception.answer(false) {
                    port.write(&answer);
                }
            }
            Came::Nothing => {
                if let Some(answer) = reception.answer(true) {
                    port.write(&answer);
                }
            }
            Came::Ended(_) if !port.lasting => break,
            Came::Ended(_) if talk.ended.is_some() => break,
            Came::Ended(error) => {
                talk.interrupted(error.as_ref());
                let Some(again) = reopened(&open, args.timeout, heard) else {
                    break;
                };
                port = again;
            }
        }
        talk.show(&reception);
        if talk.is_over(heard) || args.timeout > 0 && heard.elapsed().as_secs() >= args.timeout {
            break;
        }
    }
    finish(args, &reception, &talk)
}

/// Opens a line that has ended, as soon as that can be done.
fn reopened(
    open: &dyn Fn() -> std::io::Result<Port>,
    timeout: u64,
    heard: Instant,
) -> Option<Port> {
    loop {
        std::thread::sleep(REOPEN);
        if let Ok(port) = open() {
            return Some(port);
        }
        if timeout > 0 && heard.elapsed().as_secs() >= timeout {
            return None;
        }
    }
}

fn finish(args: &Args, reception: &Reception, talk: &Talk) -> Result<Verdict> {
    talk.bar.finish_and_clear();
    let counts = reception.counts();
    let image = reception.image();
    let report = Report {
        file: image.map(|image| image.path().to_owned()),
        outcome: talk.ended.map(|(outcome, _)| name(outcome)),
        reason: talk.reason.clone(),
        file_bytes: image.map_or(0, |image| image.end()),
        line_bytes: counts.bytes,
        line_frames: counts.frames,
        line_damaged: counts.damaged,
        seconds: talk.seconds(),
    };
    let complete = matches!(talk.ended, Some((Outcome::Complete, _)));
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
        return Ok(Verdict::from_good(complete));
    }
    let Some(file) = report.file else {
        println!("No board called.");
        return Ok(Verdict::Bad);
    };
    println!(
        "{}: {}, {} in {:.0} s; {} of {} frames were damaged on the way",
        file.display(),
        report.outcome.unwrap_or("the dump was cut off"),
        text::size(report.file_bytes),
        report.seconds,
        report.line_damaged,
        report.line_frames.saturating_add(report.line_damaged)
    );
    println!(
        "Save it as a vmcore with `kdraw extract {}`.",
        file.display()
    );
    Ok(Verdict::from_good(complete))
}

fn name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Complete => "complete",
        Outcome::Truncated => "truncated",
        Outcome::Failed => "failed",
        Outcome::Empty | Outcome::Writing => "unfinished",
    }
}

/// What a person is told on the way.
struct Talk {
    bar: ProgressBar,
    reason: Option<String>,
    began: Option<Instant>,
    ended: Option<(Outcome, Instant)>,
}

impl Talk {
    fn new() -> Self {
        Self {
            bar: progress::counter(),
            reason: None,
            began: None,
            ended: None,
        }
    }

    fn say(&self, line: &str) {
        self.bar.suspend(|| eprintln!("{line}"));
    }

    fn tell(&mut self, event: &Event) {
        match event {
            Event::Text(text) => {
                for line in text.lines().filter(|line| !line.trim().is_empty()) {
                    self.say(&format!("board: {line}"));
                }
            }
            Event::Begins { file, headless } => {
                self.began.get_or_insert_with(Instant::now);
                self.say(&format!("receiving into {}", file.display()));
                if *headless {
                    self.say(
                        "the beginning of this dump went to another file: continue that one with \
                         -o, if it is here",
                    );
                }
            }
            Event::BlackBox(found) => {
                self.reason = found
                    .reason
                    .as_deref()
                    .map(|reason| reason.trim_end().into());
                let reason = self.reason.as_deref().unwrap_or("no reason recorded");
                self.say(&format!("the black box is here: {reason}"));
            }
            Event::Ended(outcome) => self.ended = Some((*outcome, Instant::now())),
        }
    }

    fn interrupted(&self, error: Option<&std::io::Error>) {
        let why = error.map_or_else(|| "it ended".into(), ToString::to_string);
        self.say(&format!(
            "the line is gone ({why}); trying to open it again"
        ));
    }

    fn show(&self, reception: &Reception) {
        if let Some(image) = reception.image() {
            progress::show_count(&self.bar, image.end());
        }
    }

    /// Whether the dump has ended and the board has heard so.
    fn is_over(&self, heard: Instant) -> bool {
        self.ended
            .is_some_and(|(_, at)| heard.elapsed() >= LINGER || at.elapsed() >= LINGER_AT_MOST)
    }

    fn seconds(&self) -> f64 {
        let end = self.ended.map_or_else(Instant::now, |(_, at)| at);
        self.began
            .map_or(0.0, |began| end.duration_since(began).as_secs_f64())
    }
}
