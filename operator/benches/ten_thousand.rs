#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "benchmark: runs an operator against an API server, reads the clock and prints"
)]
//! Benchmark of an operator with 10,000 converged stages: memory, writes, reconciles per second.
//!
//! `cargo bench -p streamstage-operator --bench ten_thousand [-- STAGES]` fails if the stages need more than 64 MB of
//! memory, or if the operator writes. The API server and the mock of Kafka run in a second process on the same cores. The
//! API server generates each response on demand and stores no object.

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
use crds::status::LimitedBy;
use futures::{StreamExt as _, stream};
use http::Method;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::Client;
use kube::runtime::events::Recorder;
use operator::admission::check_stage;
use operator::controller::{self, Settings};
use operator::defaults::WorkerDefaults;
use operator::lag::offsets::{OffsetSnapshot, PartitionSnapshot};
use operator::lag::tracker::{LagTracker, SnapshotContext};
use operator::lag::view::LagView;
use operator::metrics::Metrics;
use operator::observe::Observed;
use operator::owned::OwnedObjects;
use operator::plan::{Resources, plan};
use operator::scale::{ScalingInput, ScalingSettings, decide_replicas};
use operator::status::{DecisionContext, ReconcileOutcome, status};
use operator::validate::validate;
use prometheus_client::registry::Registry;
use rdkafka::mocking::MockCluster;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Memory limit for 10,000 stages in MiB: 64 MB.
const MAX_RESIDENT_MIB: f64 = 64e6 / 1_048_576.0;
/// Number of topics that the stages share; each stage has its own group.
const TOPICS: usize = 100;
/// Bootstrap servers of the mock of Kafka.
static BROKERS: OnceLock<String> = OnceLock::new();
/// First argument of the second process, which runs the API server and the mock of Kafka.
const SERVER_ARGUMENT: &str = "serve";

#[derive(Debug)]
struct Cluster {
    stages: usize,
    reconciles: AtomicUsize,
    writes: AtomicUsize,
    /// Current round; from round 2 on, watches report every Deployment as modified.
    round: watch::Sender<usize>,
}

/// Requests that the API server has counted.
#[derive(Debug, Deserialize, Serialize)]
struct Counts {
    reconciles: usize,
    writes: usize,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // `cargo bench` adds the argument `--bench`.
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    if let [first, stages] = arguments.as_slice()
        && first == SERVER_ARGUMENT
    {
        return serve(stages.parse()?).await;
    }
    let stages = arguments.first().map_or(Ok(10_000), |count| count.parse())?;
    let mut server = Command::new(std::env::current_exe()?)
        .args([SERVER_ARGUMENT, &stages.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut url = String::new();
    BufReader::new(server.stdout.take().context("the server process has no output")?).read_line(&mut url)?;
    let client = Client::try_from(kube::Config::new(url.trim().parse()?))?;
    get_counts(&client, 0).await?;
    let before = (memory_mib("VmRSS:")?, memory_mib("RssAnon:")?);
    let recorder = Recorder::new(client.clone(), "streamstage-operator".into());
    let metrics = Metrics::register(&mut Registry::default());
    let stop = CancellationToken::new();
    let controller = tokio::spawn(controller::run(
        client.clone(),
        Settings {
            namespaces: Vec::new(),
            defaults: defaults(),
            allowed_hosts: ["127.0.0.1", "*.svc"]
                .map(|host| host.parse().expect(host))
                .to_vec(),
        },
        metrics,
        Arc::default(),
        recorder,
        stop.clone(),
    ));
    for round in 1..=2 {
        measure_round(&client, round, stages, before).await?;
    }
    stop.cancel();
    controller.await?;
    drop(server.stdin.take());
    server.wait()?;
    Ok(())
}

/// Starts a round, waits until every stage is reconciled, and checks memory and writes. `before` is the memory in MiB
/// before the controller started: all resident memory, and the part of it that is data.
async fn measure_round(
    client: &Client,
    round: usize,
    stages: usize,
    before: (f64, f64),
) -> anyhow::Result<()> {
    let started = Instant::now();
    let mut counts = get_counts(client, round).await?;
    while counts.reconciles < stages * round {
        tokio::time::sleep(Duration::from_millis(200)).await;
        counts = get_counts(client, round).await?;
    }
    let seconds = started.elapsed().as_secs_f64();
    let (resident, writes) = (memory_mib("VmRSS:")? - before.0, counts.writes);
    println!(
        "round {round}: {stages} reconciles in {seconds:.1} s, {writes} writes, {resident:.1} MiB more resident \
         memory, of which {:.1} MiB are data; the rest is program code",
        memory_mib("RssAnon:")? - before.1,
    );
    anyhow::ensure!(writes == 0, "{writes} writes for converged stages");
    anyhow::ensure!(
        resident <= MAX_RESIDENT_MIB,
        "{resident:.1} MiB exceed the limit of {MAX_RESIDENT_MIB:.1} MiB"
    );
    Ok(())
}

/// Starts a round on the server, unless it is current, and returns its counts.
async fn get_counts(client: &Client, round: usize) -> anyhow::Result<Counts> {
    let request = http::Request::get(format!("/round/{round}")).body(Vec::new())?;
    Ok(client.request(request).await?)
}

/// Runs the API server and a mock of Kafka with all topics, until standard input is closed.
async fn serve(stages: usize) -> anyhow::Result<()> {
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
        .route("/round/{round}", get(set_round))
        .fallback(handle)
        .with_state(cluster);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("http://{}", listener.local_addr()?);
    let server = tokio::spawn(axum::serve(listener, router).into_future());
    tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new())).await??;
    server.abort();
    Ok(())
}

