//! Runs the tools that an installation takes: Python, pip, ldd, apt-get.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;

use super::BlenderError;

/// Runs a line of Python; an error is what it printed.
pub(super) async fn ask(python: &Path, code: &str) -> Result<String, String> {
    let output =
        command(python).args(["-s", "-c", code]).output().await.map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}

pub(super) fn command(program: impl AsRef<OsStr>) -> Command {
    #[expect(clippy::disallowed_methods, reason = "an installation runs Python, pip, ldd and apt-get")]
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    for name in ["PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP"] {
        command.env_remove(name);
    }
    command.env("LC_ALL", "C.UTF-8");
    command
}

/// Makes an error of what a tool printed last.
pub(super) fn failed(what: &str, log: &str) -> BlenderError {
    let lines: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
    let end = lines[lines.len().saturating_sub(8)..].iter().map(|line| format!("  | {line}"));
    BlenderError::Missing { what: what.to_owned(), hint: end.collect::<Vec<_>>().join("\n") }
}
