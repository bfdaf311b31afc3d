#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "edge: runs Prometheus, and takes the time of its looks"
)]
//! A Prometheus finds the operator and the workers, and every panel of the dashboard has something to show.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use crds::status::ConditionType;
use e2e::cluster::{SOON, SYSTEM, Story, eventually, run};
use e2e::pipeline::STAGES;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use serde_json::{Value, json};

use crate::load;

const ORDERS: usize = 10_000;

/// A program that ends with the story.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The API server on a port of this machine, without a login.
fn proxy() -> Result<(Program, String)> {
    let mut child = Command::new("kubectl")
        .args(["proxy", "--port", "0"])
        .stdout(Stdio::piped())
        .spawn()?;
    let said = child.stdout.take().context("kubectl proxy says nothing")?;
    let program = Program(child);
    let mut line = String::new();
    BufReader::new(said).read_line(&mut line)?;
    let address = line.trim().rsplit(' ').next().unwrap_or_default();
    ensure!(address.starts_with("127.0.0.1:"), "kubectl proxy: {line}");
    Ok((program, address.to_owned()))
}

/// A Prometheus that scrapes what `targets.json` in `folder` names. Debian's cannot ask Kubernetes by itself.
fn prometheus(folder: &Path) -> Result<(Program, String)> {
    let settings = json!({
        "global": {"scrape_interval": "1s"},
        "scrape_configs": [{
            "job_name": "pods",
            // As in the monitors of the chart: the namespace of a figure is that of its stage.
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
        .context("prometheus is not installed: e2e/cluster/tools promtool")?;
    Ok((Program(child), format!("http://{address}")))
}

/// Names every pod of the product with a port for figures as a target; returns the pods.
fn write_targets(folder: &Path, api_server: &str, namespace: &str) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    let mut targets = Vec::new();
    for namespace in [SYSTEM, namespace] {
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
            found.insert(name);
        }
    }
    // Prometheus must not read half a file.
    let file = folder.join("targets.json.new");
    std::fs::write(&file, serde_json::to_string(&targets)?)?;
    std::fs::rename(file, folder.join("targets.json"))?;
    Ok(found)
}

/// What Prometheus answers now, series by series.
fn now(url: &str, expression: &str) -> Result<Vec<Value>> {
    let answer = run(
        "promtool",
        &["query", "instant", "--format", "json", url, expression],
    )?;
    Ok(serde_json::from_str(&answer)?)
}

/// Whether there was anything to show since `start`.
fn has_shown(url: &str, expression: &str, start: Timestamp) -> Result<bool> {
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

/// The expressions of the dashboard, with its variables filled in.
fn expressions(namespace: &str) -> Result<Vec<String>> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../chart/files/dashboard.json");
    let dashboard: Value = serde_json::from_str(&std::fs::read_to_string(file)?)?;
    let panels = dashboard["panels"].as_array().context("no panels")?.iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let filled = targets.map(|target| {
        let expression = target["expr"].as_str().context("no expression")?;
        Ok(expression
            .replace("$namespace", namespace)
            .replace("$__rate_interval", "15s"))
    });
    filled.collect()
}

#[tokio::test]
async fn prometheus_finds_every_pod_and_every_panel_has_data() -> Result<()> {
    let mut story = Story::begin("monitoring", 3).await?;
    let began = Timestamp::now();
    for mut stage in story.stages()? {
        stage.spec.scaling = load::scaling();
        // Less than the load asks for.
        stage.spec.scaling.max_replicas = Some(2);
        story.apply(&stage).await?;
    }
    for stage in STAGES {
        story.is(stage, ConditionType::Ready, "True").await?;
    }
    let folder = tempfile::tempdir()?;
    let (_proxy, api_server) = proxy()?;
    let (_prometheus, url) = prometheus(folder.path())?;
    let scraped = eventually("every pod is scraped", &story.namespace, SOON, async || {
        let pods = write_targets(folder.path(), &api_server, &story.namespace)?;
        let up = now(&url, "up == 1")?;
        let up = up.iter().filter_map(|series| series["metric"]["pod"].as_str());
        let up: BTreeSet<String> = up.map(str::to_owned).collect();
        ensure!(
            pods.len() > STAGES.len() && pods == up,
            "{pods:?} are there, {up:?} are up"
        );
        Ok(Some(up.len()))
    })
    .await?;

    story.produce(ORDERS).await?;
    story.reached_the_marts().await?;
    let expressions = expressions(&story.namespace)?;
    eventually("every panel has data", &story.namespace, SOON, async || {
        let mut empty = Vec::new();
        for expression in &expressions {
            if !has_shown(&url, expression, began)? {
                empty.push(expression);
            }
        }
        ensure!(empty.is_empty(), "without data: {empty:#?}");
        Ok(Some(()))
    })
    .await?;
    eprintln!(
        "monitoring: {scraped} pods are scraped, {} expressions of the dashboard have data",
        expressions.len()
    );
    story.end()
}
