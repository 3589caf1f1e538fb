//! One QEMU process: its command line, its serial console line by line, its end.
//!
//! The guest's RAM is a shared file on this machine, so that a dump can be compared with the
//! memory itself. A reset ends the process (`-no-reboot`), before anything writes to that file.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::board::Board;
use crate::disk_bus::DiskBus;
use crate::material;

/// Longest silence of the console before the run counts as hung.
const SILENCE: Duration = Duration::from_secs(240);

/// What QEMU is to run.
pub struct Machine<'a> {
    /// RAM in MiB.
    pub mem_mib: u64,
    /// CPUs.
    pub smp: u32,
    /// The machine.
    pub board: Board,
    /// QEMU's name of the CPU of `virt`; a board has its own.
    pub cpu: &'a str,
    /// Further options of `-M virt`, each `key=value`.
    pub options: &'a [String],
    /// The device tree; without it QEMU makes one.
    pub device_tree: Option<PathBuf>,
    /// How the disk is attached.
    pub bus: DiskBus,
    /// Whether Debian's newest QEMU is wanted, even if this machine's own has such a disk.
    pub newest: bool,
    /// Whether it has a watchdog, Intel's 6300ESB on PCI.
    pub watchdog: bool,
    /// The disk image; without one, there is no disk.
    pub disk: Option<&'a Path>,
    /// A byte of the disk whose sector cannot be written.
    pub bad_byte: Option<u64>,
    /// The kernel Image.
    pub kernel: &'a Path,
    /// The initramfs.
    pub initramfs: &'a Path,
    /// The kernel's command line.
    pub command_line: &'a str,
    /// The file that is the guest's RAM; made and sized by QEMU.
    pub ram: &'a Path,
    /// Where the first CPU starts, in what [`Qemu::begin`] puts into RAM, instead of the kernel.
    pub entry: Option<u64>,
    /// The socket that the serial console is, instead of QEMU's standard input and output.
    pub serial: Option<&'a Path>,
    /// Folder for sockets; its path must be short (108 bytes with the socket's name).
    pub sockets: &'a Path,
    /// Whether instructions are counted: one is then a nanosecond of the guest's time, an idle
    /// CPU is not waited for, and a reset leaves QEMU paused instead of ending it.
    pub count: bool,
}

/// A line of the serial console.
#[derive(Clone, Debug)]
pub struct Line {
    /// When it was complete, since the start of QEMU.
    pub at: Duration,
    /// The line without its end.
    pub text: String,
}

impl Line {
    /// Returns a kernel message without its `[   12.345678] `, other lines as they are.
    pub fn message(&self) -> &str {
        let text = self.text.as_str();
        match text.split_once("] ") {
            Some((_, message)) if text.starts_with('[') => message,
            _ => text,
        }
    }
}

/// A running QEMU.
pub struct Qemu {
    child: Child,
    lines: Receiver<Line>,
    log: File,
    started: Instant,
    deadline: Instant,
    sockets: PathBuf,
    ram: PathBuf,
    ram_base: u64,
}

