//! What kdraw says of a kernel's memory, beside what crash and drgn say of it.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::inside::asked;
use super::tools;
use crate::dist::Dist;

/// Bytes of a page of Debian's kernels.
const PAGE: u64 = 4096;

/// What crash is asked about slab caches.
pub const CRASH_SLABS: &str = "set scroll off\nkmem -s\nquit\n";

/// Compares totals and slab caches with crash's, zones and promises with drgn's: crash leaves out
/// what the CPUs had not added to the promises yet. 7.x's slab caches, which crash 9.0.2 cannot
/// read, are compared with drgn's; drgn counts some of what 6.x's CPUs keep as used.
pub fn same(
    dist: &Dist,
    vmcore: &Path,
    drgn: &str,
    crash: &str,
    crash_slabs: &str,
) -> Result<String> {
    let ours = asked(dist, &["mem", "--slabs", "100000"], vmcore, &[])?;
    let totals = totals(&ours, crash)?;
    let zones = lines(&ours, "zones", |zone| {
        let mut line = format!("zone {} {}", zone["zone"], text(zone));
        for key in ["managed", "min", "low", "high"] {
            line += &format!(" {}", pages(zone, key)?);
        }
        Ok(line)
    })?;
    let slabs = lines(&ours, "slabs", |slab| {
        let [cache, slabs, objects, in_use] =
            ["cache", "slabs", "objects", "in_use"].map(|key| &slab[key]);
        let name = text(slab);
        Ok(format!("slab {cache} {slabs} {objects} {in_use} {name}"))
    })?;
    let committed = [format!("committed {}", pages(&ours, "committed")?)];
    let by_crash: String = crash_slabs.lines().filter_map(crash_slab).collect();
    let (by, their_slabs) = match by_crash.is_empty() {
        true => ("drgn", drgn),
        false => ("crash", by_crash.as_str()),
    };
    same_lines("zone ", drgn, &zones)?;
    same_lines("slab ", their_slabs, &slabs)?;
    same_lines("committed ", drgn, &committed)?;
    let (zones, slabs) = (zones.len(), slabs.len());
    Ok(format!(
        "{totals} totals of memory as crash, {zones} zones as drgn, {slabs} slab caches as {by}"
    ))
}

/// Compares lines of one kind.
pub fn same_lines(kind: &str, theirs: &str, ours: &[String]) -> Result<()> {
    let theirs = theirs.lines().filter(|line| line.starts_with(kind));
    let mut theirs: Vec<_> = theirs.collect();
    theirs.sort_unstable();
    ensure!(!theirs.is_empty(), "there is no {kind}to compare with");
    tools::same(&theirs.join("\n"), &ours.join("\n"))?;
    Ok(())
}

/// A line of crash's `kmem -s`, as drgn's script prints it: cache, object's size, objects in use
/// and all, slabs, a slab's size, name.
fn crash_slab(line: &str) -> Option<String> {
    let words: Vec<_> = line.split_whitespace().collect();
    let [cache, _, in_use, objects, slabs, size, name @ ..] = &words[..] else {
        return None;
    };
    let cache = u64::from_str_radix(cache, 16).ok()?;
    let name = name.join(" ");
    let is_slab = size.ends_with('k') && !name.is_empty();
    is_slab.then(|| format!("slab {cache} {slabs} {objects} {in_use} {name}\n"))
}

/// What is on a list, in words and sorted.
pub fn lines(
    ours: &Value,
    key: &str,
    line: impl Fn(&Value) -> Result<String>,
) -> Result<Vec<String>> {
    let list = ours[key].as_array().with_context(|| format!("no {key}"))?;
    let lines: Result<Vec<_>> = list.iter().map(line).collect();
    let mut lines = lines?;
    lines.sort_unstable();
    Ok(lines)
}

fn text(value: &Value) -> &str {
    value["name"].as_str().unwrap_or_default()
}

/// A number of bytes, in pages. What is not known is no answer.
fn pages(value: &Value, key: &str) -> Result<u64> {
    let bytes = value[key].as_u64();
    Ok(bytes.with_context(|| format!("{key} is not known"))? / PAGE)
}

/// Compares totals with crash's `kmem -i`, and returns how many there are. What the kernel counts
/// in two steps may differ by one percent: crash leaves out the CPUs' part.
fn totals(ours: &Value, crash: &str) -> Result<usize> {
    let own = |key: &str| pages(ours, key);
    let rows = [
        ("TOTAL MEM", own("total")?, 0),
        ("FREE", own("free")?, 1),
        ("USED", own("used")?, 1),
        ("BUFFERS", own("buffers")?, 0),
        ("CACHED", own("cached")?, 1),
        (
            "SLAB",
            own("slab_reclaimable")? + own("slab_unreclaimable")?,
            1,
        ),
        ("TOTAL HUGE", pages(&ours["huge_pages"], "total")?, 0),
        ("HUGE FREE", pages(&ours["huge_pages"], "free")?, 0),
        ("TOTAL SWAP", pages(&ours["swap"], "total")?, 0),
        ("SWAP FREE", pages(&ours["swap"], "free")?, 0),
        ("COMMIT LIMIT", own("commit_limit")?, 0),
    ];
    let theirs = |name: &str| {
        let mut rows = crash
            .lines()
            .filter_map(|line| line.trim().strip_prefix(name));
        rows.find_map(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
    };
    let mut compared = 0;
    for (name, own, percent) in rows {
        let Some(theirs) = theirs(name) else {
            // crash 9.0.2 cannot read the swap areas of 7.x, whose `swap_map` is gone.
            ensure!(name.contains("SWAP"), "crash has no {name}");
            continue;
        };
        ensure!(
            own.abs_diff(theirs) <= theirs * percent / 100,
            "{name}: {own} pages, crash has {theirs}"
        );
        compared += 1;
    }
    Ok(compared)
}
