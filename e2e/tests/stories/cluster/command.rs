//! Command line programs of the stories, such as `kubectl` and `helm`.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// Runs a program such as `kubectl` and returns its standard output.
///
/// # Errors
/// When it fails, with its standard error.
pub fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("cannot start {program}"))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{program} {}: {}",
        arguments.join(" "),
        stderr.trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// As [`run`], for a command that must fail; returns its error message.
///
/// # Errors
/// When it succeeds.
pub fn run_expecting_error(program: &str, arguments: &[&str]) -> Result<String> {
    match run(program, arguments) {
        Ok(output) => anyhow::bail!("{program} {} succeeded: {output}", arguments.join(" ")),
        Err(error) => Ok(error.to_string()),
    }
}
