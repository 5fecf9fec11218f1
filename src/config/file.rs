//! The configuration file: TOML whose keys are the long names of options, and two tables for queues.
//!
//! What stands in it becomes the default of its option, so that the command line and the environment go before it, and it is
//! checked as they are. Invariant: a key that no option has is refused.

use super::queues;
use crate::queue::Defaults;
use clap::{ArgAction, Command};
use std::fmt::Display;
use std::path::Path;
use toml::{Table, Value};

/// Options that make no sense in a file.
const NOT_IN_FILES: [&str; 6] = ["config", "check-config", "check", "license", "version", "help"];

/// Reads a file and makes what it says of options the defaults of `command`; and what it says of queues.
///
/// # Errors
/// What is wrong with the file, naming it.
pub(super) fn apply(command: Command, path: &Path) -> Result<(Command, Defaults), String> {
    let in_file = |problem: &dyn Display| format!("{}: {problem}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| in_file(&error))?;
    let mut table: Table = text.parse().map_err(|error: toml::de::Error| in_file(&error))?;
    let defaults = queues::take(&mut table).map_err(|problem| in_file(&problem))?;
    let command = table.into_iter().try_fold(command, |command, (key, value)| {
        apply_one(command, &key, &value).map_err(|problem| in_file(&problem))
    })?;
    Ok((command, defaults))
}

fn apply_one(command: Command, key: &str, value: &Value) -> Result<Command, String> {
    let known = |name: &str| command.get_arguments().find(|arg| arg.get_long() == Some(name));
    let Some(arg) = known(key).filter(|_| !NOT_IN_FILES.contains(&key)) else {
        let dashed = key.replace('_', "-");
        let hint =
            if dashed != key && known(&dashed).is_some() { format!("; it is written {dashed}") } else { String::new() };
        return Err(format!(
            "unknown key `{key}`{hint}. The keys are the long names of options, see --help, and the tables [queue] and [queues]"
        ));
    };
    let is_flag = matches!(arg.get_action(), ArgAction::SetTrue);
    let id = arg.get_id().clone();
    let values = match value {
        Value::Boolean(on) if is_flag => vec![on.to_string()],
        _ if is_flag => return Err(format!("`{key}` is true or false, not {value}")),
        Value::Array(list) if matches!(arg.get_action(), ArgAction::Append) => {
            list.iter().map(|value| text_of(key, value)).collect::<Result<_, _>>()?
        }
        other => vec![text_of(key, other)?],
    };
    Ok(command.mut_arg(id, |arg| arg.default_values(values)))
}

fn text_of(key: &str, value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Integer(number) => Ok(number.to_string()),
        other => Err(format!("`{key}` cannot be a {}", other.type_str())),
    }
}
