//! Entry point of the worker: parses the command line and runs the command.

use clap::Parser as _;
use worker::command::{
    Cli, Command, check, dead_letters, migrate, plan, republish, reset_offsets, run, verify,
};

/// A batch allocates and frees many small objects, on two threads.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Threads of the runtime: while one decodes and enriches a batch, another writes the batch before it.
const RUNTIME_THREADS: usize = 2;

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    telemetry::log::init("info,sqlx=warn,rdkafka=error");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(RUNTIME_THREADS)
        .enable_all()
        .build()?;
    let result = runtime.block_on(run_command(cli.command));
    // A thread that waits for a silent server must not delay the exit.
    runtime.shutdown_background();
    result
}

async fn run_command(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Run(flags) => run::run(flags).await,
        Command::Migrate(flags) => migrate::migrate(flags).await,
        Command::Plan(flags) => plan::plan(&flags),
        Command::Check(flags) => check::check(flags).await,
        Command::DeadLetters(flags) => Box::pin(dead_letters::run(flags)).await,
        Command::ResetOffsets(flags) => Box::pin(reset_offsets::reset(flags)).await,
        Command::Republish(flags) => Box::pin(republish::republish(flags)).await,
        Command::Verify(flags) => Box::pin(verify::verify(flags)).await,
    }
}
