//! `worker run`: runs every stage of the file in one process, and serves their health and metrics.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use crds::StreamStage;
use prometheus_client::registry::Registry;
use telemetry::progress::Progress;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::stage_selection::StageSelection;
use crate::health::Health;
use crate::http::serve;
use crate::metrics::Metrics;
use crate::metrics::health::HealthCollector;
use crate::stage::{self, StageContext};

/// Time for which `/readyz` reports a terminal error before the process exits.
const REPORT_DURATION: Duration = Duration::from_secs(3);

/// Flags of `worker run`.
#[derive(Debug, Args)]
pub struct Run {
    /// Stages to run.
    #[command(flatten)]
    pub selection: StageSelection,
    /// Listen address of /livez, /readyz and /metrics; port 0 picks a free port
    #[arg(
        long,
        env = "STREAMSTAGE_LISTEN",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:8080"
    )]
    pub listen: SocketAddr,
}

/// Runs the stages until SIGTERM or SIGINT, or until one of them fails.
///
/// # Errors
/// If the listen address is taken, or a stage failed with a terminal error.
pub async fn run(flags: Run) -> anyhow::Result<()> {
    let stages = flags.selection.read()?;
    let listen_error = || {
        format!(
            "cannot listen on {}; use another address with --listen",
            flags.listen
        )
    };
    // Before the stages start, so that health checks and a shutdown work from the first moment.
    let signals = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let listener = TcpListener::bind(flags.listen).await.with_context(listen_error)?;
    let (stop, stop_serving) = (CancellationToken::new(), CancellationToken::new());
    let progress = Progress::default();
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let healths: Vec<Arc<Health>> = stages
        .iter()
        .map(|stage| Arc::new(Health::in_process(stage.name(), progress.clone())))
        .collect();
    registry.register_collector(Box::new(HealthCollector(healths.clone())));
    let server = tokio::spawn(serve(
        listener,
        healths.clone(),
        Arc::new(registry),
        progress.clone(),
        stop_serving.clone(),
    ));
    let timeout = stages.iter().map(StreamStage::shutdown_timeout).max();
    let shutdown_timeout = wait_shutdown_timeout(&stop, timeout.unwrap_or_default());
    let mut running = JoinSet::new();
    for (stage, health) in stages.into_iter().zip(healths) {
        let context = StageContext {
            secrets: flags.selection.secrets(),
            health,
            metrics: metrics.clone(),
            stop: stop.clone(),
        };
        running.spawn(run_stage(stage, context));
    }
    let signal = tokio::spawn(stop_on_signal(signals, stop.clone()));

    let mut outcome = Ok(());
    tokio::select! {
        () = join_stages(running, &stop, &mut outcome) => {}
        () = shutdown_timeout => {
            let steps = progress.in_progress();
            tracing::warn!(steps, "shutdown timed out, exiting; batches in progress are processed again later");
        }
    }
    if outcome.is_err() {
        // A signal ends the report early. It was the timeout, or the task of the signals, which cannot fail.
        drop(tokio::time::timeout(REPORT_DURATION, signal).await);
    }
    stop_serving.cancel();
    server.await?.with_context(listen_error)?;
    outcome
}

/// Runs one stage, and reports its terminal error.
async fn run_stage(stage: StreamStage, context: StageContext) -> anyhow::Result<()> {
    tracing::info!(stage = stage.name(), layer = ?stage.spec.layer, "stage started");
    let health = Arc::clone(&context.health);
    let result = Box::pin(stage::run(&stage, context)).await;
    if let Err(error) = &result {
        tracing::error!(stage = stage.name(), %error, "stage stopped");
        health.mark_stopped(error.to_string());
    }
    result.with_context(|| format!("stage {} failed", stage.name()))
}

/// Waits for the stages; `outcome` becomes the first error. One failed stage stops the process, so that its supervisor
/// notices the failure.
async fn join_stages(
    mut running: JoinSet<anyhow::Result<()>>,
    stop: &CancellationToken,
    outcome: &mut anyhow::Result<()>,
) {
    while let Some(result) = running.join_next().await {
        stop.cancel();
        let result = result.context("a stage panicked").flatten();
        if outcome.is_ok() {
            *outcome = result;
        }
    }
}

/// Waits until a shutdown has begun, and has lasted for `timeout`.
async fn wait_shutdown_timeout(stop: &CancellationToken, timeout: Duration) {
    stop.cancelled().await;
    tokio::time::sleep(timeout).await;
}

/// Cancels `stop` at the first SIGTERM or SIGINT.
async fn stop_on_signal((mut terminate, mut interrupt): (Signal, Signal), stop: CancellationToken) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("shutting down: finishing in-flight batches");
    stop.cancel();
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[tokio::test]
    async fn a_worker_does_not_start_if_its_listen_address_is_taken() {
        let taken = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let running = run(Run {
            selection: StageSelection {
                file: PathBuf::from("../examples/local.yaml"),
                stages: Vec::new(),
                secrets_dir: PathBuf::from("/nowhere"),
            },
            listen: taken.local_addr().expect("an address"),
        });
        let result = tokio::time::timeout(Duration::from_secs(10), running).await;
        let error = result
            .expect("the worker started")
            .expect_err("the address is taken");
        assert!(error.to_string().contains("--listen"), "{error:#}");
    }
}
