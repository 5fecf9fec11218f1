//! The fuzz targets' bodies with the inputs that are kept: seeds, which once reached some part of the code first, and what fuzzing has found.
//! `make fuzz` looks for more.

use crate::bodies::TARGETS;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz")
}

fn names_in(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let stem = |path: PathBuf| path.file_stem().expect("a name").to_str().expect("text").to_owned();
    entries.map(|entry| stem(entry.expect("an entry").path())).collect()
}

#[test]
fn kept_inputs_break_no_promise() {
    for (name, run) in TARGETS {
        let seeds = directory().join("seeds").join(name);
        let mut count = 0;
        for entry in fs::read_dir(&seeds).unwrap_or_else(|error| panic!("{}: {error}", seeds.display())) {
            let path = entry.expect("an entry").path();
            println!("{}: what `make fuzz T={name}` runs", path.display());
            run(&fs::read(&path).expect("read a seed"));
            count += 1;
        }
        assert!(count > 0, "{name} has seeds");
    }
}

#[test]
fn every_target_has_its_program_and_seeds() {
    let named: BTreeSet<String> = TARGETS.iter().map(|(name, _)| name.to_string()).collect();
    assert_eq!(names_in(&directory().join("targets")), named, "programs");
    assert_eq!(names_in(&directory().join("seeds")), named, "seeds");
    let manifest = fs::read_to_string(directory().join("Cargo.toml")).expect("read a manifest");
    for name in named {
        assert!(manifest.contains(&format!("name = \"{name}\"\npath = \"targets/{name}.rs\"")), "{name} is built");
    }
}
