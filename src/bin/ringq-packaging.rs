//! Writes manual pages and shell completions for packages: `ringq-packaging DIRECTORY`, from `make man`.
//!
//! A page is what the command line says of itself, with the sections of packaging/man behind it. Invariant: an option is described
//! once, in the source that parses it.

use anyhow::{Context, Result};
use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

/// The programs that are installed: their command lines, and the sections of their pages that no option describes, as roff.
fn programs() -> Vec<Program> {
    vec![
        Program::new(ringq::config::command(), include_str!("../../packaging/man/ringq.roff")),
        Program::new(ringq::ctl::command(), include_str!("../../packaging/man/ringqctl.roff")),
    ]
}

struct Program {
    command: Command,
    sections: &'static str,
}

impl Program {
    fn new(command: Command, sections: &'static str) -> Program {
        Program { command, sections }
    }

    fn name(&self) -> &str {
        self.command.get_name()
    }
}

fn main() -> Result<()> {
    let target = PathBuf::from(std::env::args_os().nth(1).context("usage: ringq-packaging DIRECTORY")?);
    for program in programs() {
        manual(&program, &target.join("man"))?;
        completions(&program, &target.join("completions"))?;
    }
    Ok(())
}

/// A page for the program, and one for each of its subcommands.
fn manual(program: &Program, target: &Path) -> Result<()> {
    fs::create_dir_all(target)?;
    let mut command = program.command.clone().disable_help_subcommand(true);
    command.build();
    for subcommand in command.get_subcommands().filter(|command| !command.is_hide_set()) {
        Man::new(subcommand.clone()).manual(MANUAL).generate_to(target)?;
    }
    let after_help = command.get_after_help().map(|text| text.to_string());
    // clap would put it under a heading of its own choice.
    let page = Man::new(command.after_help(None::<&str>)).manual(MANUAL);
    let mut text = Vec::new();
    page.render(&mut text)?;
    if let Some(after_help) = after_help {
        write!(text, "{}", preformatted(&after_help))?;
    }
    write!(text, "{}", program.sections)?;
    let file = target.join(page.get_filename());
    fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
}

const MANUAL: &str = "RingQ";

/// Text whose first line is a heading, as a section.
fn preformatted(text: &str) -> String {
    let (heading, body) = text.split_once('\n').unwrap_or((text, ""));
    let escape = |line: &str| format!("\\&{}\n", line.replace('\\', "\\e").replace('-', "\\-"));
    let body: String = body.lines().map(escape).collect();
    format!(".SH \"{}\"\n.nf\n{body}.fi\n", heading.trim_end_matches(':').to_uppercase())
}

/// One directory a shell, with the names under which it looks for them.
fn completions(program: &Program, target: &Path) -> Result<()> {
    for (shell, file) in [
        (Shell::Bash, format!("bash/{}", program.name())),
        (Shell::Zsh, format!("zsh/_{}", program.name())),
        (Shell::Fish, format!("fish/{}.fish", program.name())),
    ] {
        let file = target.join(file);
        fs::create_dir_all(file.parent().expect("it is in a directory"))?;
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut program.command.clone(), program.name(), &mut text);
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}
