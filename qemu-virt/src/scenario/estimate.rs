//! Compares what `kdraw estimate` said just before the panic with the dump that followed.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::boot::Boot;
use super::result::Outcome;
use crate::dist::Dist;
use crate::run;

/// How far the dump's size may be from the estimate: one part of so many, and [`SLACK`].
const TOLERANCE: u64 = 10;
/// Bytes that a small dump may differ besides.
const SLACK: u64 = 2 << 20;
/// Pages whose class the kernel and the filter may see differently: one of so many. The guest's
/// processes run on while they are looked at.
const MOVING: u64 = 1000;
/// The most memory that the estimate may take, in KiB: a board has little to spare. The pages of
/// the program that it touches are among it, though the kernel may drop those.
const MOST_MEMORY: u64 = 28 << 10;
/// The most seconds that it may take, on an emulated machine of 1 GiB.
const MOST_TIME: f64 = 15.0;

/// What the harness reads of `kdraw estimate --json`.
#[derive(Deserialize)]
struct Estimate {
    classes: Vec<Class>,
    proof: Proof,
    ram: u64,
    page_size: u64,
    kept_bytes: u64,
    filled_bytes: u64,
    dump_bytes: u64,
    fits: Option<bool>,
    dump_s: f64,
    took_s: f64,
}

#[derive(Deserialize)]
struct Class {
    class: String,
    pages: u64,
    by_kernel: Option<u64>,
}

#[derive(Deserialize)]
struct Proof {
    verdict: String,
    detail: String,
    compared: u64,
    mistaken: Vec<u64>,
}

/// Makes the comparisons, with the tool of this machine.
pub fn check(dist: &Dist, image: &Path, boot: &Boot, outcome: &mut Outcome) {
    let (memory, said) = match said(boot) {
        Ok(said) => said,
        Err(error) => return outcome.check("estimate", false, format!("{error:#}")),
    };
    outcome.check_result("estimate-proof", said.check_proof());
    outcome.check_result("estimate-classes", said.check_classes());
    let dump = dumped(dist, image).and_then(|dump| {
        outcome.size("estimate", said.dump_bytes);
        outcome.size("dump", dump.bytes);
        said.check_dump(&dump)
    });
    outcome.check_result("estimate-dump", dump);
    outcome.check(
        "estimate-cost",
        memory <= MOST_MEMORY && said.took_s <= MOST_TIME,
        format!("{:.2} s and {:.1} MiB", said.took_s, memory as f64 / 1024.0),
    );
}

/// Returns what the estimate said, and the KiB of memory that it took.
fn said(boot: &Boot) -> Result<(u64, Estimate)> {
    let line = boot.find("guest: estimate ").context("no estimate")?;
    let mut words = line.text.splitn(5, ' ').skip(2);
    let mut word = || words.next().context("a cut line");
    let (code, memory, json) = (word()?, word()?, word()?);
    ensure!(code == "0", "exit code {code}: {json}");
    Ok((memory.parse()?, serde_json::from_str(json)?))
}

impl Estimate {
    fn check_proof(&self) -> Result<String> {
        let Proof {
            verdict,
            detail,
            compared,
            mistaken,
        } = &self.proof;
        let told = format!("{verdict}: {detail}; differed at each look: {mistaken:?}");
        ensure!(verdict == "agrees", "{told}");
        ensure!(
            compared * self.page_size >= self.ram - self.page_size,
            "not all: {told}"
        );
        Ok(told)
    }

    fn check_classes(&self) -> Result<String> {
        let mut differ = Vec::new();
        let mut most = 0;
        for Class {
            class,
            pages,
            by_kernel,
        } in &self.classes
        {
            let theirs = by_kernel.context("the kernel was not asked")?;
            if *pages != theirs {
                differ.push(format!("{class} {pages} ({theirs})"));
            }
            most = most.max(pages.abs_diff(theirs));
        }
        let told = match differ.len() {
            0 => "each has the same number of pages by the kernel".into(),
            _ => format!("pages here (by the kernel): {}", differ.join(", ")),
        };
        ensure!(most <= self.proof.compared / MOVING, "{told}");
        Ok(told)
    }

    fn check_dump(&self, dump: &Dump) -> Result<String> {
        let told = format!(
            "{} MiB of pages with contents in {:.2} MiB and {:.2} s expected; {} MiB in {:.2} MiB \
             and {:.2} s came: {:+.1} %",
            (self.kept_bytes - self.filled_bytes) >> 20,
            mib(self.dump_bytes),
            self.dump_s,
            (dump.frames << 12) >> 20,
            mib(dump.bytes),
            dump.elapsed_us as f64 / 1e6,
            (dump.bytes as f64 / self.dump_bytes as f64 - 1.0) * 100.0
        );
        let far = self.dump_bytes.abs_diff(dump.bytes);
        ensure!(far <= dump.bytes / TOLERANCE + SLACK, "{told}");
        ensure!(
            self.fits == Some(true),
            "it said that it does not fit; {told}"
        );
        Ok(told)
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// What the harness reads of `kdraw list --json`.
#[derive(Deserialize)]
struct Partition {
    slots: Vec<Dump>,
}

#[derive(Clone, Copy, Deserialize)]
struct Dump {
    bytes: u64,
    frames: u64,
    elapsed_us: u64,
}

/// Returns the size of the dump in the first slot.
fn dumped(dist: &Dist, image: &Path) -> Result<Dump> {
    let mut list = Command::new(&dist.kdraw);
    let text = run::output(list.args(["list", "--json"]).arg(image))?;
    let partition: Partition = serde_json::from_str(&text)?;
    let dump = partition.slots.first().context("no slot")?;
    ensure!(dump.bytes > 0, "the dump was not ended");
    Ok(*dump)
}
