//! Reads vmcores: kdump-compressed and ELF files, also as flattened streams.

pub mod flattened;
pub mod kdump;
mod lzo;

use std::path::{Path, PathBuf};

use kdraw_format::addr::PhysAddr;
use kdraw_kernel::lost_vmcoreinfo;
use kdraw_linux::memory::{PhysMem, Unreadable};
use kdraw_linux::vmcoreinfo::Vmcoreinfo;

use crate::core_file::{CoreFile, NoCore};
use crate::error::Error;
use crate::frames::FrameSet;
use crate::kdump::INCOMPLETE;
use crate::output::Image;
use crate::source::{Access, SharedRead, Source};
use flattened::{FlattenedError, FlattenedFile};
use kdump::{KdumpError, KdumpFile};

/// A file, or what a flattened stream makes.
type Bytes = Box<dyn SharedRead + Send>;

/// Why a file cannot be read as a vmcore.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// It is none of those that are known.
    #[error(
        "{0} is no vmcore: neither kdump-compressed nor ELF nor a flattened stream; a dump \
         partition is for `kdraw extract`"
    )]
    Unknown(PathBuf),
    /// A damaged kdump-compressed file.
    #[error("{path} cannot be read as kdump-compressed: {source}")]
    Kdump {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: KdumpError,
    },
    /// A damaged ELF file.
    #[error("{path} cannot be read as an ELF core: {source}")]
    Elf {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: NoCore,
    },
    /// A damaged flattened stream.
    #[error("{path} cannot be read as a flattened stream: {source}")]
    Flattened {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: FlattenedError,
    },
    /// It cannot be opened.
    #[error(transparent)]
    Other(#[from] Error),
}

/// A vmcore.
pub struct Vmcore {
    file: File,
    size: u64,
    known: FrameSet,
    notes: Vec<u8>,
    /// What is wrong with it, in words.
    pub problems: Vec<String>,
    /// What had to be found out, in words.
    pub remarks: Vec<String>,
}

enum File {
    Kdump(Box<KdumpFile<Bytes>>),
    Elf(CoreFile<Bytes>),
}

impl Vmcore {
    /// Opens a file.
    ///
    /// # Errors
    /// [`InputError`].
    pub fn open(path: &Path) -> Result<Self, InputError> {
        let path_buf = || path.to_owned();
        let mut problems = Vec::new();
        let source = Source::open(path, Access::Read)?;
        let size = source.size();
        let mut bytes: Bytes = Box::new(source);
        if FlattenedFile::looks_like(&bytes) {
            let flat = FlattenedFile::open(bytes).map_err(|source| InputError::Flattened {
                path: path_buf(),
                source,
            })?;
            if !flat.is_whole() {
                problems.push("the flattened stream ends early".to_owned());
            }
            bytes = Box::new(flat);
        }
        let file = if KdumpFile::looks_like(&bytes) {
            let file = KdumpFile::open(bytes).map_err(|source| InputError::Kdump {
                path: path_buf(),
                source,
            })?;
            if file.lost() > 0 {
                problems.push(format!("{} pages have no data", file.lost()));
            }
            File::Kdump(Box::new(file))
        } else if CoreFile::looks_like(&bytes) {
            let file = CoreFile::open(bytes).map_err(|source| InputError::Elf {
                path: path_buf(),
                source,
            })?;
            File::Elf(file)
        } else {
            return Err(InputError::Unknown(path_buf()));
        };
        let (known, notes) = match &file {
            File::Kdump(file) => (file.known(), file.notes().to_vec()),
            File::Elf(file) => (file.known(), file.notes()),
        };
        let vmcore = Self {
            file,
            size,
            known,
            notes,
            problems,
            remarks: Vec::new(),
        };
        Ok(vmcore.checked())
    }

    fn checked(mut self) -> Self {
        if let File::Elf(file) = &self.file {
            let loads = file.loads().iter().map(|load| load.memory);
            let mut promised = FrameSet::default();
            loads.for_each(|memory| promised.add_range(memory));
            promised.tidy();
            let lost = promised.without(&self.known).count();
            if lost > 0 {
                self.problems
                    .push(format!("{lost} frames lie behind the end of the file"));
            }
        }
        if Vmcoreinfo::from_notes(&self.notes).is_none() {
            let ranges = self.known.ranges().iter().copied();
            match lost_vmcoreinfo::search(&self, ranges) {
                Some(note) => {
                    self.notes.extend(note);
                    let remark =
                        "it has no note of VMCOREINFO; the kernel's own was found in memory";
                    self.remarks.push(remark.to_owned());
                }
                None => self.problems.push("it has no VMCOREINFO".to_owned()),
            }
        }
        self
    }

    /// `kdump` or `elf`.
    pub fn format(&self) -> &'static str {
        match &self.file {
            File::Kdump(_) => "kdump",
            File::Elf(_) => "elf",
        }
    }

    /// Bytes of the file.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The frames in it.
    pub fn known(&self) -> &FrameSet {
        &self.known
    }

    /// The frames that existed.
    pub fn exist(&self) -> &FrameSet {
        match &self.file {
            File::Kdump(file) => file.exist(),
            File::Elf(file) => file.exist(),
        }
    }

    /// Its notes.
    pub fn notes(&self) -> &[u8] {
        &self.notes
    }

    /// Whether it says of itself that something is missing, or something is.
    pub fn is_incomplete(&self) -> bool {
        let told = match &self.file {
            File::Kdump(file) => file.header().status & INCOMPLETE != 0,
            File::Elf(file) => file.is_incomplete(),
        };
        told || !self.problems.is_empty()
    }

    /// What there is to write.
    pub fn image(&self) -> Image<'_> {
        let mut image = Image {
            memory: self,
            known: self.known.clone(),
            ram: self.exist().clone(),
            notes: self.notes.clone(),
            incomplete: self.is_incomplete(),
            level: 0,
            uname: Default::default(),
            crash_time: 0,
        };
        if let File::Kdump(file) = &self.file {
            let header = file.header();
            let [system, node, release, version, machine, _] = header.uname.clone();
            image.uname = [system, node, release, version, machine];
            image.level = u8::try_from(header.level).unwrap_or(0);
            image.crash_time = header.crash_time;
        }
        if image.crash_time == 0 {
            let told = image.vmcoreinfo().and_then(|info| info.crash_time());
            image.crash_time = told.unwrap_or(0);
        }
        image.find_uname();
        image
    }
}

impl PhysMem for Vmcore {
    fn read(&self, at: PhysAddr, into: &mut [u8]) -> Result<(), Unreadable> {
        match &self.file {
            File::Kdump(file) => file.read(at, into),
            File::Elf(file) => file.read(at, into),
        }
    }
}
