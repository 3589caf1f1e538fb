//! Feeds each target with its seeds.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use kdraw_fuzz::TARGETS;

#[test]
fn no_seed_breaks_its_target() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let folders = fs::read_dir(&corpus).unwrap();
    let folders: BTreeSet<_> = folders.map(|folder| folder.unwrap().file_name()).collect();
    let names = TARGETS.map(|(name, _)| name.into());
    assert_eq!(folders, BTreeSet::from(names), "a folder for each target");
    for (name, target) in TARGETS {
        for seed in fs::read_dir(corpus.join(name)).unwrap() {
            let path = seed.unwrap().path();
            // Shown if it panics.
            println!("{}", path.display());
            target(&fs::read(&path).unwrap());
        }
    }
}
