//! `demo`: the whole pipeline on this machine, from orders in Kafka to marts and tags, and nothing left behind.

use clap::Parser as _;
use e2e::demo::{Flags, run};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let flags = Flags::parse();
    let mut terminate = signal(SignalKind::terminate())?;
    // Whatever ends it first, dropping the demo stops its workers and its services.
    tokio::select! {
        ended = run(flags) => ended,
        _ = terminate.recv() => anyhow::bail!("stopped by SIGTERM"),
    }
}
