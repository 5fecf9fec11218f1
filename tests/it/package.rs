//! What is installed besides the programs: configuration, units, scripts. `make test-package` installs it; this looks at the files.
//!
//! Invariant: the configuration file names every option that may stand in it, with the default the server has.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use clap::{Arg, ArgAction};
use ringq::queue::Settings;

use crate::clients::skip;
use crate::harness::read_lossy;

/// Options about the file itself, or that end the process.
const NOT_IN_FILES: [&str; 6] = ["config", "check-config", "check", "license", "version", "help"];

/// Highest exposure of the unit, in tenths, that `systemd-analyze security` may find: 12 with systemd 252.
const EXPOSURE_MAX: &str = "15";

#[test]
fn the_installed_configuration_is_good() {
    assert_good(&root().join("packaging/ringq.toml"));
    assert_eq!(read("docs/ringq.toml"), read("packaging/ringq.toml"));
}

#[test]
fn the_installed_configuration_is_good_with_every_line_in_use() {
    let text: Vec<String> = read("packaging/ringq.toml").lines().map(|line| in_use(line).into()).collect();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("ringq.toml");
    fs::write(&file, text.join("\n")).expect("write the configuration");
    assert_good(&file);
}

#[test]
fn the_installed_configuration_shows_every_option_and_its_default() {
    let command = ringq::config::command();
    let mut options: BTreeMap<&str, &Arg> =
        command.get_arguments().filter_map(|arg| Some((arg.get_long()?, arg))).collect();
    for name in NOT_IN_FILES {
        assert!(options.remove(name).is_some(), "there is no option --{name} any more");
    }
    let text = read("packaging/ringq.toml");
    let (options_text, queues_text) = text.split_once("#[queue]").expect("tables for queues");
    for (key, _) in Settings::default().shown() {
        assert!(queues_text.contains(&format!("\n#{key} = ")), "{key} is not shown");
    }
    let mut shown = BTreeMap::new();
    for line in options_text.lines() {
        if line.is_empty() || line == "#" || line.starts_with("# ") {
            continue;
        }
        let (key, value) = in_use(line).split_once(" = ").unwrap_or_else(|| panic!("no comment and no option: {line}"));
        assert!(shown.insert(key, (value, line.starts_with('#'))).is_none(), "{key} is there twice");
    }
    let names: Vec<&str> = options.keys().copied().collect();
    assert_eq!(shown.keys().copied().collect::<Vec<_>>(), names, "keys of the file (left), options (right)");
    for (key, (value, is_commented)) in shown {
        let default = default_of(options[key]);
        if let Some(default) = default.filter(|_| is_commented) {
            assert_eq!(value.trim_matches('"'), default, "{key}");
        }
    }
}

#[test]
fn units_are_what_systemd_understands() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let units = ["ringq.service", "ringq.socket"].map(|name| {
        // It looks for the program.
        let text = read(&format!("packaging/{name}")).replace("/usr/bin/ringq", env!("CARGO_BIN_EXE_ringq"));
        let unit = directory.path().join(name);
        fs::write(&unit, text).expect("write the unit");
        unit
    });
    let Some(output) = systemd_analyze(&["verify", "--man=no"], &units) else { return };
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let security = ["security", "--offline=true", "--no-pager", "--threshold", EXPOSURE_MAX];
    let Some(output) = systemd_analyze(&security, &units[..1]) else { return };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn the_service_may_use_io_uring() {
    let Some(output) = systemd_analyze(&["syscall-filter", "@privileged"], &[]) else { return };
    assert!(!String::from_utf8_lossy(&output.stdout).contains("io_uring"), "the unit forbids @privileged");
    let unit = read("packaging/ringq.service");
    for call in ["io_uring_setup", "io_uring_enter", "io_uring_register"] {
        assert!(unit.contains(call), "{call} may be forbidden");
    }
}

