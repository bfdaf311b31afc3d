//! Binary of the operator: parses the command line and runs the command.

use clap::Parser as _;
use operator::command::{Cli, Command, check, crd, explain, run, simulate};

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let result = runtime.block_on(run_command(Cli::parse().command));
    // A thread that waits for a silent broker must not delay the exit.
    runtime.shutdown_background();
    result
}

async fn run_command(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Run(flags) => run::run(flags).await,
        Command::Check(flags) => check::run(&flags).await,
        Command::Explain(flags) => explain::run(&flags).await,
        Command::Simulate(flags) => simulate::run(&flags),
        Command::Crd => crd::print(),
    }
}
