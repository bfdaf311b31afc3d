//! A tenant whose brokers are hostile, beside one that behaves well, in the shipped operator: its memory stays below the
//! limit of the chart, and the other tenant is neither delayed nor polled more rarely.
#![expect(
    clippy::disallowed_methods,
    reason = "edge: runs the operator, and measures its latency"
)]

mod brokers;

use std::process::Stdio;
use std::time::{Duration, Instant};

use rdkafka::mocking::MockCluster;
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use self::brokers::{Behavior, HostileBroker, RecordingProxy};
use super::api_server::ApiServer;
use super::process::{roll_out, wait_until};
use super::stages::cdm;
use super::tenants::{create_in, measure_latency, stalled};
use crate::commands::kubeconfig::serve;

/// Memory limit of the operator in the chart.
const MEMORY_LIMIT_KIB: u64 = 128 << 10;
/// Stages of the tenant that behaves well.
const STAGES: usize = 10;
/// Stages of the hostile tenant whose reconciles hang.
const HANGING_STAGES: usize = 1000;
/// Polls per measurement, one a second.
const MEASURED_POLLS: usize = 8;
/// Maximum ratio of a latency and of an interval beside and without the hostile tenant.
const MAX_RATIO: f64 = 1.2;
const DEADLINE: Duration = Duration::from_mins(1);

/// The shipped operator, which is killed on drop.
struct Operator {
    process: Child,
    _kubeconfig: tempfile::TempDir,
}

impl Operator {
    async fn start(server: &ApiServer) -> Self {
        let kubeconfig = serve(server.router()).await;
        let mut process = Command::new(env!("CARGO_BIN_EXE_operator"))
            .args([
                "run",
                "--worker-image=streamstage/worker:1",
                "--listen=127.0.0.1:0",
            ])
            .args(["--lease-namespace=orders", "--allowed-hosts=127.0.0.1,*.svc"])
            .env("KUBECONFIG", kubeconfig.path().join("kubeconfig"))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("start the operator");
        // Its log is read, so that a full pipe never blocks it.
        let log = process.stderr.take().expect("the log");
        tokio::spawn(async move {
            let mut lines = BufReader::new(log).lines();
            while let Ok(Some(_)) = lines.next_line().await {}
        });
        Self {
            process,
            _kubeconfig: kubeconfig,
        }
    }

    /// Peak of the resident memory, in KiB; panics if the operator has ended.
    fn peak_memory_kib(&mut self) -> u64 {
        let ended = self.process.try_wait().expect("the state of the operator");
        assert!(ended.is_none(), "the operator has ended: {ended:?}");
        let id = self.process.id().expect("it is running");
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("its status");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak = peak.and_then(|peak| peak.trim().strip_suffix(" kB"));
        peak.expect("a peak").trim().parse().expect("a number")
    }
}

/// Longest of the intervals between the next polls.
async fn measure_interval(proxy: &RecordingProxy) -> Duration {
    let start = proxy.polls().len();
    let deadline = Instant::now() + DEADLINE;
    loop {
        let polls = &proxy.polls()[start..];
        if polls.len() > MEASURED_POLLS {
            let intervals = polls.windows(2).map(|pair| pair[1] - pair[0]);
            return intervals.max().expect("an interval");
        }
        assert!(
            Instant::now() < deadline,
            "the lag is not polled: {} polls",
            polls.len()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Creates the hostile tenant: its brokers, names that are not valid, and reconciles that hang.
async fn create_hostile_tenant(server: &ApiServer) -> Vec<HostileBroker> {
    let mut brokers = Vec::new();
    for (index, behavior) in Behavior::ALL.into_iter().enumerate() {
        let broker = HostileBroker::start(behavior).await;
        let source = json!({"bootstrapServers": [broker.address()], "topic": "facts"});
        brokers.push(broker);
        let spec = json!({"source": source, "scaling": {"pollInterval": "1s"}});
        create_in(server, "hostile", &cdm(&format!("broker-{index}"), &spec));
        let secret = json!({"source": {"authSecretName": "../../orders/secrets/x"}});
        create_in(server, "hostile", &cdm(&format!("name-{index}"), &secret));
    }
    for index in 0..HANGING_STAGES {
        create_in(server, "hanging", &cdm(&format!("cdm-{index}"), &json!({})));
    }
    wait_until(server, "an invalid name", |server| {
        stalled(server, "hostile", "name-0").0 == "ConfigInvalid"
    })
    .await;
    brokers
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_brokers_names_and_reconciles_harm_neither_the_operator_nor_another_tenant() {
    let kafka = MockCluster::new(1).expect("start a broker");
    kafka.create_topic("facts", 4, 1).expect("create the topic");
    let proxy = RecordingProxy::start(kafka.bootstrap_servers()).await;
    let server = ApiServer::start();
    server.hang("hanging");
    let mut operator = Operator::start(&server).await;
    for index in 0..STAGES {
        let name = if index == 0 {
            "cdm".to_owned()
        } else {
            format!("cdm-{index}")
        };
        // The polls of one stage are recorded.
        let address = if index == 0 {
            proxy.address().to_owned()
        } else {
            kafka.bootstrap_servers()
        };
        let group = format!("orders.{name}");
        let source = json!({"bootstrapServers": [address], "topic": "facts", "consumerGroup": group});
        let spec = json!({"source": source, "scaling": {"pollInterval": "1s"}});
        create_in(&server, "orders", &cdm(&name, &spec));
        wait_until(&server, "a Deployment", |server| {
            server.get("deployments", &format!("{name}-worker")).is_some()
        })
        .await;
        roll_out(&server, &name);
    }
    let mut latency_alone = measure_latency(&server, 0).await;
    let mut interval_alone = measure_interval(&proxy).await;
    let quiet_kib = operator.peak_memory_kib();

    let brokers = create_hostile_tenant(&server).await;
    // The load of the machine changes, so both are measured again if they differ.
    for round in 1..=5 {
        let latency = measure_latency(&server, round).await;
        let interval = measure_interval(&proxy).await;
        let ratios = [
            latency.div_duration_f64(latency_alone),
            interval.div_duration_f64(interval_alone),
        ];
        let peak_kib = operator.peak_memory_kib();
        eprintln!(
            "beside a hostile tenant: reconcile latency {latency_alone:.1?} -> {latency:.1?}, ratio {:.2}; longest poll \
             interval {interval_alone:.2?} -> {interval:.2?}, ratio {:.2}; peak memory of the operator {} -> {} MiB",
            ratios[0],
            ratios[1],
            quiet_kib >> 10,
            peak_kib >> 10
        );
        assert!(peak_kib < MEMORY_LIMIT_KIB, "{peak_kib} KiB");
        for (broker, behavior) in brokers.iter().zip(Behavior::ALL) {
            assert!(broker.connections() > 0, "{behavior:?} harmed no client");
        }
        if ratios.iter().all(|ratio| *ratio <= MAX_RATIO) {
            return;
        }
        latency_alone = latency_alone.max(latency.mul_f64(0.5));
        interval_alone = interval_alone.max(interval.mul_f64(0.5));
    }
    unreachable!("the other tenant is delayed");
}
