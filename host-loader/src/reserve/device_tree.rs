//! `/chosen/bootargs` of a device tree blob, or of an overlay.
//!
//! A boot loader that has a command line of its own replaces it; Raspberry Pi's firmware adds
//! cmdline.txt to it. An overlay's bootargs replaces the tree's, so one that has none gets none.
//! All other tokens are copied as they are, and so is the room behind them. Source: Devicetree
//! Specification v0.4, 3.6; `fixup_overlay` in `drivers/of/overlay.c` for overlays: `__overlay__`
//! below a fragment stands for what the fragment's target names.

use std::path::{Path, PathBuf};

use super::command_line;
use super::proposal::{Proposal, text};
use super::root;
use crate::device_tree_blob::{Blob, Kind, begin_node, end_node, property};
use crate::error::Error;

const BOOTARGS: &str = "bootargs";

/// Proposes what makes the blob in `file` ask for `crashkernel=VALUE`.
///
/// # Errors
/// [`Error::Io`] if there is no such file, [`Error::DeviceTree`] if it is no blob,
/// [`Error::CommandLine`] if the setting has no place in it.
pub fn propose(file: &Path, value: &str) -> Result<Proposal, Error> {
    let cannot_find = || std::io::Error::from_raw_os_error(libc::ENOENT);
    let before = root::read(file)?.ok_or_else(|| Error::io("read", file)(cannot_find()))?;
    let edited = edit(&before, value)?.map_err(|why| Error::CommandLine {
        path: file.to_owned(),
        line: 0,
        why,
    })?;
    Ok(Proposal {
        path: file.display().to_string(),
        real: real(file)?,
        before: Some(before),
        after: edited.blob,
        shown: Some((shown(edited.before.as_deref()), shown(Some(&edited.after)))),
        notes: Vec::new(),
    })
}

/// Where the file really is.
///
/// # Errors
/// [`Error::Io`].
pub fn real(file: &Path) -> Result<PathBuf, Error> {
    file.canonicalize().map_err(Error::io("follow", file))
}

/// The bootargs of a blob as text to be shown.
pub fn shown_of(blob: &[u8]) -> String {
    let blob = Blob::parse(blob);
    let line = blob.and_then(|blob| Ok(Place::find(&blob)?.line));
    shown(line.ok().flatten().as_deref())
}

fn shown(line: Option<&[u8]>) -> String {
    line.map_or_else(String::new, |line| {
        format!("/chosen/bootargs = {:?}\n", text(line))
    })
}

struct Edited {
    blob: Vec<u8>,
    before: Option<Vec<u8>>,
    after: Vec<u8>,
}

/// Where a blob has its command line.
#[derive(Default)]
struct Place {
    is_overlay: bool,
    has_chosen: bool,
    /// The number of the property's token, and its value without the NUL.
    token: Option<usize>,
    line: Option<Vec<u8>>,
}

impl Place {
    fn find(blob: &Blob) -> Result<Self, Error> {
        let mut place = Self::default();
        let mut path: Vec<&[u8]> = Vec::new();
        for (number, token) in blob.tokens().enumerate() {
            match token?.kind {
                Kind::Begin(name) => {
                    path.push(name);
                    place.is_overlay |= name == b"__overlay__" && path.len() == 3;
                    place.has_chosen |= name == b"chosen" && path.len() == 2;
                }
                Kind::End => {
                    path.pop();
                }
                Kind::Property { name, value } if name == BOOTARGS.as_bytes() => {
                    let chosen = match path.as_slice() {
                        [_, node] => *node == b"chosen",
                        [_, _, b"__overlay__"] => true,
                        [_, _, b"__overlay__", node] => *node == b"chosen",
                        _ => false,
                    };
                    if chosen && place.token.is_none() {
                        place.token = Some(number);
                        place.line = Some(value.strip_suffix(b"\0").unwrap_or(value).to_vec());
                    }
                }
                Kind::Property { .. } | Kind::Nop | Kind::Last => {}
            }
        }
        Ok(place)
    }
}

