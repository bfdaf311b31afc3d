//! Binary of the operator: parses the command line and runs the command.

use clap::Parser as _;
use operator::command::{Cli, Command, check, crd, explain, run, simulate};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Run(flags) => run::run(flags).await,
        Command::Check(flags) => check::run(&flags).await,
        Command::Explain(flags) => explain::run(&flags).await,
        Command::Simulate(flags) => simulate::run(&flags),
        Command::Crd => crd::print(),
    }
}
