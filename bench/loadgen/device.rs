//! Device: how long a durable write takes here, without any server.
//!
//! Overwrites blocks of a file that was filled with zeros, one after the other, each write direct and synchronous
//! (O_DIRECT, O_DSYNC): no answer that promises a message survives a power cut can come sooner, plus the way there and
//! back. It grows nothing and leaves no file system work to others, so it is a floor, not a comparison.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use hdrhistogram::Histogram;
use serde::Serialize;

/// What one write covers: a page, which any device's direct I/O accepts.
const BLOCK_SIZE: usize = 4096;

/// Blocks of the file; more than a device's own cache line of recent writes, and quick to fill.
const BLOCKS: u64 = 4096;

/// The part of the run, from its beginning, that is not counted.
const WARMUP_SHARE: u32 = 10;

/// Latencies up to a minute at three digits.
const LATENCY_MAX_NS: u64 = 60_000_000_000;

/// Measures overwrites of 4 KiB, direct and synchronous, one at a time.
#[derive(Debug, Parser)]
#[command(name = "ringq-bench device", version)]
pub struct Options {
    /// The file to write; it must not exist, and is removed afterwards.
    #[arg(long, value_name = "PATH")]
    pub file: PathBuf,

    /// Seconds of writing.
    #[arg(short, long, default_value_t = 2.0, value_name = "SECONDS")]
    pub duration: f64,

    /// Writes the results as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// What the run found out.
#[derive(Debug, Serialize)]
struct Report {
    /// Bytes of a write.
    size: usize,
    /// Writes that were counted.
    count: u64,
    /// Median time of a write.
    p50_us: f64,
    /// 99th percentile.
    p99_us: f64,
    /// Longest.
    max_us: f64,
}

/// One block where direct I/O wants it.
#[repr(C, align(4096))]
struct Block([u8; BLOCK_SIZE]);

/// The file under test, gone with the run.
struct Scratch<'a>(&'a Path);

impl Drop for Scratch<'_> {
    fn drop(&mut self) {
        // There is no one left to tell, and nothing depends on it.
        let _ = fs::remove_file(self.0);
    }
}

/// Makes the run and prints its results.
pub fn run(options: &Options) -> Result<()> {
    let duration = options.duration;
    ensure!(duration.is_finite() && duration > 0.0, "--duration: a positive number of seconds");
    let path = options.file.as_path();
    let zeros = OpenOptions::new().write(true).create_new(true).open(path);
    let zeros = zeros.with_context(|| format!("cannot create {}", path.display()))?;
    let _scratch = Scratch(path);
    fill(zeros).with_context(|| format!("cannot fill {} with zeros", path.display()))?;
    let latency = overwrite(path, Duration::from_secs_f64(duration))?;
    let us = |ns: u64| ns as f64 / 1000.0;
    let quantile = |quantile| us(latency.value_at_quantile(quantile));
    let report = Report {
        size: BLOCK_SIZE,
        count: latency.len(),
        p50_us: quantile(0.5),
        p99_us: quantile(0.99),
        max_us: us(latency.max()),
    };
    println!(
        "{} durable overwrites of {BLOCK_SIZE} B: p50 {:.1} µs, p99 {:.1} µs, max {:.1} µs",
        report.count, report.p50_us, report.p99_us, report.max_us
    );
    if let Some(json) = &options.json {
        let text = serde_json::to_string_pretty(&report)? + "\n";
        fs::write(json, text).with_context(|| format!("cannot write {}", json.display()))?;
    }
    Ok(())
}

/// Zeros rather than a hole: blocks never written would be converted on their first write, which costs a transaction.
fn fill(mut file: File) -> std::io::Result<()> {
    let zeros = vec![0; 64 * BLOCK_SIZE];
    for _ in 0..BLOCKS / 64 {
        file.write_all(&zeros)?;
    }
    file.sync_all()
}

fn overwrite(path: &Path, duration: Duration) -> Result<Histogram<u64>> {
    let file = OpenOptions::new().write(true).custom_flags(libc::O_DIRECT | libc::O_DSYNC).open(path);
    let file = file.with_context(|| format!("cannot open {} for direct writing", path.display()))?;
    let mut block = Box::new(Block([0; BLOCK_SIZE]));
    let mut latency = Histogram::new_with_bounds(1, LATENCY_MAX_NS, 3)?;
    let begin = Instant::now();
    for number in 0u64.. {
        block.0[..8].copy_from_slice(&number.to_le_bytes());
        let sent = Instant::now();
        file.write_all_at(&block.0, number % BLOCKS * BLOCK_SIZE as u64)
            .with_context(|| format!("cannot write to {}", path.display()))?;
        let elapsed = begin.elapsed();
        if elapsed >= duration / WARMUP_SHARE {
            latency.saturating_record(sent.elapsed().as_nanos() as u64);
        }
        if elapsed >= duration {
            break;
        }
    }
    Ok(latency)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_reports_its_writes_and_leaves_no_file() {
        let directory = tempfile::tempdir().unwrap();
        let (file, json) = (directory.path().join("blocks"), directory.path().join("result.json"));
        run(&Options { file: file.clone(), duration: 0.05, json: Some(json.clone()) }).unwrap();
        assert!(!file.exists());
        let result: serde_json::Value = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
        assert!(result["count"].as_u64().unwrap() > 0);
        assert!(result["p50_us"].as_f64().unwrap() > 0.0 && result["p50_us"].as_f64() <= result["max_us"].as_f64());
    }

    #[test]
    fn a_file_that_is_there_is_neither_written_nor_removed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(run(&Options { file: file.path().into(), duration: 0.05, json: None }).is_err());
        assert_eq!(fs::read(file.path()).unwrap(), b"");
    }
}
