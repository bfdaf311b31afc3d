//! `worker run`: every stage of the file in one process.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Documents;
use crate::connect::Secrets;
use crate::health::Health;
use crate::metrics::Metrics;
use crate::metrics::trouble::Troubles;
use crate::serve::{Shown, serve};
use crate::stage::{self, Surroundings};

/// Flags of `worker run`.
#[derive(Debug, Args)]
pub struct Run {
    /// The stages.
    #[command(flatten)]
    pub documents: Documents,
    /// Address of /livez, /readyz and /metrics; port 0 takes any free one
    #[arg(
        long,
        env = "STREAMSTAGE_LISTEN",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:8080"
    )]
    pub listen: SocketAddr,
}

/// Runs the stages until SIGTERM or SIGINT, or until one of them cannot go on.
///
/// # Errors
/// What a stage could not get over.
pub async fn run(run: Run) -> anyhow::Result<()> {
    let stages = run.documents.read()?;
    let unserved = || {
        format!(
            "cannot serve on {}; name another address with --listen",
            run.listen
        )
    };
    // Before the stages start: nobody could see how they are, or stop them in good order.
    let signals = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let listener = TcpListener::bind(run.listen).await.with_context(unserved)?;
    let stop = CancellationToken::new();
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let healths = stages.iter().map(|stage| Arc::new(Health::new(stage.name())));
    let healths: Vec<Arc<Health>> = healths.collect();
    registry.register_collector(Box::new(Troubles(healths.clone())));
    let shown = Shown {
        stages: healths.clone(),
        registry: Arc::new(registry),
    };
    let mut running = JoinSet::new();
    for (stage, health) in stages.into_iter().zip(healths) {
        let secrets = Secrets::in_folder(&run.documents.secrets_dir);
        let around = Surroundings {
            secrets,
            health,
            metrics: metrics.clone(),
            stop: stop.clone(),
        };
        running.spawn(async move {
            tracing::info!(stage = stage.name(), layer = ?stage.spec.layer, "stage starts");
            let ended = Box::pin(stage::run(&stage, around)).await;
            ended.with_context(|| format!("stage {} cannot go on", stage.name()))
        });
    }
    tokio::spawn(stop_on_signal(signals, stop.clone()));
    let serving = tokio::spawn(serve(listener, shown, stop.clone()));

    let mut outcome = Ok(());
    while let Some(ended) = running.join_next().await {
        // One stage that cannot go on ends the process, so that whoever started it sees it.
        stop.cancel();
        outcome = outcome.and(ended.context("a stage ended unexpectedly").flatten());
    }
    stop.cancel();
    serving.await?.with_context(unserved)?;
    outcome
}

async fn stop_on_signal((mut terminate, mut interrupt): (Signal, Signal), stop: CancellationToken) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping: the batches in hand are finished first");
    stop.cancel();
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_worker_whose_address_is_taken_does_not_start() {
        let taken = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let started = run(Run {
            documents: Documents {
                file: PathBuf::from("../examples/local.yaml"),
                stages: Vec::new(),
                secrets_dir: PathBuf::from("/nowhere"),
            },
            listen: taken.local_addr().expect("an address"),
        });
        let ended = tokio::time::timeout(Duration::from_secs(10), started).await;
        let error = ended.expect("it started").expect_err("the address is taken");
        assert!(error.to_string().contains("--listen"), "{error:#}");
    }
}
