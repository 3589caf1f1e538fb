//! `kdraw save`: every dump once, none lost, and only what may go is removed.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use common::FakeSystem;

/// A system with a partition of two slots and a configuration.
struct Scene {
    system: FakeSystem,
    image: PathBuf,
}

impl Scene {
    fn new(save: &str) -> Self {
        let system = FakeSystem::new();
        let image = system.path("p.img");
        common::formatted(&image, 8 << 20, 2, false);
        let scene = Self { system, image };
        scene.configure(save);
        scene
    }

    fn configure(&self, save: &str) {
        let text = format!("target = {:?}\n[save]\n{save}", self.image);
        self.system.put("etc/kdraw.conf", text);
    }

    fn save(&self) -> (i32, String) {
        self.system.kdraw(&["save"])
    }

    /// The names in the folder of dumps.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.system.path("var/crash"));
        let entries = entries.into_iter().flatten();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn waiting(&self) -> usize {
        common::open(&self.image).waiting().len()
    }

    fn hook(&self, name: &str, mode: u32, text: &str) {
        let path = format!("etc/kdraw.d/{name}");
        self.system.put(&path, format!("#!/bin/sh\n{text}\n"));
        let mode = fs::Permissions::from_mode(mode);
        fs::set_permissions(self.system.path(&path), mode).unwrap();
    }
}

const FIRST: &str = "20261121T013930Z-01010101";
const SECOND: &str = "20261121T013930Z-02020202";

#[test]
fn a_dump_is_saved_marked_and_handed_to_the_hooks_once() {
    let scene = Scene::new("");
    let (code, text) = scene.save();
    assert_eq!(
        (code, text.contains("Nothing to save")),
        (0, true),
        "{text}"
    );
    let heard = scene.system.path("heard");
    let note = |word: &str| format!("echo {word} $1 >> {}", heard.display());
    scene.hook("20-second", 0o755, &note("second"));
    scene.hook("10-first", 0o755, &(note("first") + "; exit 7"));
    scene.hook("30-no-program", 0o644, &note("none"));
    scene.hook("40-old.dpkg-old", 0o755, &note("none"));
    common::dump(&scene.image, 1);
    let (code, text) = scene.save();
    // The first hook fails, and this dump's ring buffer is lost.
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("10-first") && text.contains("7"), "{text}");
    let folder = scene.system.path("var/crash").join(FIRST);
    for name in ["vmcore", "dmesg.txt", "open.txt", "metadata.json"] {
        assert!(folder.join(name).exists(), "{name}");
    }
    let folder = folder.display();
    assert_eq!(
        fs::read_to_string(&heard).unwrap(),
        format!("first {folder}\nsecond {folder}\n")
    );
    assert_eq!(scene.waiting(), 0);
    assert_eq!(scene.save().0, 0);
    assert_eq!(fs::read_to_string(&heard).unwrap().lines().count(), 2);
}

#[test]
fn a_save_that_was_cut_off_is_done_to_its_end() {
    let scene = Scene::new("");
    common::dump(&scene.image, 1);
    let crash = scene.system.path("var/crash");
    // Before the folder had its name; and one whose process is at work.
    scene
        .system
        .put("var/crash/.x.partial-4194999/vmcore", "half");
    scene.system.put("var/crash/.y.partial-77/vmcore", "half");
    scene.system.put("proc/77/comm", "kdraw\n");
    scene.system.put("var/crash/.z.partial-78/vmcore", "half");
    scene.system.put("proc/78/comm", "another\n");
    // After that, before the slot was marked.
    let extract = ["extract", "--keep", scene.image.to_str().unwrap(), "-o"];
    let extract = [&extract[..], &[crash.to_str().unwrap()]].concat();
    assert_eq!(common::kdraw(&extract).status.code(), Some(1));
    let vmcore = crash.join(FIRST).join("vmcore");
    let whole = fs::read(&vmcore).unwrap();
    // What is not the whole dump does not pass for it.
    fs::write(&vmcore, &whole[1..]).unwrap();
    let (code, text) = scene.save();
    assert_eq!((code, text.contains("exists already")), (1, true), "{text}");
    assert_eq!(scene.waiting(), 1);
    fs::write(&vmcore, &whole).unwrap();
    let (code, text) = scene.save();
    assert_eq!(code, 0, "{text}");
    assert_eq!(scene.waiting(), 0);
    assert_eq!(scene.names(), [".y.partial-77", FIRST]);
}