#[test]
fn systemd_waits_longer_for_a_stop_than_the_server_for_its_clients() {
    let unit = read("packaging/ringq.service");
    let seconds = unit.lines().find_map(|line| line.strip_prefix("TimeoutStopSec=")?.strip_suffix('s'));
    let command = ringq::config::command();
    let stop_timeout = command.get_arguments().find(|arg| arg.get_long() == Some("stop-timeout")).and_then(default_of);
    let number = |text: &str| text.parse::<u32>().expect("a number of seconds");
    assert!(number(seconds.expect("the unit says it")) >= 2 * number(&stop_timeout.expect("it has a default")));
}

#[test]
fn maintainer_scripts_are_for_any_shell() {
    for script in ["postinst", "prerm", "postrm"] {
        let path = root().join("packaging/debian").join(script);
        assert!(read_lossy(&path).starts_with("#!/bin/sh\n"), "{script}");
        let output = Command::new("sh").arg("-n").arg(&path).output().expect("run sh");
        assert!(output.status.success(), "{script}: {output:?}");
    }
}

#[test]
fn the_package_has_the_version_of_the_programs() {
    let expected = format!("ringq ({}-", env!("CARGO_PKG_VERSION"));
    let changelog = read("packaging/debian/changelog");
    assert!(changelog.starts_with(&expected), "packaging/debian/changelog does not begin with {expected}");
}

#[test]
fn links_between_installed_documents_lead_to_installed_files() {
    let mut installed = BTreeSet::new();
    for [source, destination, _] in &assets() {
        if let Some(place) = destination.strip_prefix("usr/share/doc/ringq/") {
            let is_directory = place.is_empty() || place.ends_with('/');
            let installed_as = |name| if is_directory { format!("{place}{name}") } else { place.to_owned() };
            installed.extend(matching(source).into_iter().map(installed_as));
        }
    }
    let documents: Vec<String> = installed.iter().filter(|path| path.ends_with(".md")).cloned().collect();
    let mut followed = 0;
    for document in &documents {
        let directory = document.rsplit_once('/').map_or(String::new(), |(directory, _)| format!("{directory}/"));
        for link in read(document).split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()) {
            let target = format!("{directory}{link}");
            // What is elsewhere in the sources, and on the web, is not for readers of the package.
            let is_ours = target.starts_with("docs/") && !link.starts_with("..") && !link.contains("://");
            if !is_ours || link.is_empty() {
                continue;
            }
            followed += 1;
            let is_there = match target.strip_suffix('/') {
                Some(_) => installed.iter().any(|path| path.starts_with(&target)),
                None => installed.contains(&target),
            };
            assert!(is_there, "{document} has a link to {link}, which the package does not install");
        }
    }
    assert!(followed > 20, "only {followed} links were followed");
}

#[test]
fn the_package_installs_each_example_once_and_scripts_to_be_run() {
    let mut installed = BTreeMap::new();
    for [source, destination, mode] in &assets() {
        let Some(directory) = destination.strip_prefix("usr/share/doc/ringq/docs/examples/") else { continue };
        for name in matching(source) {
            let path = format!("{directory}{name}");
            assert!(installed.insert(path, mode != "644").is_none(), "{source} is installed twice");
        }
    }
    assert_eq!(installed, executable_files(&root().join("docs/examples")));
}

#[test]
fn make_installs_examples_as_the_package_does() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut command = Command::new("make");
    command.current_dir(root()).args(["install-examples", "PREFIX=/usr"]).env_remove("MAKEFLAGS");
    command.arg(format!("DESTDIR={}", directory.path().display()));
    match command.output() {
        Ok(output) => assert!(output.status.success(), "{output:?}"),
        Err(error) => return skip("make_install", &format!("make: {error}")),
    }
    let installed = executable_files(&directory.path().join("usr/share/doc/ringq/docs/examples"));
    assert_eq!(installed, executable_files(&root().join("docs/examples")));
}

