//! A control group with a limit of memory, of either version of the kernel's interface.
//!
//! Invariant: it stands below the test's own group, or beside it where only there memory is delegated, and goes with its value. One that a test
//! which was killed has left is removed by a later one.

use crate::harness::{eventually, read_lossy};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

const PREFIX: &str = "ringq-faults-";
/// Nobody is just about to use an empty group of this age.
const LEFT_AFTER: Duration = Duration::from_secs(3600);
/// How long the kernel may need to let go of processes that have ended.
const GONE_TIMEOUT: Duration = Duration::from_secs(30);

/// A control group.
pub struct ControlGroup {
    path: PathBuf,
    version: Version,
}

/// The names of files and what stands in them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Version {
    One,
    Two,
}

impl ControlGroup {
    /// Makes one without a limit.
    ///
    /// # Errors
    /// Why there can be none here.
    pub fn new() -> Result<ControlGroup, String> {
        let (parent, version) = delegated()?;
        remove_left(&parent);
        let made = tempfile::Builder::new().prefix(PREFIX).tempdir_in(&parent);
        let made = made.map_err(|error| format!("needs a control group in {}: {error}", parent.display()))?;
        let group = ControlGroup { path: made.keep(), version };
        // What is swapped does not count; version 1 has no switch but this.
        let (swap, none) = group.by_version(("memory.swappiness", "0"), ("memory.swap.max", "0"));
        if group.path.join(swap).exists() {
            group.write(swap, none)?;
        }
        Ok(group)
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// From now on its processes may use so many bytes, page cache and all; `None`: as many as there are.
    ///
    /// # Errors
    /// When the kernel does not take it.
    pub fn limit(&self, bytes: Option<u64>) -> Result<(), String> {
        let unlimited = self.by_version("-1", "max");
        let bytes = bytes.map_or(unlimited.to_owned(), |bytes| bytes.to_string());
        self.write(self.by_version("memory.limit_in_bytes", "memory.max"), &bytes)
    }

    /// How many of its processes the kernel has killed because of the limit.
    pub fn killed(&self) -> u64 {
        self.number(self.by_version("memory.oom_control", "memory.events"), "oom_kill")
    }

    /// How often the limit was met, and something had to be given up for it.
    pub fn met(&self) -> u64 {
        match self.version {
            Version::One => self.read("memory.failcnt").trim().parse().expect("a number"),
            Version::Two => self.number("memory.events", "max"),
        }
    }

    /// Bytes of the page cache that count, as far as its processes were the first to use them.
    pub fn cache(&self) -> u64 {
        self.number("memory.stat", self.by_version("total_cache", "file"))
    }

    fn by_version<T>(&self, one: T, two: T) -> T {
        if self.version == Version::One { one } else { two }
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.path.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
    }

    /// The number behind a name.
    fn number(&self, file: &str, name: &str) -> u64 {
        let text = self.read(file);
        let number = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
        number.unwrap_or_else(|| panic!("no {name} in {file}: {text}"))
    }

    fn write(&self, file: &str, text: &str) -> Result<(), String> {
        fs::write(self.path.join(file), text).map_err(|error| format!("{} of a control group: {error}", file))
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        eventually("the control group is empty", GONE_TIMEOUT, || fs::remove_dir(&self.path).is_ok());
    }
}

/// The nearest group from the test's own on upwards that may have one with a limit below it.
fn delegated() -> Result<(PathBuf, Version), String> {
    let mounts = read_lossy("/proc/mounts");
    let mount = |kind: &str, option: &str| {
        let mut mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        mounts.find(|mount| mount[2] == kind && (option.is_empty() || mount[3].split(',').any(|word| word == option)))
    };
    let own = read_lossy("/proc/self/cgroup");
    // NUMBER:CONTROLLERS:PATH, without controllers in version 2.
    let own = |controller: &str| {
        let mut lines = own.lines().map(|line| line.splitn(3, ':').collect::<Vec<_>>());
        let line = lines.find(|words| words[1].split(',').any(|word| word == controller));
        line.map_or(String::new(), |words| words[2].trim_start_matches('/').to_owned())
    };
    if let Some(mount) = mount("cgroup", "memory") {
        let top = Path::new(mount[1]);
        let own = top.join(own("memory"));
        return Ok((if own.is_dir() { own } else { top.to_owned() }, Version::One));
    }
    let mount = mount("cgroup2", "").ok_or("needs control groups")?;
    let top = Path::new(mount[1]);
    let own = top.join(own(""));
    let delegates = |group: &&Path| {
        let controllers = read_lossy(group.join("cgroup.subtree_control"));
        controllers.split_whitespace().any(|controller| controller == "memory")
    };
    let group = own.ancestors().take_while(|group| group.starts_with(top)).find(delegates);
    Ok((group.ok_or("needs a control group that memory is delegated to")?.to_owned(), Version::Two))
}

/// Removes what tests have left that could not do so. What is in use stays.
fn remove_left(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let age = entry.metadata().and_then(|metadata| metadata.modified()).ok().and_then(|made| made.elapsed().ok());
        if entry.file_name().to_string_lossy().starts_with(PREFIX) && age.is_some_and(|age| age > LEFT_AFTER) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}
