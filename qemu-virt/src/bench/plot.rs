//! The plot: horizontal bars, a panel for each measure, as SVG.
//!
//! Colours and text suit light and dark backgrounds; there is no script and no font of our own.

use std::fmt::Write as _;

use super::capture::measure;
use super::report::{Report, RowReport};
use super::rows::group;
use super::statistics::Summary;

const WIDTH: f64 = 760.0;
/// Where bars begin: names stand on their left.
const LEFT: f64 = 170.0;
/// Room for the number behind the longest bar.
const RIGHT: f64 = 150.0;
const BAR: f64 = 16.0;
const STEP: f64 = 22.0;
const TITLE: f64 = 34.0;

const STYLE: &str = "<style>\
text{font:12px system-ui,sans-serif;fill:#24292f}\
.title{font-weight:600;font-size:13px}\
.ours{fill:#2f81c7}.theirs{fill:#c9782b}\
.range{stroke:#24292f;stroke-width:1.5}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.range{stroke:#e6edf3}}\
</style>";

/// A bar and its name.
struct Bar {
    name: String,
    ours: bool,
    value: Summary,
}

/// Draws the comparison: time to reset, first durable byte, reserved memory, size, instructions.
pub fn svg(report: &Report) -> String {
    let core: Vec<&RowReport> = report.group(group::CORE).collect();
    let counted: Vec<&RowReport> = report.group(group::INSTRUCTIONS).collect();
    let growth: Vec<&RowReport> = report.group(group::GROWTH).collect();
    let mut panels = vec![
        (
            "Panic to reset, seconds (6.1, 1 GiB, 2 CPUs)",
            bars(&core, measure::RESET, 1000.0, false),
            2,
        ),
        (
            "Panic to the first durable byte, or to the start of kdump's dump, seconds",
            bars(&core, measure::FIRST_BYTE, 1000.0, false),
            3,
        ),
        (
            "Size of the dump, MB",
            bars(&core, measure::BYTES, 1e6, false),
            0,
        ),
        (
            "Instructions from panic to reset, billions (1 CPU)",
            bars(&counted, measure::INSTRUCTIONS, 1e9, false),
            2,
        ),
        (
            "Panic to reset along the size of RAM, the same 512 MiB filled, seconds",
            bars(&growth, measure::RESET, 1000.0, true),
            2,
        ),
    ];
    panels.insert(2, ("Memory reserved, MiB", reserved(report), 0));
    panels.retain(|(_, bars, _)| !bars.is_empty());
    let mut body = String::new();
    let mut y = 8.0;
    for (title, bars, digits) in &panels {
        y = panel(&mut body, y, title, bars, *digits);
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         width=\"{WIDTH}\" height=\"{height}\" role=\"img\">\n\
         <title>kdraw and kdump, measured</title>\n{STYLE}\n{body}</svg>\n",
        height = y + 8.0
    )
}

/// Takes a measure of the rows that have it; `by_size` names them by the guest's RAM.
fn bars(rows: &[&RowReport], measure: &str, unit: f64, by_size: bool) -> Vec<Bar> {
    let bar = |row: &&RowReport| {
        let value = row.measures.get(measure)?;
        let scaled = |take: f64| take / unit;
        Some(Bar {
            name: if by_size {
                format!("{}, {}", row.tool, row.at)
            } else {
                row.tool.clone()
            },
            ours: row.kdraw,
            value: Summary {
                n: value.n,
                median: scaled(value.median),
                min: scaled(value.min),
                max: scaled(value.max),
            },
        })
    };
    rows.iter().filter_map(bar).collect()
}

/// Takes what each tool reserves in the comparison, and the least with which it was seen to work.
fn reserved(report: &Report) -> Vec<Bar> {
    let mut bars: Vec<Bar> = Vec::new();
    for ours in [true, false] {
        let tool = if ours { "kdraw" } else { "kdump" };
        let core = report.group(group::CORE).find(|row| row.kdraw == ours);
        let working = report
            .group(group::RESERVATION)
            .filter(|row| row.kdraw == ours && row.works == Some(true));
        let least = working.min_by(|left, right| mib(left).total_cmp(&mib(right)));
        for (row, why) in [(core, "compared"), (least, "smallest")] {
            bars.extend(row.and_then(|row| {
                Some(Bar {
                    name: format!("{tool}, {why}"),
                    ours,
                    value: Summary::of([mib(row)])?,
                })
            }));
        }
    }
    bars
}

/// Returns what a row reserves, in MiB.
fn mib(row: &RowReport) -> f64 {
    row.reserved
        .trim_end_matches('M')
        .parse()
        .unwrap_or(f64::NAN)
}

/// Draws a panel at `y`; returns where the next begins.
fn panel(body: &mut String, y: f64, title: &str, bars: &[Bar], digits: usize) -> f64 {
    let longest = bars.iter().map(|bar| bar.value.max).fold(0.0, f64::max);
    let scale = (WIDTH - LEFT - RIGHT) / longest.max(f64::MIN_POSITIVE);
    let _ = writeln!(
        body,
        "<text class=\"title\" x=\"8\" y=\"{:.0}\">{}</text>",
        y + 20.0,
        escaped(title)
    );
    let mut y = y + TITLE;
    for bar in bars {
        let Summary {
            median, min, max, ..
        } = bar.value;
        let middle = y + BAR / 2.0;
        let _ = writeln!(
            body,
            "<text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
             <rect class=\"{}\" x=\"{LEFT}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{BAR}\"/>\
             <path class=\"range\" d=\"M{:.1} {middle:.1}H{:.1}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\">{median:.digits$}</text>",
            LEFT - 8.0,
            middle + 4.0,
            escaped(&bar.name),
            if bar.ours { "ours" } else { "theirs" },
            (median * scale).max(1.0),
            LEFT + min * scale,
            LEFT + max * scale,
            LEFT + max * scale + 8.0,
            middle + 4.0,
        );
        y += STEP;
    }
    y + 4.0
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
