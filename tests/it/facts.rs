//! What a running server says of itself, and the kernel of it. It judges nothing.

use crate::harness::{Server, read_lossy};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// One number of `stats`, asked for on a connection of its own, which counts in it.
pub fn stat(server: &Server, name: &str) -> u64 {
    let reply = server.connect().command(b"stats\r\n", b"END\r\n");
    let reply = String::from_utf8(reply).expect("stats are text");
    let value = reply.lines().find_map(|line| line.strip_prefix("STAT ")?.strip_prefix(name)?.strip_prefix(' '));
    value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in {reply}"))
}

/// Puts and gets of a queue; none if there is no such queue.
pub fn puts_and_gets(server: &Server, queue: &str) -> Option<(u64, u64)> {
    let request = format!("stats queue {queue}\r\n");
    let reply = server.connect().command(request.as_bytes(), b"END\r\n");
    let reply = String::from_utf8(reply).expect("stats are text");
    if reply == "END\r\n" {
        return None;
    }
    assert!(reply.starts_with(&format!("STAT {queue} ")), "another queue: {reply}");
    let (puts, gets) = counts_of(&reply).split_once('/').unwrap_or_else(|| panic!("not one queue: {reply}"));
    Some((puts.parse().expect("puts"), gets.parse().expect("gets")))
}

/// The names and numbers of `stats queue` of a queue or group; none if there is no such queue.
pub fn figures(server: &Server, name: &str) -> BTreeMap<String, u64> {
    let reply = server.connect().command(format!("stats queue {name}\r\n").as_bytes(), b"END\r\n");
    let reply = String::from_utf8(reply).expect("stats are text");
    let figure = |line: &str| {
        let (name, value) = line.strip_prefix("STAT ")?.split_once(' ')?;
        Some((name.to_owned(), value.parse().ok()?))
    };
    reply.lines().filter_map(figure).collect()
}

/// The bytes of a queue's messages; none if there is no such queue.
pub fn queue_bytes(server: &Server, queue: &str) -> u64 {
    let reply = server.connect().command(format!("stats queue {queue}\r\n").as_bytes(), b"END\r\n");
    let reply = String::from_utf8(reply).expect("stats are text");
    let bytes = reply.lines().find_map(|line| line.strip_prefix("STAT bytes "));
    bytes.map_or(0, |bytes| bytes.parse().expect("a number"))
}

/// Memory of the process that no file backs, in bytes: the heap, stacks and rings, not the mapped database.
pub fn anonymous_memory(server: &Server) -> u64 {
    let status = read_lossy(format!("/proc/{}/status", server.pid()));
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or_else(|| panic!("no RssAnon in {status}")) << 10
}

/// Processor time that the process has used, in ticks: hundredths of a second.
pub fn processor_ticks(server: &Server) -> u64 {
    let stat = read_lossy(format!("/proc/{}/stat", server.pid()));
    // The name may have spaces; behind it the first field is the third of all.
    let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
    fields[11..13].iter().map(|ticks| ticks.parse::<u64>().expect("a number")).sum()
}

/// The threads of a process, as the kernel's directories of them.
pub fn threads(pid: u32) -> Vec<PathBuf> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("read the threads");
    tasks.map(|task| task.expect("a thread").path()).collect()
}

/// The thread of a process that has this name.
pub fn thread_named(pid: u32, name: &str) -> Option<PathBuf> {
    threads(pid).into_iter().find(|thread| read_lossy(thread.join("comm")).trim_end() == name)
}

/// How often a thread has gone to sleep or was made to wait.
pub fn context_switches(thread: &Path) -> u64 {
    let status = read_lossy(thread.join("status"));
    let counts = status.lines().filter_map(|line| line.split_once("_ctxt_switches:"));
    counts.map(|(_, count)| count.trim().parse::<u64>().expect("a number")).sum()
}

/// The same of all threads of a process together.
pub fn all_context_switches(pid: u32) -> u64 {
    threads(pid).iter().map(|thread| context_switches(thread)).sum()
}

/// Puts and gets, as the first line of `stats queue NAME` says them; empty if there is no such queue.
pub fn counts_of(reply: &str) -> &str {
    let line = reply.lines().next().and_then(|line| line.strip_prefix("STAT "));
    line.and_then(|line| line.split_once(' ')).map_or("", |(_, counts)| counts)
}
