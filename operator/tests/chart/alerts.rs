//! The alerts and the dashboard of the chart: that Prometheus takes the rules, that each fires when it should and not
//! otherwise, that somebody says what to do, and that every figure that they look at is one that is exported.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::helm::{EVERYTHING, file, objects, one};
use crate::read;

/// For each alert, series under which it fires and others under which it does not.
const CASES: &str = "operator/tests/chart/alerts.yaml";

fn rules() -> Value {
    let rule: Value = one(&objects(EVERYTHING), "PrometheusRule", "streamstage");
    rule["spec"].clone()
}

fn alerts(rules: &Value) -> Vec<&Value> {
    let groups = rules["groups"].as_array().expect("groups").iter();
    groups
        .flat_map(|group| group["rules"].as_array().expect("rules"))
        .collect()
}

fn name(alert: &Value) -> &str {
    alert["alert"].as_str().expect("a name")
}

fn dashboard() -> Value {
    let map: Value = one(&objects(EVERYTHING), "ConfigMap", "streamstage-dashboard");
    let text = map["data"]["streamstage.json"].as_str().expect("a dashboard");
    serde_json::from_str(text).expect("JSON")
}

fn expressions(dashboard: &Value) -> Vec<&str> {
    let panels = dashboard["panels"].as_array().expect("panels").iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    targets
        .map(|target| target["expr"].as_str().expect("an expression"))
        .collect()
}

/// The figures that a text names.
fn figures(text: &str) -> BTreeSet<&str> {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    words.filter(|word| word.starts_with("streamstage_")).collect()
}

/// Runs promtool, which the project's own script installs where it is missing.
fn promtool(folder: &Path, arguments: &[&str]) {
    let tools = Command::new(file("e2e/cluster/tools")).arg("promtool").output();
    let tools = tools.expect("run e2e/cluster/tools");
    assert!(
        tools.status.success(),
        "{}",
        String::from_utf8_lossy(&tools.stderr)
    );
    let output = Command::new("promtool")
        .current_dir(folder)
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
    let folder = tempfile::tempdir().expect("a folder");
    let rules = rules();
    fs::write(folder.path().join("rules.yaml"), rules.to_string()).expect("written");
    fs::write(folder.path().join("cases.yaml"), read(CASES)).expect("written");
    promtool(folder.path(), &["check", "rules", "rules.yaml"]);
    promtool(folder.path(), &["test", "rules", "cases.yaml"]);

    let cases: Value = serde_saphyr::from_str(&read(CASES)).expect("YAML");
    let cases = cases["tests"].as_array().expect("tests").iter();
    let looked: Vec<_> = cases
        .flat_map(|case| case["alert_rule_test"].as_array().expect("alerts"))
        .map(|look| {
            let fires = !look["exp_alerts"].as_array().expect("alerts").is_empty();
            (look["alertname"].as_str().expect("a name"), fires)
        })
        .collect();
    for alert in alerts(&rules) {
        for fires in [true, false] {
            let name = name(alert);
            assert!(
                looked.contains(&(name, fires)),
                "no case in which {name} fires: {fires}"
            );
        }
    }
}

#[test]
fn each_alert_says_what_to_do() {
    let page = read("docs/alerts.md");
    let rules = rules();
    let alerts: BTreeSet<&str> = alerts(&rules).into_iter().map(name).collect();
    let explained: BTreeSet<&str> = page.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    assert_eq!(alerts, explained);
}

/// The figures that the pages list. That these are what is exported, the tests of both binaries check.
fn documented() -> BTreeSet<String> {
    let pages = read("docs/worker.md") + &read("docs/operator.md");
    let rows = pages
        .lines()
        .filter_map(|line| line.strip_prefix("| `streamstage_")?.split('`').next());
    rows.map(|figure| format!("streamstage_{figure}")).collect()
}

/// The figures that are looked at; of a histogram, its buckets are.
fn looked_at(expressions: &[&str]) -> BTreeSet<String> {
    let figures = expressions.iter().copied().flat_map(figures);
    figures
        .map(|figure| figure.strip_suffix("_bucket").unwrap_or(figure).to_owned())
        .collect()
}

#[test]
fn alerts_look_at_figures_that_are_exported() {
    let rules = rules();
    let expressions: Vec<&str> = alerts(&rules)
        .into_iter()
        .map(|alert| alert["expr"].as_str().expect("an expression"))
        .collect();
    let unknown: Vec<_> = looked_at(&expressions)
        .difference(&documented())
        .cloned()
        .collect();
    assert_eq!(unknown, Vec::<String>::new());
}

#[test]
fn dashboard_shows_every_figure_and_no_other() {
    assert_eq!(looked_at(&expressions(&dashboard())), documented());
}
