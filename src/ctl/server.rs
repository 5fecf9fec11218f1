//! Subcommands about the server as a whole: whether it answers, how it is set, a checkpoint.

use std::time::Instant;

use clap::Args;
use serde_json::json;

use super::Context;
use super::exit::{Failure, Outcome};
use super::output::{line, print};
use super::progress::Progress;
use super::stats::{Stats, What};

/// See whether the server answers, and how fast.
#[derive(Args, Debug)]
pub(super) struct Ping {}

impl Ping {
    pub(super) fn run(&self, context: &Context) -> Result<Outcome, Failure> {
        let started = Instant::now();
        context.connect()?.version()?;
        let took_us = started.elapsed().as_micros() as u64;
        let server = &context.server;
        print(if context.json {
            line(&json!({ "server": server.to_string(), "took_us": took_us }))
        } else {
            format!("{server} answered in {}.{:03} ms\n", took_us / 1000, took_us % 1000)
        })
    }
}

/// The server's version.
#[derive(Args, Debug)]
pub(super) struct Version {}

impl Version {
    pub(super) fn run(&self, context: &Context) -> Result<Outcome, Failure> {
        let version = context.connect()?.version()?;
        print(if context.json { line(&json!({ "version": version })) } else { format!("{version}\n") })
    }
}

/// The settings in force.
#[derive(Args, Debug)]
pub(super) struct Settings {}

impl Settings {
    pub(super) fn run(&self, context: &Context) -> Result<Outcome, Failure> {
        Stats::new(What::Settings).run(context)
    }
}

/// Return when everything that was accepted before is in the database.
#[derive(Args, Debug)]
pub(super) struct Checkpoint {}

impl Checkpoint {
    pub(super) fn run(&self, context: &Context) -> Result<Outcome, Failure> {
        let mut client = context.connect()?;
        let progress = Progress::spinner("bringing the journals into the database");
        client.checkpoint()?;
        drop(progress);
        print(if context.json { line(&json!({ "checkpoint": true })) } else { String::new() })
    }
}
