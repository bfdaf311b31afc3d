//! `bench`: measures the pipeline beside its peers, as ratios of one run.

use clap::Parser as _;
use e2e::bench::{Flags, run};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let flags = Flags::parse();
    // The services are dropped in both cases, which stops them.
    tokio::select! {
        result = run(flags) => result,
        _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted"),
    }
}
