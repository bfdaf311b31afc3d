#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "edge: measures an operator against an API server in the process"
)]
//! What 10,000 converged stages cost an operator: memory, writes, reconciles per second.
//!
//! What the operator talks to is in a process of its own: an API server that makes up each answer when it is asked and
//! keeps none, and a mock of Kafka. They share the machine's cores with it.
//! `cargo run --release -p streamstage-operator --example ten_thousand [stages]` fails when they cost more than 64 MB of
//! memory, or when a write is made.

use std::convert::Infallible;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use axum::routing::get;
use crds::StreamStage;
use crds::status::ScalingStatus;
use futures::{StreamExt as _, stream};
use http::Method;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::Client;
use kube::runtime::events::Recorder;
use operator::controller;
use operator::defaults::Defaults;
use operator::lag::track::{Surroundings, Track};
use operator::lag::view::View;
use operator::lag::{PartitionReading, Reading};
use operator::metrics::Metrics;
use operator::observe::Observed;
use operator::owned::Owned;
use operator::plan::{Resources, plan};
use operator::scale::{Known, Rules, wanted};
use operator::status::{Decided, Outcome, status};
use operator::validate::validate;
use prometheus_client::registry::Registry;
use rdkafka::mocking::MockCluster;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// MiB that 10,000 stages may cost: 64 MB.
const LIMIT: f64 = 64e6 / 1_048_576.0;
/// Topics that the stages share, each with a group of its own.
const TOPICS: usize = 100;
/// Where the mock of Kafka listens.
static BROKERS: OnceLock<String> = OnceLock::new();
/// The first argument of the process around the operator.
const AROUND: &str = "around";

#[derive(Debug)]
struct Cluster {
    stages: usize,
    reconciles: AtomicUsize,
    writes: AtomicUsize,
    /// Rounds in which every Deployment is announced as changed.
    round: watch::Sender<usize>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [around, stages] = arguments.as_slice()
        && around == AROUND
    {
        return surroundings(stages.parse()?).await;
    }
    let stages = arguments.first().map_or(Ok(10_000), |count| count.parse())?;
    let mut around = Command::new(std::env::current_exe()?)
        .args([AROUND, &stages.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut url = String::new();
    BufReader::new(around.stdout.take().context("no output")?).read_line(&mut url)?;
    let client = Client::try_from(kube::Config::new(url.trim().parse()?))?;
    let ask = async |path: String| -> anyhow::Result<Value> {
        let request = http::Request::get(path).body(Vec::new())?;
        Ok(client.request(request).await?)
    };
    ask("/round/0".to_owned()).await?;
    let before = (memory("VmRSS:")?, memory("RssAnon:")?);
    let recorder = Recorder::new(client.clone(), "streamstage-operator".into());
    let metrics = Metrics::register(&mut Registry::default());
    let stop = CancellationToken::new();
    let running = tokio::spawn(controller::run(
        client.clone(),
        None,
        defaults(),
        metrics,
        Arc::default(),
        recorder,
        stop.clone(),
    ));
    for round in 1..=2_usize {
        let begun = Instant::now();
        let mut counts = ask(format!("/round/{round}")).await?;
        while counts["reconciles"].as_u64().context("no count")? < u64::try_from(stages * round)? {
            tokio::time::sleep(Duration::from_millis(200)).await;
            counts = ask(format!("/round/{round}")).await?;
        }
        let seconds = begun.elapsed().as_secs_f64();
        let writes = counts["writes"].as_u64().context("no count")?;
        let resident = memory("VmRSS:")? - before.0;
        println!(
            "round {round}: {stages} reconciles in {seconds:.1} s, {writes} writes, {resident:.1} MiB more resident \
             memory, of which {:.1} MiB hold data; the rest is the program itself",
            memory("RssAnon:")? - before.1,
        );
        anyhow::ensure!(
            writes == 0,
            "{writes} writes for stages that are as they should be"
        );
        anyhow::ensure!(
            resident <= LIMIT,
            "{resident:.1} MiB: at most {LIMIT:.1} are allowed"
        );
    }
    stop.cancel();
    running.await?;
    drop(around.stdin.take());
    around.wait()?;
    Ok(())
}

/// The API server, and a mock of Kafka with all topics, until the input ends.
async fn surroundings(stages: usize) -> anyhow::Result<()> {
    let brokers = MockCluster::new(1)?;
    for topic in 0..TOPICS {
        brokers.create_topic(&format!("orders-{topic}"), 1, 1)?;
    }
    BROKERS.get_or_init(|| brokers.bootstrap_servers());
    let cluster = Arc::new(Cluster {
        stages,
        reconciles: AtomicUsize::new(0),
        writes: AtomicUsize::new(0),
        round: watch::Sender::new(0),
    });
    let router = Router::new()
        .route("/round/{round}", get(turn))
        .fallback(answer)
        .with_state(cluster);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("http://{}", listener.local_addr()?);
    let serving = tokio::spawn(axum::serve(listener, router).into_future());
    tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new())).await??;
    serving.abort();
    Ok(())
}

