#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "edge: reads the cluster and polls Kafka, and prints the result"
)]
//! `operator explain`: prints how the operator would decide on the replicas of a stage now.
//!
//! Never writes. It polls the lag itself and does not use the running operator's results, so its rates cover one poll
//! interval only. [`crate::explain`] formats the output.

use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use crds::status::LimitedBy;
use crds::{StreamStage, StreamStageStatus};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kafka::Restrictions;
use kube::api::ListParams;
use kube::{Api, Client};
use telemetry::stdout::print;

use super::scope::AllowList;
use crate::admission::check_stage;
use crate::budgets::share_of;
use crate::explain::explain;
use crate::kafka::limits::ClientLimits;
use crate::kafka::{Cluster, GroupState};
use crate::lag::offsets::GroupTopic;
use crate::lag::tracker::{LagTracker, SnapshotContext};
use crate::observe::{rollout, source_connection};
use crate::owned;
use crate::scale::budget::BudgetShare;
use crate::scale::gate::Rollout;
use crate::scale::state::ScalingState;
use crate::scale::{ScalingInput, ScalingSettings, decide_by_lag};
use crate::stage_summary::{CachedStage, StageSummary, readable};

/// Timeout of a request to Kafka.
const KAFKA_TIMEOUT: Duration = Duration::from_secs(5);

/// Flags of `operator explain`.
#[derive(Debug, Args)]
pub struct Explain {
    /// Name of the stage
    pub stage: String,
    /// Namespace of the stage [default: the current namespace]
    #[arg(long, short, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// Allow-list of hosts, as in `operator run`.
    #[command(flatten)]
    pub allow_list: AllowList,
}

/// Polls the lag of the stage twice, one poll interval apart, and prints the resulting decision.
///
/// # Errors
/// Fails if the cluster is unreachable, the stage does not exist, or its Kafka credentials are invalid. An unreachable
/// Kafka is not an error: the decision then has an unknown lag.
pub async fn run(flags: &Explain) -> anyhow::Result<()> {
    let client = Client::try_default()
        .await
        .context("no cluster configuration found: run inside a cluster, or set KUBECONFIG")?;
    let namespace = flags
        .namespace
        .clone()
        .unwrap_or_else(|| client.default_namespace().to_owned());
    let stage = Api::<StreamStage>::namespaced(client.clone(), &namespace)
        .get(&flags.stage)
        .await?;
    check_stage(&stage, &flags.allow_list.allowed_hosts)
        .map_err(|refusal| anyhow::anyhow!(refusal.message))?;
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), &namespace);
    let deployment = deployments.get_opt(&owned::object_name(&stage)).await?;
    let budget_share = budget_share(&stage, client.clone()).await;
    let mut limits = ClientLimits::new(flags.allow_list.allowed_hosts.clone());
    let cluster = connect(&stage, client, limits.restrict(&namespace)).await?;
    let group_topic = GroupTopic::from(&stage);
    let status = stage.status.clone().unwrap_or_default();

    let tracker = poll_twice(&cluster, &stage, &group_topic, &status).await?;
    let described = cluster.describe_groups(std::slice::from_ref(&group_topic), KAFKA_TIMEOUT);
    let described = described.await.unwrap_or_default();
    let is_rebalancing = described
        .get(&group_topic)
        .is_some_and(GroupState::is_rebalancing);
    let (now, scaling) = (Timestamp::now(), ScalingState::from(&status));
    let poll_interval = SignedDuration::try_from(stage.spec.scaling.poll_interval.as_std())?;
    let input = ScalingInput {
        current_replicas: status.desired_replicas,
        lag: tracker.lag_state(now, poll_interval),
        rollout: deployment.as_ref().map_or(Rollout::None, rollout),
        rebalancing_since: is_rebalancing.then_some(now),
        limited_by: status
            .scaling
            .as_ref()
            .map_or(LimitedBy::None, |scaling| scaling.limited_by),
        ..ScalingInput::new(now, &scaling)
    };
    let settings = ScalingSettings {
        budget_share,
        ..ScalingSettings::from(&stage)
    };
    let decision = decide_by_lag(&settings, &input);
    Ok(print(explain(&stage, &input, &decision))?)
}

/// Share of the stage in the connection budget of its warehouse, among the stages of its namespace; the whole budget if
/// they cannot be listed.
async fn budget_share(stage: &StreamStage, client: Client) -> Option<BudgetShare> {
    let stages: Api<CachedStage> = Api::namespaced(client, stage.namespace());
    let stages = stages.list(&ListParams::default()).await;
    let stages = stages.map(|list| list.items).unwrap_or_default();
    let readable = readable(&stages);
    share_of(&StageSummary::from(stage.clone()), readable)
}

/// Polls the lag now and after one poll interval; rates need two snapshots.
async fn poll_twice(
    cluster: &Cluster,
    stage: &StreamStage,
    group_topic: &GroupTopic,
    status: &StreamStageStatus,
) -> anyhow::Result<LagTracker> {
    let stuck_after = SignedDuration::try_from(stage.spec.scaling.stuck_after.as_std())?;
    let context = SnapshotContext::with_hidden_members(status.ready_replicas, stuck_after);
    let poll = async || {
        let query = std::slice::from_ref(group_topic);
        let result = cluster.fetch_snapshots(query, KAFKA_TIMEOUT).await.remove(0);
        (result, Timestamp::now())
    };
    let first = poll().await;
    tokio::time::sleep(stage.spec.scaling.poll_interval.as_std()).await;
    let second = poll().await;
    let mut tracker = LagTracker::from_status(status);
    for (result, at) in [first, second] {
        match result {
            Ok(snapshot) => tracker.record(&snapshot, at, &context),
            Err(error) => tracker.record_failure(error),
        }
    }
    Ok(tracker)
}

/// Connects to the Kafka of the stage with the credentials of its Secret.
async fn connect(stage: &StreamStage, client: Client, restrictions: Restrictions) -> anyhow::Result<Cluster> {
    let namespace = stage.namespace();
    let secret = match &stage.spec.source.auth_secret_name {
        Some(name) => Api::<Secret>::namespaced(client, namespace).get_opt(name).await?,
        None => None,
    };
    let connection = source_connection(stage, secret.as_ref()).map_err(anyhow::Error::msg)?;
    Ok(Cluster::new(&connection, restrictions))
}
