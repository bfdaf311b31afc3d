//! Alerts and dashboard of the chart: the rules are valid, each alert fires exactly when it should and has a runbook,
//! and every queried metric exists.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::helm::{ALL_FEATURES, find_object, render_objects, repository_path};
use super::read_file;

/// Unit tests of the rules: for each alert, series under which it fires and series under which it does not.
const RULE_TESTS: &str = "operator/tests/integration/chart/alerts.yaml";

fn rules() -> Value {
    let rule: Value = find_object(&render_objects(ALL_FEATURES), "PrometheusRule", "streamstage");
    rule["spec"].clone()
}

fn alerts(rules: &Value) -> Vec<&Value> {
    let groups = rules["groups"].as_array().expect("the rules have groups").iter();
    groups
        .flat_map(|group| group["rules"].as_array().expect("the group has rules"))
        .collect()
}

fn alert_name(alert: &Value) -> &str {
    alert["alert"].as_str().expect("the alert has a name")
}

fn dashboard() -> Value {
    let map: Value = find_object(
        &render_objects(ALL_FEATURES),
        "ConfigMap",
        "streamstage-dashboard",
    );
    let text = map["data"]["streamstage.json"]
        .as_str()
        .expect("the ConfigMap has the dashboard");
    serde_json::from_str(text).expect("parse the JSON")
}

fn expressions(dashboard: &Value) -> Vec<&str> {
    let panels = dashboard["panels"]
        .as_array()
        .expect("the dashboard has panels")
        .iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    targets
        .map(|target| target["expr"].as_str().expect("it has an expression"))
        .collect()
}

/// Metric names in a text.
fn metric_names(text: &str) -> BTreeSet<&str> {
    let identifiers = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    identifiers
        .filter(|identifier| identifier.starts_with("streamstage_"))
        .collect()
}

/// Runs promtool; the project's script `e2e/cluster/tools` installs it if it is missing.
fn promtool(directory: &Path, arguments: &[&str]) {
    let tools = Command::new(repository_path("e2e/cluster/tools"))
        .arg("promtool")
        .output();
    let tools = tools.expect("run e2e/cluster/tools");
    assert!(
        tools.status.success(),
        "{}",
        String::from_utf8_lossy(&tools.stderr)
    );
    let output = Command::new("promtool")
        .current_dir(directory)
        .args(arguments)
        .output()
        .expect("run promtool");
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn each_alert_fires_when_it_should_and_not_otherwise() {
    let directory = tempfile::tempdir().expect("create a directory");
    let rules = rules();
    fs::write(directory.path().join("rules.yaml"), rules.to_string()).expect("write the file");
    fs::write(directory.path().join("tests.yaml"), read_file(RULE_TESTS)).expect("write the file");
    promtool(directory.path(), &["check", "rules", "rules.yaml"]);
    promtool(directory.path(), &["test", "rules", "tests.yaml"]);

    let rule_tests: Value = serde_saphyr::from_str(&read_file(RULE_TESTS)).expect("parse the YAML");
    let rule_tests = rule_tests["tests"].as_array().expect("the file has tests").iter();
    let tested: Vec<_> = rule_tests
        .flat_map(|test| {
            test["alert_rule_test"]
                .as_array()
                .expect("the test has assertions")
        })
        .map(|assertion| {
            let fires = !assertion["exp_alerts"]
                .as_array()
                .expect("the assertion lists alerts")
                .is_empty();
            let name = assertion["alertname"].as_str().expect("the assertion has a name");
            (name, fires)
        })
        .collect();
    for alert in alerts(&rules) {
        for fires in [true, false] {
            let name = alert_name(alert);
            assert!(
                tested.contains(&(name, fires)),
                "missing test: {name}, firing: {fires}"
            );
        }
    }
}

#[test]
fn each_alert_has_a_runbook() {
    let page = read_file("docs/alerts.md");
    let rules = rules();
    let alerts: BTreeSet<&str> = alerts(&rules).into_iter().map(alert_name).collect();
    let documented: BTreeSet<&str> = page.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    assert_eq!(alerts, documented);
}

/// Metrics in the reference pages. Unit tests of both binaries compare these pages with the exported metrics.
fn documented_metrics() -> BTreeSet<String> {
    let pages = read_file("docs/metrics.md");
    let rows = pages
        .lines()
        .filter_map(|line| line.strip_prefix("| `streamstage_")?.split('`').next());
    rows.map(|suffix| format!("streamstage_{suffix}")).collect()
}

/// Metrics that the expressions query; a histogram is queried by its buckets.
fn queried_metrics(expressions: &[&str]) -> BTreeSet<String> {
    let names = expressions.iter().copied().flat_map(metric_names);
    names
        .map(|name| name.strip_suffix("_bucket").unwrap_or(name).to_owned())
        .collect()
}

#[test]
fn alerts_query_only_exported_metrics() {
    let rules = rules();
    let expressions: Vec<&str> = alerts(&rules)
        .into_iter()
        .map(|alert| alert["expr"].as_str().expect("it has an expression"))
        .collect();
    let unknown: Vec<_> = queried_metrics(&expressions)
        .difference(&documented_metrics())
        .cloned()
        .collect();
    assert_eq!(unknown, Vec::<String>::new());
}

#[test]
fn the_dashboard_queries_exactly_the_exported_metrics() {
    assert_eq!(queried_metrics(&expressions(&dashboard())), documented_metrics());
}