/// Begins a round, unless it has begun, and tells what happened so far.
async fn turn(State(cluster): State<Arc<Cluster>>, Path(round): Path<usize>) -> String {
    cluster
        .round
        .send_if_modified(|now| std::mem::replace(now, round) != round);
    let (reconciles, writes) = (&cluster.reconciles, &cluster.writes);
    json!({"reconciles": reconciles.load(Ordering::Relaxed), "writes": writes.load(Ordering::Relaxed)})
        .to_string()
}

/// What is known of a stage that has read everything.
fn drained() -> View {
    let reading = Reading {
        partitions: vec![PartitionReading {
            partition: 0,
            start: 0,
            end: 0,
            committed: None,
        }],
    };
    let around = Surroundings {
        ready: 1,
        stuck_after: SignedDuration::from_mins(10),
    };
    let mut track = Track::default();
    for second in 0..2 {
        let now = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(second);
        track.read(&reading, now, around);
    }
    View {
        now: Timestamp::UNIX_EPOCH,
        track: Some(Arc::new(track)),
        poll_interval: SignedDuration::from_secs(5),
        is_rebalancing: false,
    }
}

/// MiB of a kind of memory that Linux counts for this process: all that is resident, or what is backed by no file.
fn memory(kind: &str) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(kind));
    let kib: f64 = line
        .context("not counted")?
        .trim()
        .trim_end_matches(" kB")
        .parse()?;
    Ok(kib / 1024.0)
}

fn defaults() -> Defaults {
    Defaults {
        image: "streamstage/worker:1".to_owned(),
        image_pull_policy: "IfNotPresent".to_owned(),
        image_pull_secrets: Vec::new(),
        resources: k8s_openapi::api::core::v1::ResourceRequirements::default(),
    }
}

/// A stage as a user writes it, on a cluster.
fn stage(index: usize) -> anyhow::Result<StreamStage> {
    Ok(serde_json::from_value(json!({
        "apiVersion": "streamstage.dev/v1alpha1",
        "kind": "StreamStage",
        "metadata": {
            "name": format!("stage-{index}"),
            "namespace": "orders",
            "uid": format!("uid-{index}"),
            "generation": 1,
            "creationTimestamp": "2024-02-24T00:00:00Z",
        },
        "spec": {
            "layer": "dds",
            "source": {
                "bootstrapServers": [BROKERS.get().context("no brokers")?],
                "topic": format!("orders-{}", index % TOPICS),
            },
            "warehouse": {"host": "postgres", "database": "orders", "connectionBudget": 40},
            "output": {"topic": format!("facts-{index}")},
        },
    }))?)
}

