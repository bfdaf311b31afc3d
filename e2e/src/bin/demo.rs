//! `demo`: the whole pipeline on this machine, from orders in Kafka to marts and tags; removes everything at the end.

use clap::Parser as _;
use e2e::demo::{Flags, run};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let flags = Flags::parse();
    let mut terminate = signal(SignalKind::terminate())?;
    // In both cases the demo is dropped, which stops its workers and its services.
    tokio::select! {
        result = run(flags) => result,
        _ = terminate.recv() => anyhow::bail!("stopped by SIGTERM"),
    }
}
