//! The filter on the running kernel: what it would keep of this very machine, and whether the
//! kernel itself sees its pages the same way.
//!
//! - [`kcore`]: the memory of the running kernel, read as the payload reads a dead one's.
//! - [`page_flags`]: what the kernel tells about each page in /proc/kpageflags.
//! - [`census`]: one pass of the payload's own classifier, compared page by page.
//! - [`meminfo`]: the kernel's totals.
//! - [`packing`]: how far what is kept can be packed, by trying it on a sample.
//! - [`estimate`]: all of it put together: proof, size, time.
//! - [`device`]: what the target's device holds, and how fast it is; [`outlook`]: the estimate beside it, in words.

pub mod census;
pub mod device;
pub mod estimate;
pub mod kcore;
pub mod meminfo;
pub mod outlook;
pub mod packing;
pub mod page_flags;
