//! What the process may use and what it leaves to others: core files, the mode of new files, locked memory.

use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit, umask};

/// What no file or socket that the server makes lets anyone do: write for the group, anything for others.
const UMASK: Mode = Mode::from_raw_mode(0o027);

/// `-r`: core files of any size, or of what the hard limit allows.
pub fn allow_core_files() {
    if setrlimit(Resource::Core, Rlimit { current: None, maximum: None }).is_ok() {
        return;
    }
    let maximum = getrlimit(Resource::Core).maximum;
    let raised = setrlimit(Resource::Core, Rlimit { current: maximum, maximum });
    if raised.is_err() || maximum == Some(0) {
        tracing::warn!(
            "-r: there will be no core files: the hard limit forbids them; raise it (ulimit -Hc, LimitCORE=)"
        );
    }
}

/// New files are closed to others, whatever the caller's umask lets through.
pub fn restrict_new_files() {
    let inherited = umask(UMASK);
    umask(inherited | UMASK);
}

/// The limit on locked memory, for `--check`: the queues of rings are counted in it, unless the process is privileged.
pub fn locked_memory() -> String {
    match getrlimit(Resource::Memlock).current {
        Some(size) => format!("{} KiB", size / 1024),
        None => "unlimited".to_owned(),
    }
}
