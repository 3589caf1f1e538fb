//! One file's way: send what is missing, read back what has not been read yet, until all of it is
//! there and equal; then it gets its name.
//!
//! The same loop resumes and verifies. What a service itself says of a file (an ETag, a checksum it
//! was told when it took the file) is never relied on: every byte that counts as arrived has been
//! read from there and compared with the one here, once. A folder of this machine is read past the
//! page cache.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::TryStreamExt;
use opendal::{Buffer, ErrorKind};
use sha2::{Digest, Sha256};

use crate::error::{Class, ShipError, classify, reason};
use crate::place::{Connection, Naming, Place};
use crate::source::Source;

/// Bytes that are sent, or compared, at once.
const CHUNK: usize = 1 << 20;
/// Bytes of an S3 store's pieces: at least 5 MiB, and 10,000 of them at the most (S3's limits).
const PIECE: usize = 16 << 20;
/// How long the other end may take for a small request, or for [`CHUNK`] bytes.
const ANSWER: Duration = Duration::from_secs(60);
/// How long it may take to close a file, or for a piece with its repetitions.
const CLOSE: Duration = Duration::from_secs(300);
/// The slowest that a whole file may travel, in bytes per second.
const SLOWEST: u64 = 16 << 10;
/// How often a file may be refused in a row, by a server that answers, until it counts as full.
const REFUSALS: u32 = 3;
/// How often anything else may go wrong in a row.
const FAILURES: u32 = 6;
/// How often a file may come back with other bytes.
const DIFFERENT: u32 = 3;
/// The longest pause.
const PAUSE: Duration = Duration::from_secs(30);
/// Letters after a name, as long as the file is not whole.
const PART: &str = ".part";

/// Shows what is done, and how far it is: position, total.
pub type Show<'a> = &'a mut dyn FnMut(&'static str, u64, u64);

/// A file on its way.
pub struct Transfer<'a> {
    place: &'a Place,
    source: &'a Source,
    /// Its name there.
    target: String,
    /// Its name until it is whole.
    part: String,
    patience: Duration,
    show: Show<'a>,
    /// How much of `part` has been compared, and its sum.
    seen: Seen,
    /// Whether the final name may have the file already.
    may_be_there: bool,
    /// Whether everything was sent, and the other end said that it has it.
    sent: bool,
    /// The most that `part` ever had.
    largest: u64,
    different: u32,
    refusals: u32,
    failures: u32,
    pauses: u32,
    lost: Option<Instant>,
}

/// Bytes from the beginning that are equal.
#[derive(Clone, Default)]
struct Seen {
    bytes: u64,
    sum: Sha256,
}

/// What went wrong in a round.
enum Fault {
    /// At the other end; whether while writing.
    There(opendal::Error, bool),
    /// For good.
    Final(ShipError),
}

impl<T: Into<ShipError>> From<T> for Fault {
    fn from(error: T) -> Self {
        Self::Final(error.into())
    }
}

impl From<opendal::Error> for Fault {
    fn from(error: opendal::Error) -> Self {
        Self::There(error, false)
    }
}

impl<'a> Transfer<'a> {
    /// The way of `source` into `folder` of a place.
    pub fn new(
        place: &'a Place,
        folder: &str,
        source: &'a Source,
        patience: Duration,
        show: Show<'a>,
    ) -> Self {
        let target = format!("{folder}/{}", source.name);
        Self {
            place,
            source,
            part: format!("{target}{PART}"),
            target,
            patience,
            show,
            seen: Seen::default(),
            may_be_there: true,
            sent: false,
            largest: 0,
            different: 0,
            refusals: 0,
            failures: 0,
            pauses: 0,
            lost: None,
        }
    }

    /// Goes it, over a connection that outlives it. Returns the SHA-256 of what is there.
    ///
    /// # Errors
    /// [`ShipError`].
    pub async fn run(mut self, connection: &mut Option<Connection>) -> Result<String, ShipError> {
        loop {
            let fault = match self.round(connection).await {
                Ok(Some(sum)) => return Ok(hex(&sum.finalize())),
                Ok(None) => continue,
                Err(fault) => fault,
            };
            // What a pool of connections has kept is of no use after a failure.
            *connection = None;
            let pause = self.judge(fault)?;
            tokio::time::sleep(pause).await;
        }
    }

