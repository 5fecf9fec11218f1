//! Subcommands about the server as a whole: whether it answers, what it counts, how it is set, a checkpoint.

use std::time::Instant;

use clap::Args;
use serde_json::{Map, Value, json};

use crate::client::Stat;

use super::Context;
use super::exit::{Failure, Outcome};
use super::output::{line, print, shown, table};

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

/// The server's counters.
#[derive(Args, Debug)]
pub(super) struct Stats {}

impl Stats {
    pub(super) fn run(&self, context: &Context) -> Result<Outcome, Failure> {
        print(stats(&context.connect()?.stats()?, context.json))
    }
}

/// The settings in force.
#[derive(Args, Debug)]
pub(super) struct Settings {}

impl Settings {
    pub(super) fn run(&self, context: &Context) -> Result<Outcome, Failure> {
        print(stats(&context.connect()?.settings()?, context.json))
    }
}

/// Return when everything that was accepted before is in the database.
#[derive(Args, Debug)]
pub(super) struct Checkpoint {}

impl Checkpoint {
    pub(super) fn run(&self, context: &Context) -> Result<Outcome, Failure> {
        context.connect()?.checkpoint()?;
        print(if context.json { line(&json!({ "checkpoint": true })) } else { String::new() })
    }
}

fn stats(stats: &[Stat], json: bool) -> String {
    if !json {
        let rows = stats.iter().map(|stat| [shown(&stat.name), stat.value.clone()]);
        return table(rows.collect());
    }
    let number_or_text = |value: &str| value.parse::<u64>().map_or_else(|_| value.into(), Value::from);
    let object: Map<String, Value> =
        stats.iter().map(|stat| (shown(&stat.name), number_or_text(&stat.value))).collect();
    line(&Value::Object(object))
}
