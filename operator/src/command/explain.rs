#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "edge: asks the cluster and Kafka, and prints what follows"
)]
//! `operator explain`: why a stage has as many workers as it has, from readings of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use crds::StreamStage;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::{Api, Client};

use crate::connection::{Connection, servers};
use crate::explain::explain;
use crate::kafka::Cluster;
use crate::lag::track::{Surroundings, Track};
use crate::lag::{Question, Reading};
use crate::owned;
use crate::scale::{Known, Rules, follow};
use crate::status::is_rolling;

/// How long Kafka may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Flags of `operator explain`.
#[derive(Debug, Args)]
pub struct Explain {
    /// Name of the stage
    pub stage: String,
    /// Its namespace [default: the current one]
    #[arg(long, short, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
}

/// Reads the stage's lag twice, and prints the inputs, the terms and the gates of the decision that follows.
///
/// # Errors
/// When the cluster or Kafka does not answer.
pub async fn run(flags: &Explain) -> anyhow::Result<()> {
    let client = Client::try_default()
        .await
        .context("no cluster: run inside one, or set KUBECONFIG")?;
    let namespace = flags
        .namespace
        .clone()
        .unwrap_or_else(|| client.default_namespace().to_owned());
    let stage = Api::<StreamStage>::namespaced(client.clone(), &namespace)
        .get(&flags.stage)
        .await?;
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), &namespace);
    let deployment = deployments.get_opt(&owned::name(&stage)).await?;
    let cluster = connect(&stage, client, &namespace).await?;
    let question = Question::from(&stage);
    let status = stage.status.clone().unwrap_or_default();
    let interval = stage.spec.scaling.poll_interval.as_std();
    let around = Surroundings {
        ready: status.ready_replicas,
        stuck_after: SignedDuration::try_from(stage.spec.scaling.stuck_after.as_std())?,
    };
    let read = || {
        let answer = cluster.read(std::slice::from_ref(&question), PATIENCE).remove(0);
        (answer, Timestamp::now())
    };
    let first = read();
    tokio::time::sleep(interval).await;
    let second = read();
    let empty = match (&first.0, &second.0) {
        (Ok(first), Ok(second)) => empty_tails(&cluster, &question.topic, first, second),
        _ => BTreeSet::new(),
    };
    let mut track = Track::resume(&status);
    for (answer, at) in [first, second] {
        match answer {
            Ok(mut reading) => {
                reading.has_read(&empty);
                track.read(&reading, at, around);
            }
            Err(unknown) => track.failed(unknown),
        }
    }
    let group = question.group.as_str();
    let rebalancing = cluster.rebalancing(&[group], PATIENCE);
    let (now, before) = (Timestamp::now(), status.scaling.unwrap_or_default());
    let known = Known {
        current: status.desired_replicas,
        lag: track.known(now, SignedDuration::try_from(interval)?),
        is_rolling: deployment.as_ref().is_some_and(is_rolling),
        is_rebalancing: rebalancing.is_ok_and(|found| found.contains(group)),
        ..Known::nothing(now, &before)
    };
    print!(
        "{}",
        explain(&stage, &known, &follow(&Rules::from(&stage), &known))
    );
    Ok(())
}

/// The partitions that stood still with nothing to read, such as the marker of a transaction: no lag for the operator
/// either.
fn empty_tails(cluster: &Cluster, topic: &str, first: &Reading, second: &Reading) -> BTreeSet<u32> {
    let tails = second.tails_since(first);
    if tails.is_empty() {
        return BTreeSet::new();
    }
    // What cannot be read stays a lag.
    cluster.empty_tails(topic, &tails, PATIENCE).unwrap_or_default()
}

async fn connect(stage: &StreamStage, client: Client, namespace: &str) -> anyhow::Result<Cluster> {
    let source = &stage.spec.source;
    let data = match &source.auth_secret {
        Some(name) => Api::<Secret>::namespaced(client, namespace)
            .get(name)
            .await?
            .data
            .unwrap_or_default(),
        None => BTreeMap::new(),
    };
    let connection = Connection::new(&servers(stage), &data)
        .map_err(|bad| anyhow::anyhow!("spec.source.authSecret: the key {}: {}", bad.key, bad.cause))?;
    Ok(Cluster::connect(&connection.servers, &connection.security)?)
}