impl Qemu {
    /// Starts QEMU; the console is written to `log`, QEMU's own messages to the file beside it
    /// that ends in `.qemu`.
    pub fn start(machine: &Machine<'_>, log: &Path, budget: Duration) -> Result<Self> {
        let messages = File::create(log.with_extension("qemu"))?;
        let mut command = Command::new(match machine.newest {
            true => material::newest_qemu()?,
            false => machine.bus.qemu()?,
        });
        add_options(&mut command, machine);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(messages)
            .spawn()
            .context("cannot start qemu-system-aarch64; `cargo xtask setup` installs it")?;
        let started = Instant::now();
        let stdout = child.stdout.take().context("QEMU has no stdout")?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            let mut reader = BufReader::new(stdout);
            let mut bytes = Vec::new();
            while matches!(reader.read_until(b'\n', &mut bytes), Ok(count) if count > 0) {
                let text = String::from_utf8_lossy(&bytes)
                    .trim_end_matches(['\r', '\n'])
                    .to_owned();
                if sender
                    .send(Line {
                        at: started.elapsed(),
                        text,
                    })
                    .is_err()
                {
                    return;
                }
                bytes.clear();
            }
        });
        Ok(Self {
            child,
            lines,
            log: File::create(log)?,
            started,
            deadline: started + budget,
            sockets: machine.sockets.to_path_buf(),
            ram: machine.ram.to_path_buf(),
            ram_base: machine.board.ram_base(),
        })
    }

    /// Starts a machine that has an entry of its own, after `contents` were put into its RAM and
    /// `more` was done.
    pub fn begin(
        &self,
        contents: &[(u64, &[u8])],
        more: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let mut monitor = loop {
            // QEMU makes its sockets some time after it was started.
            match Monitor::connect(self) {
                Err(error) if self.started.elapsed() > ANSWER => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
                Ok(monitor) => break monitor,
            }
        };
        // It answers when the machine is made: what that writes to RAM is there by now.
        let ram = File::options().write(true).open(&self.ram)?;
        for (address, bytes) in contents {
            let offset = address.checked_sub(self.ram_base).context("no RAM there")?;
            ram.write_all_at(bytes, offset)?;
        }
        more()?;
        monitor.request(r#"{"execute":"cont"}"#).map(|_| ())
    }

    /// Waits for the next line; `None` when QEMU has ended.
    ///
    /// # Errors
    ///
    /// When the console is silent for too long or the run's budget is used up.
    pub fn next_line(&mut self) -> Result<Option<Line>> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        match self.lines.recv_timeout(left.min(SILENCE)) {
            Ok(line) => {
                writeln!(self.log, "[{:10.4}] {}", line.at.as_secs_f64(), line.text)?;
                Ok(Some(line))
            }
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => bail!(
                "the guest hangs: no line on the console for {} s, {} s after the start",
                left.min(SILENCE).as_secs(),
                self.started.elapsed().as_secs()
            ),
        }
    }

    /// Waits until QEMU has ended; returns its exit status and when that was.
    pub fn end(&mut self) -> Result<(ExitStatus, Duration)> {
        let status = self.child.wait()?;
        Ok((status, self.started.elapsed()))
    }

    /// Whether QEMU has ended; well, if it has.
    pub fn has_ended(&mut self) -> Result<bool> {
        match self.child.try_wait()? {
            Some(status) if !status.success() => bail!("QEMU ended with {status}"),
            ended => Ok(ended.is_some()),
        }
    }

    /// Types text on the serial console.
    pub fn type_text(&mut self, text: &str) -> Result<()> {
        let stdin = self.child.stdin.as_mut().context("QEMU has no stdin")?;
        stdin.write_all(text.as_bytes())?;
        Ok(stdin.flush()?)
    }

    /// Sends a BREAK on the serial console.
    pub fn send_break(&self) -> Result<()> {
        self.request(r#"{"execute":"chardev-send-break","arguments":{"id":"console"}}"#)
    }

    /// Stops the disk: it takes requests and answers none. (The limit of one byte per second lets
    /// the first request through and every other wait for hours.)
    pub fn stop_disk(&self) -> Result<()> {
        self.limit_disk(1)
    }

    /// Limits the disk's speed, in bytes per second; 0 is no limit.
    pub fn limit_disk(&self, speed: u64) -> Result<()> {
        self.request(&format!(
            r#"{{"execute":"block_set_io_throttle","arguments":{{"device":"disk","bps":{speed},"bps_rd":0,"bps_wr":0,"iops":0,"iops_rd":0,"iops_wr":0}}}}"#,
        ))
    }

    /// Takes the disk away from behind its device, which answers every request with an error from
    /// then on.
    pub fn remove_disk(&self) -> Result<()> {
        let reply = Monitor::connect(self)?.request(
            r#"{"execute":"human-monitor-command","arguments":{"command-line":"drive_del disk"}}"#,
        )?;
        match reply.contains(r#""return": """#) {
            true => Ok(()),
            false => bail!("QEMU did not take the disk away: {reply}"),
        }
    }

    /// Takes the card out of its slot.
    pub fn remove_card(&self) -> Result<()> {
        self.request(r#"{"execute":"eject","arguments":{"device":"disk","force":true}}"#)
    }

    /// Sends a request of the QEMU Machine Protocol and waits for its reply.
    fn request(&self, request: &str) -> Result<()> {
        Monitor::connect(self)?.request(request).map(|_| ())
    }

    /// Reads guest memory at a physical address.
    pub fn memory(&self, address: u64, length: usize) -> Result<Vec<u8>> {
        let offset = address.checked_sub(self.ram_base).context("no RAM there")?;
        let mut bytes = vec![0; length];
        File::open(&self.ram)?.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    /// Overwrites guest memory at a physical address through the debug port, so that QEMU also
    /// drops what it has translated from there. Device registers are written as a CPU would.
    pub fn patch(&self, address: u64, words: &[u32]) -> Result<()> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        // QEMU takes packets of 4 KiB at the most.
        self.write((address..).step_by(512).zip(bytes.chunks(512)))
    }

    /// Writes to physical addresses through the debug port: memory, or registers, with accesses
    /// as wide as the pieces. The guest runs on after that.
    pub fn write<'b>(&self, pieces: impl Iterator<Item = (u64, &'b [u8])>) -> Result<()> {
        let mut debugger = Debugger::connect(self)?;
        debugger.request("Qqemu.PhyMemMode:1")?;
        for (at, bytes) in pieces {
            let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            debugger.request(&format!("M{at:x},{:x}:{digits}", bytes.len()))?;
        }
        debugger.detach()
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        // Both fail only when the process has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn add_options(command: &mut Command, machine: &Machine<'_>) {
    let mut options = vec![machine.board.name().to_owned(), "memory-backend=ram".into()];
    options.extend(machine.options.iter().cloned());
    let socket = |name: &str| {
        let path = machine.sockets.join(name);
        format!(
            "socket,id={name},path={},server=on,wait=off",
            path.display()
        )
    };
    let console = match machine.serial {
        None => "stdio,id=console,signal=off".to_owned(),
        Some(path) => format!(
            "socket,id=console,path={},server=on,wait=off",
            path.display()
        ),
    };
    command
        .args(["-M", &options.join(",")])
        .args([
            "-smp",
            &machine.smp.to_string(),
            "-m",
            &format!("{}M", machine.mem_mib),
        ])
        .arg("-object")
        .arg(format!(
            // Real RAM is there from the start: no capture pays for the host's page faults.
            "memory-backend-file,id=ram,size={}M,mem-path={},share=on,prealloc={}",
            machine.mem_mib,
            machine.ram.display(),
            match machine.entry {
                None => "on",
                // It was there when the machine before was made.
                Some(_) => "off",
            }
        ))
        .args([
            "-display",
            "none",
            "-nic",
            "none",
            "-no-reboot",
            "-nodefaults",
        ])
        .args(if machine.count {
            &["-icount", "shift=0,sleep=off", "-no-shutdown"][..]
        } else {
            &[]
        })
        .args(["-chardev", &console])
        .args([
            "-chardev",
            &socket("qmp"),
            "-mon",
            "chardev=qmp,mode=control",
        ])
        .args(["-chardev", &socket("gdb"), "-gdb", "chardev:gdb"]);
    if machine.board == Board::Virt {
        command.args(["-cpu", machine.cpu]);
        command.args(["-global", "virtio-mmio.force-legacy=false"]);
    }
    for _ in 0..machine.board.uart() {
        command.args(["-serial", "null"]);
    }
    command.args(["-serial", "chardev:console"]);
    if let Some(tree) = &machine.device_tree {
        command.arg("-dtb").arg(tree);
    }
    if let Some(image) = machine.disk {
        command.arg("-drive").arg(drive(machine, image));
        for device in machine.bus.devices() {
            command.args(["-device", device]);
        }
    }
    if machine.watchdog {
        // Behind the disk, whose place on the bus stays.
        command.args(["-device", "i6300esb", "-action", "watchdog=reset"]);
    }
    match machine.entry {
        Some(entry) => command
            .args(["-S", "-device"])
            .arg(format!("loader,addr={entry:#x},cpu-num=0")),
        None => command
            .arg("-kernel")
            .arg(machine.kernel)
            .arg("-initrd")
            .arg(machine.initramfs)
            .args(["-append", machine.command_line]),
    };
}