/// The files below a directory, and whether each can be executed.
fn executable_files(directory: &Path) -> BTreeMap<String, bool> {
    let mut files = BTreeMap::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(next) = directories.pop() {
        for entry in fs::read_dir(&next).unwrap_or_else(|error| panic!("{}: {error}", next.display())) {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            let mode = fs::metadata(&path).expect("a file").permissions().mode();
            let name = path.strip_prefix(directory).expect("it is below").to_str().expect("a readable name");
            files.insert(name.into(), mode & 0o111 != 0);
        }
    }
    files
}

/// What the Debian package installs: source, destination, mode.
fn assets() -> Vec<[String; 3]> {
    let manifest: toml::Table = read("Cargo.toml").parse().expect("a manifest");
    let assets = manifest["package"]["metadata"]["deb"]["assets"].as_array().expect("a list");
    assets.iter().map(|asset| [0, 1, 2].map(|at| asset[at].as_str().expect("text").to_owned())).collect()
}

/// Names of the files that a source of an asset stands for: a path, or a directory and a pattern with one star.
fn matching(source: &str) -> Vec<String> {
    let (directory, name) = source.rsplit_once('/').unwrap_or((".", source));
    let Some((before, after)) = name.split_once('*') else { return vec![name.into()] };
    assert!(!after.contains('*'), "{source} has more stars than are looked at here");
    let entries = fs::read_dir(root().join(directory)).unwrap_or_else(|error| panic!("{directory}: {error}"));
    let files = entries.map(|entry| entry.expect("an entry").path()).filter(|path| path.is_file());
    let names = files.map(|path| path.file_name().and_then(|name| name.to_str()).expect("a readable name").to_owned());
    names.filter(|name| name.starts_with(before) && name.ends_with(after)).collect()
}

#[test]
fn the_image_is_made_of_what_is_there() {
    let text = read("packaging/Containerfile");
    let ignored = read("packaging/Containerfile.dockerignore");
    let mut copied = 0;
    for line in text.lines().filter_map(|line| line.strip_prefix("COPY ")) {
        if line.starts_with("--from") {
            continue;
        }
        let mut words: Vec<&str> = line.split_whitespace().collect();
        words.pop().expect("a destination");
        for source in words {
            copied += 1;
            assert!(root().join(source).exists(), "the Containerfile copies {source}");
            assert!(ignored.lines().any(|line| line == format!("!{source}")), "{source} is not let through");
        }
    }
    assert!(copied > 3, "the Containerfile copies next to nothing");
    let rust = format!("FROM rust:{}-", env!("CARGO_PKG_RUST_VERSION"));
    assert!(text.contains(&rust), "the Containerfile should say {rust}");
}

/// A line of the configuration with its option in use: a mark and a key, or a table, with nothing between them are out of use.
fn in_use(line: &str) -> &str {
    match line.strip_prefix('#') {
        Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => rest,
        _ => line,
    }
}

/// As it is written in the file; none for what has none.
fn default_of(arg: &Arg) -> Option<String> {
    if matches!(arg.get_action(), ArgAction::SetTrue) {
        return Some("false".into());
    }
    let values: Vec<&str> = arg.get_default_values().iter().filter_map(|value| value.to_str()).collect();
    (!values.is_empty()).then(|| values.join(","))
}

fn assert_good(file: &Path) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringq"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"RINGQ_")) {
        command.env_remove(name);
    }
    let output = command.arg("--config").arg(file).arg("--check-config").output().expect("run ringq");
    assert!(output.status.success(), "{}: {output:?}", file.display());
}

fn systemd_analyze(arguments: &[&str], units: &[PathBuf]) -> Option<Output> {
    let output = Command::new("systemd-analyze").args(arguments).args(units).stdin(Stdio::null()).output();
    match output {
        Ok(output) => Some(output),
        Err(error) => {
            skip("systemd_units", &format!("systemd-analyze: {error}"));
            None
        }
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
