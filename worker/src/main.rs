//! Entry point of the worker: parses the command line and runs the command.

use clap::Parser as _;
use worker::command::{Cli, Command, check, migrate, redrive, reset_offsets, run};

#[tokio::main(worker_threads = 1)]
async fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    telemetry::log::init("info,sqlx=warn,rdkafka=error");
    match cli.command {
        Command::Run(flags) => run::run(flags).await,
        Command::Migrate(flags) => migrate::migrate(flags).await,
        Command::Check(flags) => check::check(flags).await,
        Command::Redrive(flags) => Box::pin(redrive::redrive(flags)).await,
        Command::ResetOffsets(flags) => Box::pin(reset_offsets::reset(flags)).await,
    }
}
