//! Commands whose output goes to a pipe that its reader has closed, as `head` does: they finish, and do not panic.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use e2e::pipeline::{Pipeline, start_services};

/// Runs a program with closed pipes as standard output and, if `with_log` is false, as standard error. Returns its log.
fn run_with_closed_pipes(command: &mut Command, with_log: bool) -> Result<String> {
    let closed_pipe = || -> Result<Stdio> { Ok(std::io::pipe()?.1.into()) };
    let log = if with_log { Stdio::piped() } else { closed_pipe()? };
    let output = command.stdout(closed_pipe()?).stderr(log).output()?;
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{command:?}: {}\n{log}", output.status);
    Ok(log)
}

#[tokio::test]
async fn every_command_of_the_worker_finishes_although_its_output_is_a_closed_pipe() -> Result<()> {
    let services = start_services().await?;
    let pipeline = Pipeline::create(&services, "closed_pipe", 1).await?;
    let commands: [&[&str]; 9] = [
        &["check"],
        &["dead-letters list"],
        &["dead-letters redrive"],
        &["dead-letters redrive", "--execute"],
        &["dead-letters discard", "--reason", "none"],
        &["reset-offsets", "--to", "earliest"],
        &["republish", "--all"],
        &["verify"],
        &["migrate"],
    ];
    for command in commands {
        for with_log in [true, false] {
            run_with_closed_pipes(
                pipeline.worker_command(command[0], &[])?.args(&command[1..]),
                with_log,
            )?;
        }
    }
    Ok(())
}

#[test]
fn every_development_tool_finishes_although_its_output_is_a_closed_pipe() -> Result<()> {
    let services = Path::new(env!("CARGO_BIN_EXE_services"));
    let folder = tempfile::tempdir()?;
    let folder = folder.path().to_str().context("a path in UTF-8")?;
    for command in ["status", "--help"] {
        run_with_closed_pipes(Command::new(services).args(["--dir", folder, command]), true)?;
    }
    Ok(())
}