/// Returns QEMU's option for the disk's image. (Its blkdebug driver answers every write that
/// touches the bad sector with an I/O error, and writes nothing.)
fn drive(machine: &Machine<'_>, image: &Path) -> String {
    let image = image.display();
    let file = match machine.bad_byte {
        None => format!("file={image}"),
        Some(byte) => format!(
            "file.driver=blkdebug,file.image.driver=file,file.image.filename={image},\
             file.inject-error.0.event=none,file.inject-error.0.iotype=write,\
             file.inject-error.0.sector={}",
            byte / 512
        ),
    };
    format!("{file},format=raw,{},id=disk", machine.bus.slot())
}

/// The longest wait for an answer of QEMU itself.
const ANSWER: Duration = Duration::from_secs(10);

/// The longest wait for a dump by QEMU.
const DUMP: Duration = Duration::from_secs(120);

/// A connection to QEMU by its Machine Protocol.
pub struct Monitor {
    stream: UnixStream,
    replies: std::io::Lines<BufReader<UnixStream>>,
}

impl Monitor {
    /// Connects; there can be one connection at a time.
    pub fn connect(qemu: &Qemu) -> Result<Self> {
        let stream = UnixStream::connect(qemu.sockets.join("qmp"))?;
        stream.set_read_timeout(Some(ANSWER))?;
        let mut replies = BufReader::new(stream.try_clone()?).lines();
        replies.next().context("QMP sent no greeting")??;
        let mut monitor = Self { stream, replies };
        monitor.request(r#"{"execute":"qmp_capabilities"}"#)?;
        Ok(monitor)
    }

    /// Sends a request and returns its reply.
    fn request(&mut self, request: &str) -> Result<String> {
        writeln!(&self.stream, "{request}")?;
        loop {
            let reply = self.replies.next().context("QMP closed the connection")??;
            if reply.contains("\"error\"") {
                bail!("QMP refused {request}: {reply}");
            }
            if reply.contains("\"return\"") {
                return Ok(reply);
            }
        }
    }

    /// Returns how many instructions the guest's CPUs have executed together. Exact while they
    /// stand still; the time that an idle CPU skipped is not in it.
    pub fn instructions(&mut self) -> Result<u64> {
        let reply = self.request(r#"{"execute":"query-replay"}"#)?;
        let reply: serde_json::Value = serde_json::from_str(&reply)?;
        reply["return"]["icount"]
            .as_u64()
            .context("QEMU told no count of instructions")
    }

    /// The formats in which QEMU dumps the machine's memory, those of other systems left out.
    pub fn dump_formats(&mut self) -> Result<Vec<String>> {
        let reply = self.request(r#"{"execute":"query-dump-guest-memory-capability"}"#)?;
        let reply: serde_json::Value = serde_json::from_str(&reply)?;
        let formats = reply["return"]["formats"].as_array();
        let formats = formats.context("QEMU told no formats of dumps")?.iter();
        let names = formats.filter_map(|format| format.as_str());
        let ours = names.filter(|name| *name == "elf" || name.starts_with("kdump-"));
        Ok(ours.map(str::to_owned).collect())
    }

    /// Dumps the machine's memory into a file; the machine stands still meanwhile.
    pub fn dump_memory(&mut self, format: &str, path: &Path) -> Result<()> {
        self.stream.set_read_timeout(Some(DUMP))?;
        let path = path.display();
        self.request(&format!(
            r#"{{"execute":"dump-guest-memory","arguments":{{"paging":false,"protocol":"file:{path}","format":"{format}"}}}}"#
        ))?;
        Ok(self.stream.set_read_timeout(Some(ANSWER))?)
    }

    /// Ends QEMU.
    pub fn quit(&mut self) -> Result<()> {
        self.request(r#"{"execute":"quit"}"#).map(|_| ())
    }

    /// Waits until the guest has reset the machine.
    pub fn wait_for_reset(&mut self, budget: Duration) -> Result<()> {
        self.wait_for("SHUTDOWN", budget)
    }

    /// Waits for QEMU's event of a name: `SHUTDOWN` is a reset, `WATCHDOG` one by a watchdog.
    pub fn wait_for(&mut self, name: &str, budget: Duration) -> Result<()> {
        self.stream.set_read_timeout(Some(budget))?;
        loop {
            let event = self.replies.next().context("QEMU ended")?;
            let event = event.with_context(|| format!("no event {name} in time"))?;
            if event.contains(&format!("\"{name}\"")) {
                self.stream.set_read_timeout(Some(ANSWER))?;
                return Ok(());
            }
        }
    }
}

/// A connection to QEMU's debug port, by the GDB remote protocol; the guest stands still.
pub struct Debugger(UnixStream);

impl Debugger {
    /// Connects, which stops the guest.
    pub fn connect(qemu: &Qemu) -> Result<Self> {
        let stream = UnixStream::connect(qemu.sockets.join("gdb"))?;
        stream.set_read_timeout(Some(ANSWER))?;
        Ok(Self(stream))
    }

    /// Sends a packet and waits for its `OK`.
    fn request(&mut self, request: &str) -> Result<()> {
        self.send(request)?;
        loop {
            let reply = self
                .packet()
                .with_context(|| format!("no reply to {request}"))?;
            if reply == "OK" {
                return Ok(());
            }
            // The stop that the connection caused may come before the reply.
            if !is_stop(&reply) {
                bail!("QEMU's debug port answered {reply:?} to {request}");
            }
        }
    }

    /// Sets a breakpoint at a virtual address and lets the guest run.
    pub fn run_to(&mut self, address: u64) -> Result<()> {
        self.request(&format!("Z1,{address:x},4"))?;
        self.send("c")
    }

    /// Waits until the guest has reached the breakpoint at `address`, and removes that.
    pub fn reached(&mut self, address: u64, budget: Duration) -> Result<()> {
        self.0.set_read_timeout(Some(budget))?;
        let stop = self.packet().context("the breakpoint was not reached")?;
        if !is_stop(&stop) {
            bail!("QEMU's debug port said {stop:?} instead of a stop");
        }
        self.0.set_read_timeout(Some(ANSWER))?;
        self.request(&format!("z1,{address:x},4"))
    }

    /// Lets the guest run on.
    pub fn detach(mut self) -> Result<()> {
        self.request("D")
    }

    /// Sends a packet: `$…#xx`, xx the sum of its bytes.
    fn send(&mut self, request: &str) -> Result<()> {
        let sum = request.bytes().fold(0u8, u8::wrapping_add);
        Ok(self
            .0
            .write_all(format!("${request}#{sum:02x}").as_bytes())?)
    }

    /// Receives a packet, past the `+` that confirms what was sent.
    fn packet(&mut self) -> Result<String> {
        let mut packet = Vec::new();
        loop {
            let mut byte = [0];
            self.0.read_exact(&mut byte)?;
            packet.push(byte[0]);
            let Some(mark) = packet.len().checked_sub(3).filter(|at| packet[*at] == b'#') else {
                continue;
            };
            self.0.write_all(b"+")?;
            let start = packet
                .iter()
                .position(|byte| *byte == b'$')
                .map_or(0, |at| at + 1);
            let reply = packet.get(start..mark).unwrap_or(&[]);
            return Ok(String::from_utf8_lossy(reply).into_owned());
        }
    }
}

fn is_stop(packet: &str) -> bool {
    packet.starts_with(['T', 'S'])
}
