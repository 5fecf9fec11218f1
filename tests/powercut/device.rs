//! Loop devices and mounts, by the system's own programs.
//!
//! Invariant: what is attached or mounted here is detached and unmounted when its guard is dropped, also when a test fails.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A loop device on a file.
pub struct Loop(PathBuf);

impl Loop {
    /// Attaches the next free device. With `direct`, its requests pass the page cache by, so a flush of it is one of the file.
    ///
    /// # Errors
    /// What losetup says.
    pub fn attach(file: &Path, direct: bool) -> Result<Loop, String> {
        let direct = if direct { "--direct-io=on" } else { "--direct-io=off" };
        let said = run("losetup", &["--find", "--show", direct, text(file)])?;
        Ok(Loop(PathBuf::from(said.trim())))
    }

    /// The device's path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        report(run("losetup", &["--detach", text(&self.0)]));
    }
}

/// A mounted file system.
pub struct Mounted(PathBuf);

impl Mounted {
    /// Mounts a device on a directory; a file system that was not unmounted recovers by that.
    ///
    /// # Errors
    /// What mount says.
    pub fn mount(device: &Loop, directory: &Path) -> Result<Mounted, String> {
        run("mount", &[text(device.path()), text(directory)])?;
        Ok(Mounted(directory.to_path_buf()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        report(run("umount", &[text(&self.0)]));
    }
}

/// Runs a program; what it said, if it succeeded.
///
/// # Errors
/// The command and what it said, if it did not.
pub fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    match output.status.success() {
        true => Ok(said),
        false => Err(format!("{program} {}: {said}{}", arguments.join(" "), String::from_utf8_lossy(&output.stderr))),
    }
}

/// A path as an argument.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are UTF-8")
}

fn report(result: Result<String, String>) {
    if let Err(said) = result {
        eprintln!("{said}");
    }
}