/// One of the objects of a stage, as a cluster has it that is done with it; or the stage.
fn object(resource: &str, index: usize) -> anyhow::Result<Value> {
    let observed = Observed {
        stage: stage(index)?,
        secrets: std::collections::BTreeMap::default(),
        owned: Owned::default(),
        pods: Vec::new(),
        rival: None,
        connection: None,
        view: drained(),
    };
    let valid = validate(&observed).map_err(|refusal| anyhow::anyhow!(refusal.message))?;
    let before = ScalingStatus::default();
    let known = Known {
        current: Some(1),
        ..observed.known(&before)
    };
    let wanted = wanted(&Rules::from(&observed.stage), &known);
    let planned = plan(&valid, &defaults(), wanted.clone());
    let mut deployment = json!(planned.deployment);
    deployment["metadata"]["generation"] = json!(1);
    deployment["spec"]["replicas"] = json!(1);
    deployment["status"] =
        json!({"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "readyReplicas": 1});
    Ok(match resource {
        "serviceaccounts" => json!(planned.service_account),
        "configmaps" => json!(planned.config_map),
        "services" => json!(planned.service),
        "poddisruptionbudgets" => json!(planned.disruption_budget),
        "deployments" => deployment,
        _ => {
            let applied = Resources {
                deployment: serde_json::from_value(deployment)?,
                service_account: planned.service_account,
                config_map: planned.config_map,
                service: planned.service,
                disruption_budget: planned.disruption_budget,
                wanted: planned.wanted,
                state: std::marker::PhantomData,
            };
            let mut stage = observed.stage.clone();
            stage.status = Some(status(
                &stage,
                Outcome::Applied(&applied, &[]),
                Decided {
                    view: &observed.view,
                    wanted: &wanted,
                },
                Timestamp::UNIX_EPOCH,
            ));
            json!(stage)
        }
    })
}

async fn answer(State(cluster): State<Arc<Cluster>>, request: Request) -> Response {
    let path: Vec<&str> = request.uri().path().trim_matches('/').split('/').collect();
    let query = request.uri().query().unwrap_or_default();
    let resources = [
        "streamstages",
        "serviceaccounts",
        "configmaps",
        "services",
        "poddisruptionbudgets",
        "deployments",
    ];
    let resource = resources.into_iter().find(|resource| path.contains(resource));
    let value = match (request.method(), resource) {
        (&Method::GET, Some(resource)) if query.contains("watch=true") => return changes(&cluster, resource),
        (&Method::GET, _) if query.contains("watch=true") => {
            return Response::new(Body::from_stream(stream::pending::<Result<String, Infallible>>()));
        }
        (&Method::GET, Some(resource)) if path.last() == Some(&resource) => list(&cluster, resource, query),
        (&Method::GET, Some(resource)) => {
            cluster
                .reconciles
                .fetch_add(usize::from(resource == "deployments"), Ordering::Relaxed);
            let digits = path
                .last()
                .map(|name| name.trim_start_matches("stage-").trim_end_matches("-worker"));
            digits
                .and_then(|digits| digits.parse().ok())
                .map_or_else(|| Ok(Value::Null), |index| object(resource, index))
        }
        (&Method::GET, None) => Ok(json!({"metadata": {"resourceVersion": "1"}, "items": []})),
        _ => {
            cluster.writes.fetch_add(1, Ordering::Relaxed);
            Ok(Value::Null)
        }
    };
    Response::new(Body::from(value.unwrap_or_default().to_string()))
}

fn list(cluster: &Cluster, resource: &str, query: &str) -> anyhow::Result<Value> {
    let token = query.split('&').find_map(|pair| pair.strip_prefix("continue="));
    let from: usize = token.unwrap_or("0").parse()?;
    let limit = query.split('&').find_map(|pair| pair.strip_prefix("limit="));
    let to = cluster
        .stages
        .min(from + limit.unwrap_or("500").parse::<usize>()?);
    let items: Vec<Value> = (from..to)
        .map(|index| object(resource, index).map(|object| shown(resource, &object)))
        .collect::<anyhow::Result<_>>()?;
    let next = if to < cluster.stages {
        to.to_string()
    } else {
        String::new()
    };
    Ok(json!({"metadata": {"resourceVersion": "1", "continue": next}, "items": items}))
}

/// Everything but stages is watched by its metadata.
fn shown(resource: &str, object: &Value) -> Value {
    if resource == "streamstages" {
        object.clone()
    } else {
        json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": object["metadata"]})
    }
}

/// In the second round every Deployment is announced as changed.
fn changes(cluster: &Arc<Cluster>, resource: &'static str) -> Response {
    let (mut round, stages) = (cluster.round.subscribe(), cluster.stages);
    let lines = stream::once(async move {
        let _ = round
            .wait_for(|round| *round == 2 && resource == "deployments")
            .await;
        stream::iter((0..stages).map(move |index| {
            let object = object(resource, index).unwrap_or_default();
            let event = json!({"type": "MODIFIED", "object": shown(resource, &object)});
            Ok::<_, Infallible>(format!("{event}\n"))
        }))
    });
    Response::new(Body::from_stream(lines.flatten().chain(stream::pending())))
}
