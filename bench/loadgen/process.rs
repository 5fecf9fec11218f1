//! Process: CPU time and memory of the load generator and of the server, as the kernel counts them.
//!
//! The server's times come from `/proc`, whose clock tick is 10 ms: differences over less than a second are coarse.

use std::fs;

use anyhow::{Context, Result};

/// CPU time and memory of a process at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    /// User and system time of all its threads, in seconds.
    pub cpu_s: f64,
    /// Memory that is its own rather than a file's, in bytes; 0 where it is not asked for.
    pub rss_anon_size: u64,
}

/// CPU time of this process in seconds.
pub fn own_cpu_s() -> f64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the pointer is to a whole rusage, which the call fills; RUSAGE_SELF is always valid.
    let result = unsafe { libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) };
    assert_eq!(result, 0, "getrusage refuses only a bad pointer or a bad constant");
    // SAFETY: zeroed is a valid rusage already, all of it being integers.
    let usage = unsafe { usage.assume_init() };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

/// CPU time and memory of process `pid`.
pub fn sample(pid: u32) -> Result<Sample> {
    let read = |file: &str| {
        let path = format!("/proc/{pid}/{file}");
        fs::read_to_string(&path).with_context(|| format!("--server-pid {pid}: cannot read {path}"))
    };
    let ticks = cpu_ticks(&read("stat")?).with_context(|| format!("--server-pid {pid}: strange /proc/{pid}/stat"))?;
    // SAFETY: sysconf takes no pointer.
    let ticks_per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64;
    Ok(Sample { cpu_s: ticks as f64 / ticks_per_second, rss_anon_size: rss_anon_size(&read("status")?) })
}

/// utime + stime. The name in parentheses may hold anything, so fields are counted after the last parenthesis.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

fn rss_anon_size(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).and_then(|number| number.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_any_process_name() {
        let stat = "12 (a) b (c)) S 1 12 12 0 -1 4194304 9 0 0 0 250 130 3 4 20 0 1 0 55 1 2";
        assert_eq!(cpu_ticks(stat), Some(380));
        assert_eq!(cpu_ticks("12 (a"), None);
        assert_eq!(cpu_ticks("12 (a) S 1"), None);
    }

    #[test]
    fn anonymous_memory_is_read_from_its_line() {
        assert_eq!(rss_anon_size("VmRSS:\t  999 kB\nRssAnon:\t    12 kB\nRssFile: 5 kB\n"), 12 * 1024);
        assert_eq!(rss_anon_size("VmRSS:\t  999 kB\n"), 0);
    }

    #[test]
    fn this_process_can_be_sampled() {
        let sample = sample(std::process::id()).unwrap();
        assert!(sample.rss_anon_size > 0);
        let before = own_cpu_s();
        let mut sum = 0u64;
        while own_cpu_s() - before < 0.001 {
            sum = std::hint::black_box(sum + 1);
        }
        assert!(own_cpu_s() > before);
    }
}