    /// Compares what is there, and sends what is not. Returns the sum once the file has its name.
    async fn round(
        &mut self,
        connection: &mut Option<Connection>,
    ) -> Result<Option<Sha256>, Fault> {
        let connection = match connection {
            Some(connection) => connection,
            none => none.insert(self.place.connect()?),
        };
        let whole = matches!(connection.naming, Naming::Whole);
        if whole {
            self.part.clone_from(&self.target);
        } else if self.may_be_there {
            if size(connection, &self.target).await? == Some(self.source.len) {
                let target = self.target.clone();
                let mut seen = Seen::default();
                let equal = self.compare(connection, &target, self.source.len, &mut seen);
                if equal.await? {
                    return Ok(Some(seen.sum));
                }
            }
            self.may_be_there = false;
        }
        let there = size(connection, &self.part).await?.unwrap_or(0);
        self.lost = None;
        if there > self.largest {
            self.largest = there;
            (self.refusals, self.failures, self.pauses) = (0, 0, 0);
        }
        if there < self.seen.bytes {
            self.seen = Seen::default();
        }
        let (part, mut seen) = (self.part.clone(), std::mem::take(&mut self.seen));
        let fits = there <= self.source.len;
        let equal = match fits {
            true => self.compare(connection, &part, there, &mut seen).await,
            false => Ok(false),
        };
        self.seen = seen;
        if !equal? {
            self.seen = Seen::default();
            self.sent = false;
            self.largest = 0;
            self.different = self.different.saturating_add(1);
            if self.different >= DIFFERENT {
                return Err(Fault::Final(ShipError::Differs {
                    place: self.place.name.clone(),
                    file: self.source.name.clone(),
                    times: self.different,
                }));
            }
            within(ANSWER, connection.operator.delete(&part)).await?;
            return Ok(None);
        }
        if there == self.source.len {
            self.name(connection).await?;
            return Ok(Some(self.seen.sum.clone()));
        }
        if std::mem::take(&mut self.sent) {
            let why = "it said that it has the bytes, and has them not";
            let error = opendal::Error::new(ErrorKind::Unexpected, why);
            return Err(Fault::There(error, true));
        }
        self.send(connection).await?;
        self.sent = true;
        Ok(None)
    }

    /// Compares what is at `path`, up to `end`, from where `seen` ends.
    async fn compare(
        &mut self,
        connection: &Connection,
        path: &str,
        end: u64,
        seen: &mut Seen,
    ) -> Result<bool, Fault> {
        if seen.bytes == end {
            return Ok(true);
        }
        if let Some(folder) = self.place.folder() {
            past_the_cache(&folder.join(path));
        }
        let reader = within(ANSWER, connection.operator.reader(path)).await?;
        let mut stream = within(ANSWER, reader.into_stream(seen.bytes..end)).await?;
        while let Some(piece) = within(ANSWER, stream.try_next()).await? {
            for there in piece {
                for there in there.chunks(CHUNK) {
                    if there.len() as u64 > end.saturating_sub(seen.bytes) {
                        return Ok(false);
                    }
                    let here = self.source.read(seen.bytes, there.len())?;
                    if here != there {
                        return Ok(false);
                    }
                    seen.sum.update(there);
                    seen.bytes = seen.bytes.saturating_add(there.len() as u64);
                    (self.show)("reading back", seen.bytes, self.source.len);
                }
            }
        }
        if seen.bytes == end {
            return Ok(true);
        }
        let why = "it has not sent all of the file back";
        Err(opendal::Error::new(ErrorKind::Unexpected, why).into())
    }

    /// Sends what follows on what was compared.
    async fn send(&mut self, connection: &Connection) -> Result<(), Fault> {
        let written = |error| Fault::There(error, true);
        let operator = &connection.operator;
        if self.place.takes_whole_files() {
            let mut rest = self.source.whole()?;
            self.seen = Seen::default();
            let mut pieces: Vec<Bytes> = Vec::new();
            while !rest.is_empty() {
                pieces.push(rest.split_to(CHUNK.min(rest.len())));
            }
            let time = CLOSE.saturating_add(Duration::from_secs(self.source.len / SLOWEST));
            (self.show)("sending", 0, self.source.len);
            let write = operator.write(&self.part, Buffer::from(pieces));
            return within(time, write).await.map(drop).map_err(written);
        }
        let (opened, step, time) = match &connection.appender {
            Some(appender) => {
                let writer = appender.writer_with(&self.part).append(true);
                (within(ANSWER, writer).await, CHUNK, ANSWER)
            }
            None => {
                self.seen = Seen::default();
                let writer = operator.writer_with(&self.part).chunk(PIECE);
                (within(ANSWER, writer).await, PIECE, CLOSE)
            }
        };
        let mut writer = opened.map_err(written)?;
        let mut at = self.seen.bytes;
        let done = loop {
            if at == self.source.len {
                break within(CLOSE, writer.close()).await.map(drop);
            }
            let left = self.source.len.saturating_sub(at).min(step as u64);
            let bytes = self.source.read(at, left as usize)?;
            if let Err(error) = within(time, writer.write(bytes)).await {
                break Err(error);
            }
            at = at.saturating_add(left);
            (self.show)("sending", at, self.source.len);
        };
        if done.is_err() && connection.appender.is_none() {
            // Pieces that nobody puts together would stay, and cost. Best effort: the error that
            // brought us here is the one to tell.
            let _ = within(ANSWER, writer.abort()).await;
        }
        done.map_err(written)
    }

