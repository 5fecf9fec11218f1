//! `-u`: root's rights are given up for those of a user, once everything that needs root is done.
//!
//! Invariant: after [`Account::assume`] nothing of root is left: neither a user id, nor a group, nor a way back.

use anyhow::{Context, Result, anyhow, bail};
use nix::unistd::{ROOT, Uid, User, getresgid, getresuid, initgroups, setgid, setuid};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use std::ffi::CString;
use std::fs::Metadata;
use std::os::unix::fs::{FileTypeExt, MetadataExt, lchown};
use std::path::{Path, PathBuf};

/// What RingQ keeps in its data directory. Only this is given away: someone may have taken a directory with other things in it.
const IN_DATA_DIRECTORY: [&str; 4] = ["lock", "ballast", "store", "journal"];

/// The user to become.
pub struct Account {
    user: User,
}

impl Account {
    /// Its user id.
    pub fn uid(&self) -> u32 {
        self.user.uid.as_raw()
    }

    /// The id of its first group.
    pub fn gid(&self) -> u32 {
        self.user.gid.as_raw()
    }

    /// Looks up the user of `-u`; `None` if there is nobody to become. Says so in the log if that is not what is expected.
    ///
    /// # Errors
    /// When there is no such user.
    pub fn of(name: Option<&str>) -> Result<Option<Account>> {
        if !Uid::effective().is_root() {
            if let Some(name) = name
                && !User::from_name(name).is_ok_and(|user| user.is_some_and(|user| user.uid == Uid::effective()))
            {
                tracing::warn!("-u {name} is ignored: only root can become another user");
            }
            return Ok(None);
        }
        let Some(name) = name else {
            tracing::warn!("running as root; with -u USER it would give up root's rights once it listens");
            return Ok(None);
        };
        let user = User::from_name(name).with_context(|| format!("-u {name}: cannot look it up"))?;
        let user = user.ok_or_else(|| anyhow!("-u {name}: there is no user of this name; make it, or name another"))?;
        if user.uid.is_root() {
            tracing::warn!("-u {name} is root: no rights are given up");
            return Ok(None);
        }
        Ok(Some(Account { user }))
    }

    /// Gives the user the data directory, what RingQ keeps in it, and the directories above it that this start made.
    ///
    /// # Errors
    /// When an owner cannot be changed.
    pub fn give_directory(&self, home: &Path, made: &[PathBuf]) -> Result<()> {
        let home = &home.canonicalize().with_context(|| format!("cannot find {}", home.display()))?;
        for path in made.iter().chain([home]) {
            self.give(path, Metadata::is_dir)?;
        }
        let mut pending: Vec<PathBuf> = IN_DATA_DIRECTORY.iter().map(|name| home.join(name)).collect();
        while let Some(path) = pending.pop() {
            self.give(&path, |meta| meta.is_dir() || meta.is_file())?;
            if path.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
                let entries = std::fs::read_dir(&path).with_context(|| format!("cannot read {}", path.display()))?;
                pending.extend(entries.flatten().map(|entry| entry.path()));
            }
        }
        Ok(())
    }

    /// Gives the user a file or a socket, if it is one.
    ///
    /// # Errors
    /// When its owner cannot be changed.
    pub fn give_file(&self, path: &Path) -> Result<()> {
        self.give(path, |meta| meta.is_file() || meta.file_type().is_socket())
    }

    fn give(&self, path: &Path, is_wanted: impl Fn(&Metadata) -> bool) -> Result<()> {
        let (uid, gid) = (self.user.uid.as_raw(), self.user.gid.as_raw());
        match path.symlink_metadata() {
            Ok(meta) if is_wanted(&meta) && (meta.uid(), meta.gid()) != (uid, gid) => {
                lchown(path, Some(uid), Some(gid))
                    .with_context(|| format!("-u {}: cannot give it {}", self.user.name, path.display()))
            }
            _ => Ok(()),
        }
    }

    /// Becomes the user, with its groups, for good. `core_dumps`: the kernel may write core files nevertheless.
    ///
    /// # Errors
    /// When the system refuses, or root's rights could be had back.
    pub fn assume(&self, core_dumps: bool) -> Result<()> {
        let User { name, uid, gid, .. } = &self.user;
        let hint = || format!("-u {name}: cannot become it; a container needs CAP_SETUID and CAP_SETGID for that");
        let c_name = CString::new(name.as_str()).with_context(hint)?;
        initgroups(&c_name, *gid).with_context(hint)?;
        setgid(*gid).with_context(hint)?;
        setuid(*uid).with_context(hint)?;
        let (user, group) = (getresuid()?, getresgid()?);
        let is_user = [user.real, user.effective, user.saved].iter().all(|id| id == uid);
        let is_group = [group.real, group.effective, group.saved].iter().all(|id| id == gid);
        if !is_user || !is_group || setuid(ROOT).is_ok() {
            bail!("-u {name}: root's rights could be had back");
        }
        if core_dumps {
            // Who has changed its user is not dumped, for what it may have read before.
            set_dumpable_behavior(DumpableBehavior::Dumpable).context("-r: cannot allow core files")?;
        }
        Ok(())
    }

    /// Finds out whether the user can reach the data directory; what is above it may be closed to it.
    ///
    /// # Errors
    /// With what to do, when it cannot.
    pub fn check_access(&self, home: &Path) -> Result<()> {
        std::fs::read_dir(home).map(drop).with_context(|| {
            format!(
                "-u {}: it cannot enter {}; let it enter every directory above, or choose another with -H",
                self.user.name,
                home.display()
            )
        })
    }
}

/// The directories that a start will make for this path.
pub fn missing_directories(path: &Path) -> Vec<PathBuf> {
    path.ancestors().take_while(|above| !above.exists()).map(Path::to_path_buf).collect()
}
