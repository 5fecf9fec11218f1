//! The daemon's entry: command line, then [`ringq::server`].

use ringq::config::Config;
use ringq::daemon::resources;
use ringq::log;
use ringq::ring;
use std::process::ExitCode;

fn main() -> ExitCode {
    let config = match Config::parse(std::env::args_os()) {
        Ok(config) => config,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(error.exit_code() as u8);
        }
    };
    if cfg!(feature = "canary") {
        log::fatal("this is a build with a bug, for `make sim-canary`; it serves nobody. Build without the feature canary");
        return ExitCode::FAILURE;
    }
    if config.license {
        print!("{}", include_str!("../../LICENSE"));
        return ExitCode::SUCCESS;
    }
    if config.check {
        return check();
    }
    if config.check_config {
        println!("the configuration is good");
        return ExitCode::SUCCESS;
    }
    match ringq::server::run(&config) {
        Ok(()) => {
            log::flush();
            ExitCode::SUCCESS
        }
        Err(error) => {
            log::fatal(format_args!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// `--check`: what the kernel offers.
fn check() -> ExitCode {
    match ring::probe() {
        Ok(features) => {
            print!("{features}");
            println!(
                "locked memory: {} may be locked, about 250 KiB are needed for each thread",
                resources::locked_memory()
            );
            if features.suffice() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            log::fatal(error);
            ExitCode::FAILURE
        }
    }
}
