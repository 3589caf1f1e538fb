//! The line that a dump comes over: a terminal device, a socket, or a recording.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use rustix::termios::{self, OptionalActions};

/// How long an answer may take to be sent before it is given up: it is only repeated.
const WRITE_TIMEOUT: Duration = Duration::from_secs(1);
/// Bytes that are read at once.
const PIECE: usize = 16 << 10;

/// Where a dump comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// A terminal device, a pipe, or a file with what a terminal recorded.
    Path(PathBuf),
    /// A Unix socket that somebody listens at.
    Unix(PathBuf),
    /// A TCP port, as terminal servers have it: host and port.
    Tcp(String),
}

impl FromStr for Line {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Self::Unix(path.into()));
        }
        match text.strip_prefix("tcp:") {
            Some(address) if address.contains(':') => Ok(Self::Tcp(address.to_owned())),
            Some(_) => Err("a TCP port is named as tcp:HOST:PORT".into()),
            None => Ok(Self::Path(text.into())),
        }
    }
}

/// What came from a line.
#[derive(Debug)]
pub enum Came {
    /// Bytes.
    Bytes(Vec<u8>),
    /// Nothing in the time asked for.
    Nothing,
    /// The line's end, or what is wrong with it.
    Ended(Option<io::Error>),
}

/// An open line: read by a thread of its own, so that no read is waited for without limit.
pub struct Port {
    pieces: Receiver<io::Result<Vec<u8>>>,
    out: Option<Box<dyn Write>>,
    /// Whether it can be opened again when it ends.
    pub lasting: bool,
}

impl Line {
    /// Opens it; a terminal device is set to raw mode and `baud`.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(&self, baud: u32) -> io::Result<Port> {
        match self {
            Self::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
                Ok(Port::new(stream.try_clone()?, Some(Box::new(stream)), true))
            }
            Self::Tcp(address) => {
                let stream = TcpStream::connect(address.as_str())?;
                stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
                stream.set_nodelay(true)?;
                Ok(Port::new(stream.try_clone()?, Some(Box::new(stream)), true))
            }
            Self::Path(path) => {
                let kind = std::fs::metadata(path)?.file_type();
                if !kind.is_char_device() {
                    return Ok(Port::new(File::open(path)?, None, false));
                }
                let device = OpenOptions::new()
                    .read(true)
                    .write(true)
                    .custom_flags(libc::O_NOCTTY)
                    .open(path)?;
                if termios::isatty(&device) {
                    make_raw(&device, baud)?;
                }
                Ok(Port::new(device.try_clone()?, Some(Box::new(device)), true))
            }
        }
    }
}

/// No echo, no line editing, no flow control by characters, eight bits.
fn make_raw(device: &File, baud: u32) -> io::Result<()> {
    let mut settings = termios::tcgetattr(device)?;
    settings.make_raw();
    settings.control_modes |= termios::ControlModes::CLOCAL | termios::ControlModes::CREAD;
    settings.set_speed(baud)?;
    Ok(termios::tcsetattr(device, OptionalActions::Now, &settings)?)
}

impl Port {
    fn new(
        mut from: impl Read + Send + 'static,
        out: Option<Box<dyn Write>>,
        lasting: bool,
    ) -> Self {
        // A short queue: a reader that falls behind holds the line, not memory.
        let (send, pieces) = sync_channel(4);
        thread::spawn(move || {
            loop {
                let mut piece = vec![0; PIECE];
                let read = match from.read(&mut piece) {
                    Ok(len) => {
                        piece.truncate(len);
                        Ok(piece)
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => Err(error),
                };
                let over = read.as_ref().map_or(true, Vec::is_empty);
                if send.send(read).is_err() || over {
                    return;
                }
            }
        });
        Self {
            pieces,
            out,
            lasting,
        }
    }

    /// Waits for bytes.
    pub fn read(&mut self, wait: Duration) -> Came {
        match self.pieces.recv_timeout(wait) {
            Ok(Ok(bytes)) if bytes.is_empty() => Came::Ended(None),
            Ok(Ok(bytes)) => Came::Bytes(bytes),
            Ok(Err(error)) => Came::Ended(Some(error)),
            Err(RecvTimeoutError::Timeout) => Came::Nothing,
            Err(RecvTimeoutError::Disconnected) => Came::Ended(None),
        }
    }

    /// Sends an answer; one that cannot be sent is lost, as on any line.
    pub fn write(&mut self, bytes: &[u8]) {
        if let Some(out) = &mut self.out {
            let _ = out.write_all(bytes).and_then(|()| out.flush());
        }
    }
}
