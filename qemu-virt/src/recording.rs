//! A run in a terminal as a picture that moves: an SVG whose lines come when they were printed.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::run;

/// Columns and rows of the terminal.
const COLUMNS: usize = 104;
const ROWS: usize = 32;
/// A character's width, a line's height, and the margin, in pixels.
const CHARACTER: f64 = 7.3;
const LINE: usize = 17;
const MARGIN: usize = 14;
/// What is waited for at the most between two lines, and how long the end stays. Waiting for a
/// build, or for an emulated machine to boot, shows nothing.
const LONGEST: Duration = Duration::from_millis(900);
const END: Duration = Duration::from_secs(9);

/// A line, and when it was printed, without what waiting was cut off.
struct Line {
    at: Duration,
    text: String,
}

/// Runs this program with other `words`, and draws what it prints into `file`.
///
/// # Errors
///
/// When the run fails, or the file cannot be written.
pub fn record(words: &[&str], file: &Path) -> Result<()> {
    let mut run = Command::new(std::env::current_exe()?)
        .args(words)
        .stdout(Stdio::piped())
        .spawn()?;
    let printed = BufReader::new(run.stdout.take().context("its output is not here")?);
    let here = run::target_dir().display().to_string();
    let mut lines = vec![Line {
        at: Duration::ZERO,
        text: format!("$ cargo xtask {}", words.join(" ")),
    }];
    let (mut last, mut at) = (Instant::now(), Duration::ZERO);
    for text in printed.lines() {
        let text = text?;
        println!("{text}");
        at += last.elapsed().min(LONGEST);
        last = Instant::now();
        let text = text.replace(&here, "target");
        lines.push(Line { at, text });
    }
    let status = run.wait()?;
    ensure!(status.success(), "the run that was to be drawn: {status}");
    std::fs::write(file, picture(&lines)).with_context(|| file.display().to_string())
}

/// Draws the lines. The newest is at the bottom: what moves is only the roll that they stand on.
/// Where nothing shall move, the end is seen.
fn picture(lines: &[Line]) -> String {
    let (width, height) = (COLUMNS as f64 * CHARACTER, ROWS * LINE);
    let whole = lines.last().map_or(END, |line| line.at + END);
    let roll = |count: usize| ROWS as i64 * LINE as i64 - (count * LINE) as i64;
    let mut moves = String::new();
    let mut texts = String::new();
    for (index, line) in lines.iter().enumerate() {
        let part = 100.0 * line.at.as_secs_f64() / whole.as_secs_f64();
        let _ = write!(
            moves,
            "{part:.3}%{{transform:translateY({}px)}}",
            roll(index + 1)
        );
        let class = match line.text.trim_start() {
            text if text.starts_with("==") || text.starts_with('$') => " class=\"title\"",
            text if text.starts_with("ok ") => " class=\"good\"",
            text if text.contains("Kernel panic") => " class=\"bad\"",
            _ => "",
        };
        let _ = writeln!(
            texts,
            "<text{class} y=\"{}\">{}</text>",
            (index + 1) * LINE - 4,
            fitted(&line.text)
        );
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0:.0} {1}\" role=\"img\" \
         xml:space=\"preserve\">\n\
         <title>{2}</title>\n\
         <style>\n\
         rect{{fill:#161b22}}\n\
         text{{font:12px ui-monospace,Menlo,Consolas,monospace;fill:#c9d1d9;white-space:pre}}\n\
         .title{{fill:#79c0ff;font-weight:600}}.good{{fill:#7ee787}}.bad{{fill:#ff7b72}}\n\
         @keyframes roll{{{moves}100%{{transform:translateY({3}px)}}}}\n\
         @media(prefers-reduced-motion:no-preference){{\
         g{{animation:roll {4:.1}s step-end infinite}}}}\n\
         </style>\n\
         <rect width=\"100%\" height=\"100%\" rx=\"6\"/>\n\
         <svg x=\"{MARGIN}\" y=\"{MARGIN}\" width=\"{width:.0}\" height=\"{height}\">\n\
         <g style=\"transform:translateY({3}px)\">\n{texts}</g>\n</svg>\n</svg>\n",
        width + 2.0 * MARGIN as f64,
        height + 2 * MARGIN,
        lines.first().map_or("", |line| &line.text),
        roll(lines.len()),
        whole.as_secs_f64(),
    )
}

/// A line as it stands in the picture: printable, as wide as the terminal, and escaped.
fn fitted(text: &str) -> String {
    let mut shown: String = text.chars().filter(|c| !c.is_control()).collect();
    if shown.chars().count() > COLUMNS {
        shown = shown.chars().take(COLUMNS - 1).collect();
        shown.push('…');
    }
    shown
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_fits_and_is_escaped() {
        let wide = "é".repeat(COLUMNS + 1);
        assert_eq!(fitted(&wide).chars().count(), COLUMNS);
        assert_eq!(fitted("\u{1b}a < b && c"), "a &lt; b &amp;&amp; c");
    }

    #[test]
    fn the_newest_line_is_at_the_bottom() {
        let lines: Vec<Line> = (0..ROWS as u64 + 3)
            .map(|at| Line {
                at: Duration::from_secs(at),
                text: String::new(),
            })
            .collect();
        let drawn = picture(&lines);
        let rolled = |count: i64| format!("translateY({}px)", count * LINE as i64);
        assert!(drawn.contains(&format!(
            "{{0.000%{{transform:{}}}",
            rolled(ROWS as i64 - 1)
        )));
        assert!(drawn.contains(&format!("<g style=\"transform:{}\">", rolled(-3))));
    }
}