#[test]
fn the_newest_are_kept_and_what_is_no_dump() {
    let scene = Scene::new("keep = 1\n");
    common::dump(&scene.image, 1);
    scene.save();
    common::dump(&scene.image, 2);
    scene.system.put("var/crash/kept/vmcore", "renamed");
    scene
        .system
        .put("var/crash/20200101T000000Z-01010101/vmcore", "not ours");
    let (_, text) = scene.save();
    assert!(text.contains("removed, for newer ones"), "{text}");
    assert_eq!(scene.names(), ["20200101T000000Z-01010101", SECOND, "kept"]);
    // What was just saved stays, however much it is.
    common::dump(&scene.image, 3);
    common::dump(&scene.image, 4);
    scene.save();
    let dumps = scene
        .names()
        .into_iter()
        .filter(|name| name.starts_with("2026"));
    assert_eq!(dumps.count(), 2);
}

#[test]
fn a_dump_without_room_stays_where_it_is() {
    let scene = Scene::new("");
    common::dump(&scene.image, 1);
    scene.save();
    common::dump(&scene.image, 2);
    let before = fs::read(&scene.image).unwrap();
    scene.configure("keep = 1\nmin_free_mib = 1000000000000\n");
    let (code, text) = scene.save();
    assert_eq!(code, 1, "{text}");
    assert!(
        text.contains("has no room") && text.contains("stays on"),
        "{text}"
    );
    assert!(before == fs::read(&scene.image).unwrap());
    // To remove the older one would not have helped.
    assert_eq!(scene.names(), [FIRST]);
    scene.configure("keep = 1\n");
    scene.save();
    assert_eq!(
        (scene.names(), scene.waiting()),
        (vec![SECOND.to_owned()], 0)
    );
}

#[test]
fn without_a_partition_there_is_nothing_to_save() {
    let system = FakeSystem::new();
    for (text, why) in [
        ("", "no target"),
        ("target = 'serial:ttyAMA0'\n", "receive"),
    ] {
        system.put("etc/kdraw.conf", text);
        let (code, said) = system.kdraw(&["save"]);
        assert_eq!((code, said.contains(why)), (0, true), "{said}");
    }
    let (code, said) = system.kdraw(&["save", "--json"]);
    assert_eq!((code, said.contains("\"saved\": []")), (0, true), "{said}");
}

#[test]
fn a_dump_that_cannot_be_saved_does_not_keep_back_the_next() {
    let scene = Scene::new("");
    common::dump(&scene.image, 1);
    common::dump(&scene.image, 2);
    scene
        .system
        .put("var/crash/20261121T013930Z-01010101/mine", "");
    let (code, text) = scene.save();
    assert_eq!(
        (code, text.contains("slot 0 was not saved")),
        (1, true),
        "{text}"
    );
    assert_eq!(
        (scene.names(), scene.waiting()),
        (vec![FIRST.to_owned(), SECOND.to_owned()], 1)
    );
}

#[test]
fn a_dump_that_is_still_to_be_shipped_is_not_removed_and_no_saving_fails_for_it() {
    let scene = Scene::new("keep = 1\nmin_free_mib = 0\n");
    common::dump(&scene.image, 1);
    scene.save();
    assert_eq!(scene.names(), [FIRST]);
    let text = fs::read_to_string(scene.system.path("etc/kdraw.conf")).unwrap();
    let ship = scene.system.path("not-mounted");
    let configured = format!("ship = {ship:?}\n{text}\n[shipping]\npatience = 0\n");
    scene.system.put("etc/kdraw.conf", configured);
    common::dump(&scene.image, 2);
    let (code, text) = scene.save();
    assert!(text.contains("not shipped"), "{text}");
    // This dump's ring buffer is lost; the code says no more than that.
    assert_eq!((code, scene.names().len()), (1, 2), "{text}");
    let (code, text) = scene.save();
    assert_eq!((code, text.contains("not shipped")), (0, true), "{text}");
    // Once they are there, the older one may go.
    for folder in scene.names() {
        let folder = scene.system.path(&format!("var/crash/{folder}"));
        let files = kdraw::shipped::files(&folder, false).unwrap();
        let there = |(name, bytes)| kdraw::shipped::Shipped {
            name,
            bytes,
            sha256: String::new(),
        };
        let shipment = kdraw::shipped::Shipment {
            url: ship.to_str().unwrap().into(),
            at: 0,
            files: files.into_iter().map(there).collect(),
        };
        kdraw::shipped::note(&folder, shipment).unwrap();
    }
    common::dump(&scene.image, 3);
    scene.save();
    let names = scene.names();
    assert!(
        names.len() == 1 && names[0].ends_with("03030303"),
        "{names:?}"
    );
}
