#![expect(
    clippy::disallowed_types,
    reason = "edge: sets up the client and the surroundings"
)]
//! `operator run`: waits for the lease, then keeps the stages until it is stopped.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use k8s_openapi::api::core::v1::ResourceRequirements;
use kube::Client;
use kube::runtime::events::{Recorder, Reporter};
use prometheus_client::registry::Registry;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::scope::Scope;
use crate::defaults::{Amounts, Defaults};
use crate::metrics::Metrics;
use crate::metrics::lag::StageFigures;
use crate::owned::FIELD_MANAGER;
use crate::poll::Lags;
use crate::{controller, leader, log, serve};

/// Flags of `operator run`.
#[derive(Debug, Args)]
pub struct Run {
    /// Image of the workers of stages that name none
    #[arg(long, env = "STREAMSTAGE_WORKER_IMAGE", value_name = "IMAGE")]
    pub worker_image: String,
    /// When a node pulls the image of the workers
    #[arg(
        long,
        env = "STREAMSTAGE_IMAGE_PULL_POLICY",
        value_name = "POLICY",
        value_parser = ["Always", "IfNotPresent", "Never"],
        default_value = "IfNotPresent"
    )]
    pub image_pull_policy: String,
    /// Secrets, in each stage's namespace, that the image of the workers is pulled with
    #[arg(
        long,
        env = "STREAMSTAGE_IMAGE_PULL_SECRETS",
        value_name = "NAME",
        value_delimiter = ','
    )]
    pub image_pull_secrets: Vec<String>,
    /// What is set aside for a worker of a stage that does not say it
    #[arg(
        long,
        env = "STREAMSTAGE_WORKER_REQUESTS",
        value_name = "AMOUNTS",
        default_value = "cpu=100m,memory=64Mi"
    )]
    pub worker_requests: Amounts,
    /// The most that a worker may use of a stage that does not say it
    #[arg(
        long,
        env = "STREAMSTAGE_WORKER_LIMITS",
        value_name = "AMOUNTS",
        default_value = "memory=256Mi"
    )]
    pub worker_limits: Amounts,
    /// Which stages, and under which lease
    #[command(flatten)]
    pub scope: Scope,
    /// Name of this operator among those that claim the lease [default: the host's name and the process's number]
    #[arg(long, env = "POD_NAME", value_name = "NAME", default_value_t = identity(), hide_default_value = true)]
    pub identity: String,
    /// Address of /livez, /readyz and /metrics; port 0 takes any free one
    #[arg(
        long,
        env = "STREAMSTAGE_LISTEN",
        value_name = "ADDRESS",
        default_value = "0.0.0.0:8080"
    )]
    pub listen: SocketAddr,
}

/// Keeps the stages until SIGTERM or SIGINT.
///
/// # Errors
/// When the cluster cannot be reached, the address is taken, or the lease is lost.
pub async fn run(flags: Run) -> anyhow::Result<()> {
    log::start();
    let client = Client::try_default()
        .await
        .context("no cluster: run inside one, or set KUBECONFIG")?;
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let lags = Arc::<Lags>::default();
    registry.register_collector(Box::new(StageFigures(Arc::clone(&lags))));
    let stop = CancellationToken::new();
    tokio::spawn(stop_on_signal(stop.clone()));
    let (listen, stopped) = (flags.listen, stop.clone());
    let serving = tokio::spawn(async move {
        // Without its endpoints the operator is neither watched nor alive to anybody: it ends.
        let served = serve::serve(listen, Arc::new(registry), stopped.clone()).await;
        stopped.cancel();
        served
    });

    let outcome = lead(&flags, client, metrics, lags, stop.clone()).await;
    stop.cancel();
    serving
        .await?
        .with_context(|| format!("cannot serve on {}; see --listen", flags.listen))?;
    outcome
}

/// Waits for the lease, keeps the stages while it is held, and gives it back.
async fn lead(
    flags: &Run,
    client: Client,
    metrics: Metrics,
    lags: Arc<Lags>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let namespace = flags
        .scope
        .lease_namespace
        .clone()
        .unwrap_or_else(|| client.default_namespace().to_owned());
    let mut leadership = leader::claim(
        client.clone(),
        &namespace,
        &flags.scope.lease_name,
        &flags.identity,
    )
    .await?;
    tracing::info!(
        lease = flags.scope.lease_name,
        namespace,
        identity = flags.identity,
        "waiting for the lease"
    );
    tokio::select! {
        held = leadership.held() => held?,
        () = stop.cancelled() => return leadership.release().await,
    }
    tracing::info!(lease = flags.scope.lease_name, "holding the lease");
    metrics.leads(true);
    let recorder = Recorder::new(
        client.clone(),
        Reporter {
            controller: FIELD_MANAGER.to_owned(),
            instance: Some(flags.identity.clone()),
        },
    );
    let watched = flags.scope.watch_namespace.as_deref();
    let defaults = defaults(flags);
    let keeping = controller::run(client, watched, defaults, metrics, lags, recorder, stop.clone());
    tokio::select! {
        () = keeping => leadership.release().await,
        why = leadership.lost() => {
            anyhow::bail!("the lease {} is lost, {why}: ending, to wait for it again", flags.scope.lease_name)
        }
    }
}

/// A name that no other process has, here or on another host.
fn identity() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}-{}", host.trim(), std::process::id())
}

fn defaults(flags: &Run) -> Defaults {
    Defaults {
        image: flags.worker_image.clone(),
        image_pull_policy: flags.image_pull_policy.clone(),
        image_pull_secrets: flags.image_pull_secrets.clone(),
        resources: ResourceRequirements {
            requests: Some(flags.worker_requests.0.clone()),
            limits: Some(flags.worker_limits.0.clone()),
            ..ResourceRequirements::default()
        },
    }
}

async fn stop_on_signal(stop: CancellationToken) {
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::error!("cannot listen for SIGTERM and SIGINT");
        return;
    };
    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
        _ = interrupt.recv() => tracing::info!("SIGINT: stopping"),
    }
    stop.cancel();
}