    /// Gives it its name.
    async fn name(&mut self, connection: &Connection) -> Result<(), Fault> {
        if matches!(connection.naming, Naming::Whole) {
            return Ok(());
        }
        let operator = &connection.operator;
        // The connection may break after it was renamed.
        self.may_be_there = true;
        if size(connection, &self.target).await?.is_some() {
            within(ANSWER, operator.delete(&self.target)).await?;
        }
        match &connection.naming {
            Naming::Ftp(account) => {
                let rename = async {
                    let renamed = account.rename(&self.part, &self.target).await;
                    renamed.map_err(|why| {
                        opendal::Error::new(ErrorKind::Unexpected, "ftp error").set_source(why)
                    })
                };
                within(ANSWER, rename).await?;
            }
            _ => within(ANSWER, operator.rename(&self.part, &self.target)).await?,
        }
        Ok(())
    }

    /// Decides whether it is tried again, and after which pause.
    fn judge(&mut self, fault: Fault) -> Result<Duration, ShipError> {
        let (error, writing) = match fault {
            // The folder may come yet: what it is on is being mounted.
            Fault::Final(ShipError::Unreachable { place, why }) => {
                return self.wait(|| ShipError::Unreachable { place, why });
            }
            Fault::Final(error) => return Err(error),
            Fault::There(error, writing) => (error, writing),
        };
        let place = self.place.name.clone();
        let why = reason(&error);
        match classify(&error) {
            Class::Unreachable => self.wait(|| ShipError::Unreachable { place, why }),
            Class::Refused => Err(ShipError::Refused { place, why }),
            Class::Full => Err(self.full(why)),
            Class::Lasting => Err(ShipError::Other { place, why }),
            Class::Passing if writing => {
                // Those that OpenDAL has retried by itself are marked so.
                let times = if error.is_persistent() { REFUSALS } else { 1 };
                self.refusals = self.refusals.saturating_add(times);
                if self.refusals >= REFUSALS {
                    return Err(self.full(why));
                }
                Ok(self.pause())
            }
            Class::Passing => {
                self.failures = self.failures.saturating_add(1);
                if self.failures >= FAILURES {
                    return Err(ShipError::Other { place, why });
                }
                Ok(self.pause())
            }
        }
    }

    fn full(&self, why: String) -> ShipError {
        ShipError::Full {
            place: self.place.name.clone(),
            file: self.source.name.clone(),
            taken: self.largest,
            len: self.source.len,
            why,
        }
    }

    /// Waits for the place to come back, as long as patience lasts.
    fn wait(&mut self, error: impl FnOnce() -> ShipError) -> Result<Duration, ShipError> {
        // A server that comes and goes is none that answers and does not take the file.
        self.refusals = 0;
        let lost = *self.lost.get_or_insert_with(Instant::now);
        let pause = self.pause();
        match lost.elapsed().saturating_add(pause) > self.patience {
            true => Err(error()),
            false => Ok(pause),
        }
    }

    /// Each pause in a row is twice as long as the one before.
    fn pause(&mut self) -> Duration {
        let pause = Duration::from_secs(1).saturating_mul(1 << self.pauses.min(5));
        self.pauses = self.pauses.saturating_add(1);
        pause.min(PAUSE)
    }
}

/// Bytes of a file there; nothing if there is none.
async fn size(connection: &Connection, path: &str) -> Result<Option<u64>, Fault> {
    match within(ANSWER, connection.operator.stat(path)).await {
        Ok(data) => Ok(Some(data.content_length())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Waits for an answer, but not forever.
async fn within<T>(
    time: Duration,
    work: impl IntoFuture<Output = opendal::Result<T>>,
) -> opendal::Result<T> {
    tokio::time::timeout(time, work).await.unwrap_or_else(|_| {
        let why = format!("no answer within {} s", time.as_secs());
        let timeout = std::io::Error::new(std::io::ErrorKind::TimedOut, why);
        Err(opendal::Error::new(ErrorKind::Unexpected, "timeout").set_source(timeout))
    })
}

/// Has the kernel forget what it keeps of a file, so that the disk or the NFS server is asked. If
/// it does not, what it keeps is compared.
fn past_the_cache(path: &std::path::Path) {
    if let Ok(file) = std::fs::File::open(path) {
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
