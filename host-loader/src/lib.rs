#![deny(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]
//! The tool `kdraw`: signs a partition, arms the capture, gets dumps back.
//!
//! - [`commands`]: one file per command, thin; everything below is what they share.
//! - On the board: [`system`] and [`iomem`] read the running system, [`block`] and [`controller`]
//!   find the target's disk, [`watchdog`] what may cut a capture short, [`live`] tries the filter on the running kernel, [`load`] checks and
//!   builds what is loaded, [`payload`] is what gets loaded, [`sys`] the system call.
//! - Before all that: [`reserve`] has the boot loader reserve the memory.
//! - [`config`]: what the commands do where no option says otherwise.
//! - With a board on a serial line: [`receive`] takes its dump into an image file.
//! - With a dump: [`source`] finds the partition, [`partition`] its headers, [`scan`] reads a
//!   slot, [`verify`] judges it, [`extract`] turns it into a vmcore, [`summary`] tells of it;
//!   [`archive`] is where dumps are saved, [`shipped`] what of them is on other machines.
//! - Inside a dump, whatever holds it: [`dump`] opens it for [`kdraw_kernel`], which knows the
//!   crashed kernel's symbols and types; [`inside`] has of it what several commands show,
//!   [`report`] everything on one page, [`disassembly`] its instructions;
//!   [`openers`] opens it with other tools, for which [`debug_info`] finds the debug information.
//!
//! What is on a partition is hostile until checked; nothing in here panics on it. Unsafe code
//! stands in [`sys`] only.

pub mod archive;
pub mod ask;
pub mod black_box;
pub mod block;
pub mod check;
pub mod cli;
pub mod commands;
pub mod config;
pub mod controller;
pub mod core_file;
pub mod debug_info;
pub mod device_tree_blob;
pub mod disassembly;
pub mod dump;
pub mod error;
pub mod exit;
pub mod extract;
pub mod frame_index;
pub mod frames;
pub mod input;
pub mod inside;
pub mod iomem;
pub mod kdump;
pub mod live;
pub mod load;
pub mod openers;
pub mod output;
pub mod parallel;
pub mod partition;
pub mod payload;
pub mod plain_core;
pub mod progress;
pub mod random;
pub mod receive;
pub mod report;
pub mod reserve;
pub mod scan;
pub mod sd_card;
pub mod shipped;
pub mod signatures;
pub mod source;
pub mod summary;
pub mod sys;
pub mod system;
pub mod text;
pub mod unpack;
pub mod verify;
pub mod watchdog;
