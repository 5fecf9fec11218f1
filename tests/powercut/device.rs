//! Loop devices and mounts, by the system's own programs.
//!
//! Invariant: a loop device goes by itself with the last that has it open or mounted, so nobody has to remember it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A loop device on a file.
pub struct Loop {
    path: PathBuf,
    /// Keeps the device, which is detached already: it goes when nobody has it open any more.
    _open: File,
}

impl Loop {
    /// Attaches the next free device. With `direct`, its requests pass the page cache by, so a flush of it is one of the file.
    ///
    /// # Errors
    /// What losetup says.
    pub fn attach(file: &Path, direct: bool) -> Result<Loop, String> {
        let direct = if direct { "--direct-io=on" } else { "--direct-io=off" };
        let said = run("losetup", &["--find", "--show", direct, text(file)])?;
        let path = PathBuf::from(said.trim());
        let open = File::open(&path).map_err(|error| format!("{}: {error}", path.display()));
        run("losetup", &["--detach", text(&path)])?;
        Ok(Loop { path, _open: open? })
    }

    /// The device's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a file system of this kind on it, which leaves alone what it need not write.
    ///
    /// # Errors
    /// What mkfs says.
    pub fn format(&self, kind: &str) -> Result<(), String> {
        let device = text(&self.path);
        match kind {
            "ext4" => {
                run("mkfs.ext4", &["-q", "-E", "nodiscard,lazy_itable_init=1,lazy_journal_init=1", device]).map(drop)
            }
            "xfs" => run("mkfs.xfs", &["-q", "-K", device]).map(drop),
            _ => Err(format!("no file system {kind}: ext4 or xfs")),
        }
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
        if let Err(said) = run("umount", &[text(&self.0)]) {
            eprintln!("{said}");
        }
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