fn edit(bytes: &[u8], value: &str) -> Result<Result<Edited, &'static str>, Error> {
    let blob = Blob::parse(bytes)?;
    let place = Place::find(&blob)?;
    if place.is_overlay && place.token.is_none() {
        return Ok(Err(
            "an overlay without bootargs: with them it would replace the command line \
                       of the tree that it is laid over",
        ));
    }
    let after = match command_line::set(place.line.as_deref().unwrap_or_default(), value) {
        Ok(after) => after,
        Err(why) => return Ok(Err(why)),
    };
    if place.line.as_ref() == Some(&after) {
        return Ok(Ok(Edited {
            blob: bytes.to_vec(),
            before: place.line,
            after,
        }));
    }
    let mut names = Vec::new();
    let bootargs = property(
        blob.name_at(BOOTARGS, &mut names),
        &[&after[..], b"\0"].concat(),
    );
    let mut out = Vec::with_capacity(blob.structure.len().saturating_add(bootargs.len()));
    for (number, token) in blob.tokens().enumerate() {
        let token = token?;
        if place.token == Some(number) {
            out.extend(&bootargs);
            continue;
        }
        if place.token.is_none() && !place.has_chosen && token.kind == Kind::End && token.depth == 0
        {
            out.extend(begin_node("chosen"));
            out.extend(&bootargs);
            out.extend(end_node());
        }
        out.extend(token.bytes);
        let is_chosen = token.kind == Kind::Begin(b"chosen") && token.depth == 1;
        if place.token.is_none() && is_chosen {
            out.extend(&bootargs);
        }
    }
    Ok(Ok(Edited {
        blob: blob.with(&out, &names, blob.slack)?,
        before: place.line,
        after,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device_tree_blob::{HEADER_LEN, MAGIC};
    use fdt::Fdt;
    use fdt::nodes::AsNode;

    /// Every property of every node, the root's first: depth, node and name, value.
    fn properties(blob: &[u8]) -> Vec<(String, Vec<u8>)> {
        let root = Fdt::new_unaligned_fallible(blob).unwrap().root().unwrap();
        let below = root.all_nodes().unwrap().map(Result::unwrap);
        let mut found = Vec::new();
        for (depth, node) in std::iter::once((0, root.as_node())).chain(below) {
            let name = node.name().unwrap();
            for property in node.properties().unwrap() {
                let property = property.unwrap();
                let place = format!("{depth} {name:?} {}", property.name);
                found.push((place, property.value.to_vec()));
            }
        }
        found
    }

    fn take_bootargs(found: &mut Vec<(String, Vec<u8>)>) -> Option<Vec<u8>> {
        let at = found
            .iter()
            .position(|(place, _)| place.contains("\"chosen\"") && place.ends_with(" bootargs"));
        at.map(|at| found.remove(at).1)
    }

    #[test]
    fn only_bootargs_change_in_every_boards_tree() {
        let mut trees = 0;
        for entry in std::fs::read_dir("../boards/fixtures").unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "dtb") {
                continue;
            }
            let before = std::fs::read(&path).unwrap();
            let after = edit(&before, "8M").unwrap().unwrap();
            let (mut old, mut new) = (properties(&before), properties(&after.blob));
            let line = take_bootargs(&mut old).unwrap_or_default();
            let line = line.strip_suffix(b"\0").unwrap_or_default();
            let expected = [&command_line::set(line, "8M").unwrap()[..], b"\0"].concat();
            assert_eq!(
                take_bootargs(&mut new),
                Some(expected),
                "{}",
                path.display()
            );
            assert!(old == new, "{}", path.display());
            let (was, is) = (
                Blob::parse(&before).unwrap(),
                Blob::parse(&after.blob).unwrap(),
            );
            assert!(was.reservations == is.reservations && was.boot_cpu == is.boot_cpu);
            assert!(is.slack >= was.slack && is.slack < was.slack + 8);
            let again = edit(&after.blob, "8M").unwrap().unwrap();
            assert!(again.blob == after.blob, "{}", path.display());
            trees += 1;
        }
        assert!(trees > 20);
    }

    /// An overlay with bootargs, or without.
    fn overlay(bootargs: Option<&str>, in_node: bool) -> Vec<u8> {
        let names = b"target-path\0bootargs\0";
        let mut tree = [begin_node(""), begin_node("fragment@0")].concat();
        let target: &[u8] = if in_node { b"/\0" } else { b"/chosen\0" };
        tree.extend(property(0, target));
        tree.extend(begin_node("__overlay__"));
        if in_node {
            tree.extend(begin_node("chosen"));
        }
        if let Some(bootargs) = bootargs {
            tree.extend(property(12, &[bootargs.as_bytes(), b"\0"].concat()));
        }
        for _ in 0..if in_node { 4 } else { 3 } {
            tree.extend(end_node());
        }
        tree.extend([0, 0, 0, 9]);
        let empty = Blob {
            boot_cpu: 0,
            reservations: &[0; 16],
            structure: &[],
            strings: names,
            slack: 0,
        };
        empty.with(&tree, &[], 0).unwrap()
    }

    #[test]
    fn overlays_are_changed_only_if_they_set_the_line() {
        for in_node in [false, true] {
            let blob = overlay(Some("quiet crashkernel=64M"), in_node);
            let edited = edit(&blob, "8M").unwrap().unwrap();
            assert_eq!(edited.after, b"quiet crashkernel=8M");
            let expected = "/chosen/bootargs = \"quiet crashkernel=8M\"\n";
            assert_eq!(shown_of(&edited.blob), expected);
            let refused = edit(&overlay(None, in_node), "8M").unwrap();
            assert!(refused.is_err_and(|why| why.contains("overlay")));
        }
    }

    #[test]
    fn a_tree_without_chosen_gets_one_and_damage_is_refused() {
        let blob = overlay(Some("x"), false);
        let bare = [begin_node(""), end_node().to_vec(), vec![0, 0, 0, 9]].concat();
        let bare = Blob::parse(&blob).unwrap().with(&bare, &[], 64).unwrap();
        let edited = edit(&bare, "8M").unwrap().unwrap();
        assert_eq!(
            shown_of(&edited.blob),
            "/chosen/bootargs = \"crashkernel=8M\"\n"
        );
        assert_eq!(properties(&edited.blob).len(), 1);
        assert!(edit(&blob[..HEADER_LEN], "8M").is_err());
        assert!(edit(&MAGIC.to_be_bytes(), "8M").is_err());
        for at in 0..blob.len() {
            let mut bad = blob.clone();
            bad[at] ^= 0xff;
            // Whatever it means now: no panic.
            let _ = edit(&bad, "8M");
        }
    }
}
