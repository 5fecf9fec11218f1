//! The operator's tool: see [`ringq::ctl`].

use std::process::ExitCode;

fn main() -> ExitCode {
    ringq::ctl::main(std::env::args_os())
}