/// Starts a round, unless it is current, and returns the counts so far.
async fn set_round(State(cluster): State<Arc<Cluster>>, Path(round): Path<usize>) -> String {
    cluster
        .round
        .send_if_modified(|current| std::mem::replace(current, round) != round);
    let counts = Counts {
        reconciles: cluster.reconciles.load(Ordering::Relaxed),
        writes: cluster.writes.load(Ordering::Relaxed),
    };
    json!(counts).to_string()
}

/// Lag of a stage that has read everything.
fn drained_view() -> LagView {
    let snapshot = OffsetSnapshot {
        partitions: vec![PartitionSnapshot {
            partition: 0,
            start: 0,
            end: 0,
            committed: None,
        }],
    };
    let context = SnapshotContext::with_hidden_members(1, SignedDuration::from_mins(10));
    let mut tracker = LagTracker::default();
    for second in 0..2 {
        let now = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(second);
        tracker.record(&snapshot, now, &context);
    }
    LagView {
        now: Timestamp::UNIX_EPOCH,
        tracker: Some(Arc::new(tracker)),
        poll_interval: SignedDuration::from_secs(5),
        ..LagView::default()
    }
}

/// Memory of this process in MiB, by the field of `/proc/self/status`: `VmRSS:` is all resident memory, `RssAnon:` the
/// part that is not backed by a file.
fn memory_mib(field: &str) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kib: f64 = line
        .context("the kernel does not report this field")?
        .trim()
        .trim_end_matches(" kB")
        .parse()?;
    Ok(kib / 1024.0)
}

fn defaults() -> WorkerDefaults {
    WorkerDefaults {
        image: "streamstage/worker:1".to_owned(),
        image_pull_policy: "IfNotPresent".to_owned(),
        image_pull_secrets: Vec::new(),
        resources: k8s_openapi::api::core::v1::ResourceRequirements::default(),
    }
}

/// Stage as the API server returns it, without a status.
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
                "bootstrapServers": [BROKERS.get().context("the brokers are not running")?],
                "topic": format!("orders-{}", index % TOPICS),
            },
            "warehouse": {"host": "postgres", "database": "orders", "connectionBudget": 40},
            "output": {"topic": format!("facts-{index}")},
        },
    }))?)
}

/// Converged object of this resource for the stage `index`: an owned object, or the stage itself.
fn object(resource: &str, index: usize) -> anyhow::Result<Value> {
    let stage = stage(index)?;
    let observed = Observed {
        admission: check_stage(&stage, &[]),
        stage,
        secrets: std::collections::BTreeMap::default(),
        owned: OwnedObjects::default(),
        pods: Vec::new(),
        pod_service_account: None,
        conflicting_stage: None,
        budget_share: None,
        connection: None,
        view: drained_view(),
    };
    let valid = validate(&observed).map_err(|refusal| anyhow::anyhow!(refusal.message))?;
    let input = ScalingInput {
        current_replicas: Some(1),
        ..observed.scaling_input(LimitedBy::None)
    };
    let decision = decide_replicas(&ScalingSettings::from(&observed.stage), &input);
    let planned = plan(&valid, &defaults(), decision.clone());
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
                decision: planned.decision,
                state: std::marker::PhantomData,
            };
            let mut stage = observed.stage.clone();
            stage.status = Some(status(
                &stage,
                ReconcileOutcome::Applied(&applied, &[]),
                DecisionContext {
                    view: &observed.view,
                    decision: &decision,
                },
                Timestamp::UNIX_EPOCH,
            ));
            json!(stage)
        }
    })
}

async fn handle(State(cluster): State<Arc<Cluster>>, request: Request) -> Response {
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
        (&Method::GET, Some(resource)) if query.contains("watch=true") => {
            return watch_changes(&cluster, resource);
        }
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
        .map(|index| object(resource, index).map(|object| representation(resource, &object)))
        .collect::<anyhow::Result<_>>()?;
    let next = if to < cluster.stages {
        to.to_string()
    } else {
        String::new()
    };
    Ok(json!({"metadata": {"resourceVersion": "1", "continue": next}, "items": items}))
}

/// Full stages, and only the metadata of all other objects, as the operator watches them.
fn representation(resource: &str, object: &Value) -> Value {
    if resource == "streamstages" {
        object.clone()
    } else {
        json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": object["metadata"]})
    }
}

/// Watch response; in round 2 it reports every Deployment as modified.
fn watch_changes(cluster: &Arc<Cluster>, resource: &'static str) -> Response {
    let (mut round, stages) = (cluster.round.subscribe(), cluster.stages);
    let lines = stream::once(async move {
        let _ = round
            .wait_for(|round| *round == 2 && resource == "deployments")
            .await;
        stream::iter((0..stages).map(move |index| {
            let object = object(resource, index).unwrap_or_default();
            let event = json!({"type": "MODIFIED", "object": representation(resource, &object)});
            Ok::<_, Infallible>(format!("{event}\n"))
        }))
    });
    Response::new(Body::from_stream(lines.flatten().chain(stream::pending())))
}
