//! Prometheus scrapes the operator and the workers, and every panel of the Grafana dashboard has data.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "edge: runs Prometheus, and reads the clock"
)]

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::cluster::{DEFAULT_DEADLINE, OPERATOR_NAMESPACE, Story, eventually, run};
use anyhow::{Context as _, Result, ensure};
use crds::status::ConditionType;
use e2e::pipeline::STAGES;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use serde_json::{Value, json};

use crate::load;

const ORDERS: usize = 10_000;

/// A child process that is killed at the end of the story.
struct ChildProcess(Child);

impl Drop for ChildProcess {
    fn drop(&mut self) {
        // It may have exited before.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts `kubectl proxy`; returns the process and its address, where the API server needs no authentication.
fn start_proxy() -> Result<(ChildProcess, String)> {
    let mut child = Command::new("kubectl")
        .args(["proxy", "--port", "0"])
        .stdout(Stdio::piped())
        .spawn()?;
    let stdout = child.stdout.take().context("kubectl proxy has no output")?;
    let process = ChildProcess(child);
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    let address = line.trim().rsplit(' ').next().unwrap_or_default();
    ensure!(address.starts_with("127.0.0.1:"), "kubectl proxy: {line}");
    Ok((process, address.to_owned()))
}

/// Starts a Prometheus that scrapes the targets of `targets.json` in `folder`, because Debian's build has no Kubernetes
/// service discovery. Returns the process and its URL.
fn start_prometheus(folder: &Path) -> Result<(ChildProcess, String)> {
    let settings = json!({
        "global": {"scrape_interval": "1s"},
        "scrape_configs": [{
            "job_name": "pods",
            // As in the chart's ServiceMonitor: the label `namespace` of a metric is the namespace of its stage.
            "honor_labels": true,
            "file_sd_configs": [{"files": ["targets.json"], "refresh_interval": "1s"}],
        }],
    });
    let file = folder.join("prometheus.yml");
    std::fs::write(&file, settings.to_string())?;
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let child = Command::new("prometheus")
        .arg(format!("--config.file={}", file.display()))
        .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
        .arg(format!("--web.listen-address={address}"))
        .stderr(File::create(folder.join("prometheus.log"))?)
        .spawn()
        .context("prometheus is not installed: run e2e/cluster/tools promtool")?;
    Ok((ChildProcess(child), format!("http://{address}")))
}

/// Writes every pod of the product with a metrics port as a target; returns the names of the pods.
fn write_targets(folder: &Path, api_server: &str, namespace: &str) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    let mut targets = Vec::new();
    for namespace in [OPERATOR_NAMESPACE, namespace] {
        let selector = "app.kubernetes.io/part-of=streamstage";
        let get = ["get", "pods", "--selector", selector, "--output", "json"];
        let pods = run("kubectl", &[&["--namespace", namespace], &get[..]].concat())?;
        let pods: Value = serde_json::from_str(&pods)?;
        for pod in pods["items"].as_array().context("no list")? {
            let pod: Pod = serde_json::from_value(pod.clone())?;
            let name = pod.name_any();
            let containers = pod.spec.into_iter().flat_map(|spec| spec.containers);
            let mut ports = containers.flat_map(|container| container.ports.unwrap_or_default());
            let Some(port) = ports.find(|port| port.name.as_deref() == Some("metrics")) else {
                continue;
            };
            let pod = format!("{name}:{}", port.container_port);
            let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}/proxy/metrics");
            targets.push(json!({
                "targets": [api_server],
                "labels": {"__metrics_path__": path, "namespace": namespace, "pod": name},
            }));
            names.insert(name);
        }
    }
    // Renamed, so that Prometheus never reads an incomplete file.
    let file = folder.join("targets.json.new");
    std::fs::write(&file, serde_json::to_string(&targets)?)?;
    std::fs::rename(file, folder.join("targets.json"))?;
    Ok(names)
}

/// Evaluates an expression now; returns the series.
fn query_instant(url: &str, expression: &str) -> Result<Vec<Value>> {
    let output = run(
        "promtool",
        &["query", "instant", "--format", "json", url, expression],
    )?;
    Ok(serde_json::from_str(&output)?)
}

/// Returns true if an expression had data at any time since `start`.
fn had_data(url: &str, expression: &str, start: Timestamp) -> Result<bool> {
    let start = format!("--start={}", start.as_second());
    let arguments = [
        "query",
        "range",
        "--format",
        "json",
        "--step=1s",
        &start,
        url,
        expression,
    ];
    let series: Vec<Value> = serde_json::from_str(&run("promtool", &arguments)?)?;
    Ok(!series.is_empty())
}

/// Expressions of the dashboard, with values for its variables.
fn dashboard_expressions(namespace: &str) -> Result<Vec<String>> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../chart/files/dashboard.json");
    let dashboard: Value = serde_json::from_str(&std::fs::read_to_string(file)?)?;
    let panels = dashboard["panels"].as_array().context("no panels")?.iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let expressions = targets.map(|target| {
        let expression = target["expr"].as_str().context("no expression")?;
        Ok(expression
            .replace("$namespace", namespace)
            .replace("$__rate_interval", "15s"))
    });
    expressions.collect()
}

#[tokio::test]
async fn prometheus_scrapes_every_pod_and_every_panel_has_data() -> Result<()> {
    let mut story = Story::create("monitoring", 3).await?;
    let start = Timestamp::now();
    for mut stage in story.stages()? {
        stage.spec.scaling = load::fast_scaling();
        // Below the recommendation, so that a limit applies.
        stage.spec.scaling.max_replicas = Some(2);
        story.apply(&stage).await?;
    }
    for stage in STAGES {
        story.wait_for_status(stage, ConditionType::Ready, "True").await?;
    }
    let folder = tempfile::tempdir()?;
    let (_proxy, api_server) = start_proxy()?;
    let (_prometheus, url) = start_prometheus(folder.path())?;
    let scraped = eventually(
        "every pod is scraped",
        &story.namespace,
        DEFAULT_DEADLINE,
        async || {
            let pods = write_targets(folder.path(), &api_server, &story.namespace)?;
            let up = query_instant(&url, "up == 1")?;
            let up = up.iter().filter_map(|series| series["metric"]["pod"].as_str());
            let up: BTreeSet<String> = up.map(str::to_owned).collect();
            ensure!(
                pods.len() > STAGES.len() && pods == up,
                "{pods:?} exist, {up:?} are up"
            );
            Ok(Some(up.len()))
        },
    )
    .await?;

    story.produce(ORDERS).await?;
    story.wait_for_marts().await?;
    let expressions = dashboard_expressions(&story.namespace)?;
    eventually(
        "every panel has data",
        &story.namespace,
        DEFAULT_DEADLINE,
        async || {
            let mut empty = Vec::new();
            for expression in &expressions {
                if !had_data(&url, expression, start)? {
                    empty.push(expression);
                }
            }
            ensure!(empty.is_empty(), "without data: {empty:#?}");
            Ok(Some(()))
        },
    )
    .await?;
    eprintln!(
        "monitoring: {scraped} pods are scraped, {} expressions of the dashboard have data",
        expressions.len()
    );
    story.finish()
}
