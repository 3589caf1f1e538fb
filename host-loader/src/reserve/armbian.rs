//! Armbian's armbianEnv.txt, and the files that its descendants have instead: `extraargs`.
//!
//! The boot script imports it with `env import -t`: `name=value` lines, the last of a name counts,
//! lines that begin with `#` are comments; then it puts `${extraargs}` on the command line. Source:
//! config/bootscripts of armbian/build; `himport_r` in `lib/hashtable.c` of U-Boot.

use super::command_line;
use super::crashkernel::NAME;
use super::lines::{self, Line};
use super::proposal::Proposal;
use super::root::Root;
use super::{Afterwards, BootLoader};
use crate::error::Error;

/// Of Armbian, Orange Pi's images and DietPi.
const FILES: [&str; 3] = [
    "/boot/armbianEnv.txt",
    "/boot/orangepiEnv.txt",
    "/boot/dietpiEnv.txt",
];
const VARIABLE: &[u8] = b"extraargs=";

/// The boot loader.
pub struct Armbian;

impl BootLoader for Armbian {
    fn name(&self) -> &'static str {
        "Armbian"
    }

    fn files(&self, _: &Root) -> Vec<String> {
        FILES.map(str::to_owned).to_vec()
    }

    fn propose(&self, root: &Root, value: &str) -> Result<Vec<Proposal>, Error> {
        let mut proposals = Vec::new();
        for path in FILES {
            if let Some(found) = root.read(path)? {
                let after = edit(path, &found.bytes, value)?;
                proposals.push(Proposal::of_text(path, found, after));
            }
        }
        Ok(proposals)
    }

    fn afterwards(&self, _: &Root) -> Option<Afterwards> {
        None
    }
}

fn edit(path: &str, text: &[u8], value: &str) -> Result<Vec<u8>, Error> {
    let mut lines = lines::split(text);
    let of = |line: &Line| line.body.trim_ascii_start().starts_with(VARIABLE);
    let Some(last) = lines.iter().rposition(of) else {
        let line = [VARIABLE, NAME.as_bytes(), value.as_bytes()].concat();
        let end = lines.len();
        lines::insert(&mut lines, end, line);
        return Ok(lines::join(&lines));
    };
    for (number, line) in lines.iter_mut().enumerate() {
        let at = line
            .body
            .windows(VARIABLE.len())
            .position(|window| window == VARIABLE);
        let Some(start) = at.filter(|_| of(line)) else {
            continue;
        };
        let args = line.body.split_off(start.saturating_add(VARIABLE.len()));
        let args = if number == last || command_line::has_any(&args) {
            command_line::set(&args, value).map_err(|why| Error::CommandLine {
                path: path.into(),
                line: number.saturating_add(1),
                why,
            })?
        } else {
            args
        };
        line.body.extend(args);
    }
    Ok(lines::join(&lines))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_extraargs_counts() {
        for (before, after) in [
            ("", "extraargs=crashkernel=8M\n"),
            ("console=both", "console=both\nextraargs=crashkernel=8M\n"),
            ("extraargs=\r\n", "extraargs=crashkernel=8M\r\n"),
            ("#extraargs=a\n", "#extraargs=a\nextraargs=crashkernel=8M\n"),
            (
                "extraargs=a crashkernel=1M\n extraargs=b\n",
                "extraargs=a crashkernel=8M\n extraargs=b crashkernel=8M\n",
            ),
        ] {
            let found = edit("x", before.as_bytes(), "8M").unwrap();
            assert_eq!(String::from_utf8(found).unwrap(), after);
        }
    }
}
