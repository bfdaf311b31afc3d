#![expect(
    clippy::disallowed_types,
    reason = "edge: creates the client, and connects it to the controller, the leader election and the endpoints"
)]
//! `operator run`: joins the leader election and, as the leader, runs the controller until SIGTERM or SIGINT.
//!
//! At most one operator may act at a time: the controller runs only while this process holds the lease, and the process
//! exits when it loses it. The HTTP endpoints are served by the leader and by standbys.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use k8s_openapi::api::core::v1::ResourceRequirements;
use kube::Client;
use kube::runtime::events::{Recorder, Reporter};
use prometheus_client::registry::Registry;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::scope::{AllowList, Scope};
use crate::controller::Settings;
use crate::defaults::{ResourceQuantities, WorkerDefaults};
use crate::lag::store::LagStore;
use crate::metrics::Metrics;
use crate::metrics::stages::StageMetricsCollector;
use crate::owned::FIELD_MANAGER;
use crate::{controller, http, leader};

/// Time that the controller has to finish after SIGTERM: shorter than the termination grace period of the pod, 30 s.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(20);
/// The lease manager logs every renewal at `info`.
const DEFAULT_LOG_FILTER: &str = "info,kube_lease_manager=warn";

/// Flags of `operator run`.
#[derive(Debug, Args)]
pub struct Run {
    /// Default worker image
    #[arg(long, env = "STREAMSTAGE_WORKER_IMAGE", value_name = "IMAGE")]
    pub worker_image: String,
    /// Pull policy of the worker image
    #[arg(
        long,
        env = "STREAMSTAGE_IMAGE_PULL_POLICY",
        value_name = "POLICY",
        value_parser = ["Always", "IfNotPresent", "Never"],
        default_value = "IfNotPresent"
    )]
    pub image_pull_policy: String,
    /// Image pull secrets, in the namespace of each stage
    #[arg(
        long,
        env = "STREAMSTAGE_IMAGE_PULL_SECRETS",
        value_name = "NAME",
        value_delimiter = ','
    )]
    pub image_pull_secrets: Vec<String>,
    /// Default resource requests of a worker
    #[arg(
        long,
        env = "STREAMSTAGE_WORKER_REQUESTS",
        value_name = "RESOURCES",
        default_value = "cpu=100m,memory=64Mi"
    )]
    pub worker_requests: ResourceQuantities,
    /// Default resource limits of a worker
    #[arg(
        long,
        env = "STREAMSTAGE_WORKER_LIMITS",
        value_name = "RESOURCES",
        default_value = "memory=256Mi"
    )]
    pub worker_limits: ResourceQuantities,
    /// Allow-list of hosts.
    #[command(flatten)]
    pub allow_list: AllowList,
    /// Watched namespaces and leader election Lease.
    #[command(flatten)]
    pub scope: Scope,
    /// Identity in the leader election [default: HOSTNAME-PID]
    #[arg(long, env = "POD_NAME", value_name = "NAME", default_value_t = default_identity(), hide_default_value = true)]
    pub identity: String,
    /// Listen address of /livez, /readyz and /metrics; port 0 picks a free port
    #[arg(
        long,
        env = "STREAMSTAGE_LISTEN",
        value_name = "ADDRESS",
        default_value = "0.0.0.0:8080"
    )]
    pub listen: SocketAddr,
}

/// Runs the operator until SIGTERM or SIGINT.
///
/// # Errors
/// Fails if the cluster is unreachable, the listen address cannot be bound, or the lease is lost.
pub async fn run(flags: Run) -> anyhow::Result<()> {
    telemetry::log::init(DEFAULT_LOG_FILTER);
    let client = Client::try_default()
        .await
        .context("no cluster configuration found: run inside a cluster, or set KUBECONFIG")?;
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let lags = Arc::<LagStore>::default();
    registry.register_collector(Box::new(StageMetricsCollector(Arc::clone(&lags))));
    let stop = CancellationToken::new();
    tokio::spawn(stop_on_signal(stop.clone()));
    let (listen, server_stop) = (flags.listen, stop.clone());
    let server = tokio::spawn(async move {
        // Without its endpoints the operator can be neither probed nor monitored, so it exits.
        let result = http::serve(listen, Arc::new(registry), server_stop.clone()).await;
        server_stop.cancel();
        result
    });

    let result = tokio::select! {
        result = lead(&flags, client, metrics, lags, stop.clone()) => result,
        () = wait_shutdown_timeout(&stop) => {
            tracing::warn!("shutdown timed out, exiting; the API server or Kafka does not answer");
            Ok(())
        }
    };
    stop.cancel();
    server.await?.with_context(|| {
        format!(
            "cannot listen on {}; choose another address with --listen",
            flags.listen
        )
    })?;
    result
}

/// Waits until a shutdown has begun, and has lasted for [`SHUTDOWN_TIMEOUT`].
async fn wait_shutdown_timeout(stop: &CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(SHUTDOWN_TIMEOUT).await;
}

/// Waits to become the leader, runs the controller, and releases the lease at the end.
async fn lead(
    flags: &Run,
    client: Client,
    metrics: Metrics,
    lags: Arc<LagStore>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let lease = &flags.scope.lease_name;
    let namespace = flags
        .scope
        .lease_namespace
        .clone()
        .unwrap_or_else(|| client.default_namespace().to_owned());
    let mut leadership = leader::join_election(client.clone(), &namespace, lease, &flags.identity).await?;
    tracing::info!(lease, namespace, identity = flags.identity, "waiting for lease");
    tokio::select! {
        acquired = leadership.wait_acquired() => acquired?,
        () = stop.cancelled() => return leadership.release().await,
    }
    tracing::info!(lease, "acquired lease");
    metrics.set_leader(true);
    let recorder = Recorder::new(
        client.clone(),
        Reporter {
            controller: FIELD_MANAGER.to_owned(),
            instance: Some(flags.identity.clone()),
        },
    );
    let settings = Settings {
        namespaces: flags.scope.watch_namespaces.clone(),
        defaults: worker_defaults(flags),
        allowed_hosts: flags.allow_list.allowed_hosts.clone(),
    };
    let controller = controller::run(client, settings, metrics, lags, recorder, stop.clone());
    tokio::select! {
        () = controller => leadership.release().await,
        reason = leadership.wait_lost() => anyhow::bail!("lost lease {lease}: {reason}; exiting"),
    }
}

/// Identity that is unique among all processes on all hosts.
fn default_identity() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}-{}", host.trim(), std::process::id())
}

fn worker_defaults(flags: &Run) -> WorkerDefaults {
    WorkerDefaults {
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
        tracing::error!(
            "failed to install signal handlers; SIGTERM and SIGINT end the process without cleanup"
        );
        return;
    };
    tokio::select! {
        _ = terminate.recv() => tracing::info!("received SIGTERM, shutting down"),
        _ = interrupt.recv() => tracing::info!("received SIGINT, shutting down"),
    }
    stop.cancel();
}
