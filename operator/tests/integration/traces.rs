//! Traces with limits: each one is simulated with the shipped algorithm, and its cost compared with the limits.
//!
//! `operator simulate --suite operator/tests/traces` prints the same table.

use std::path::Path;
use std::sync::Mutex;

use operator::simulate::suite::{Suite, SuiteTrace, header, row, summary};

const DIRECTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/traces");

fn traces() -> Vec<SuiteTrace> {
    let entries = std::fs::read_dir(DIRECTORY).expect("a directory of traces");
    let mut files: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    let suites = files
        .into_iter()
        .filter(|file| file.extension().is_some_and(|extension| extension == "toml"));
    suites
        .flat_map(|file| {
            let text = std::fs::read_to_string(&file).expect("a readable file");
            let Suite { traces } = toml::from_str(&text).expect("a suite");
            traces
        })
        .collect()
}

#[test]
fn every_trace_is_within_its_limits() {
    let mut traces = traces();
    // The longest first, so that no thread is left with it.
    traces.sort_by_key(|trace| trace.seconds / trace.cluster.step_seconds);
    let (waiting, outcomes) = (Mutex::new(traces), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(trace) = { waiting.lock().expect("no panic").pop() } {
                    let read = |name: &str| std::fs::read_to_string(Path::new(DIRECTORY).join(name));
                    let outcome = trace.run(&trace.arrivals(read).expect("valid arrivals"));
                    outcomes.lock().expect("no panic").push((trace, outcome));
                }
            });
        }
    });
    let mut outcomes = outcomes.into_inner().expect("no panic");
    outcomes.sort_by(|(left, _), (right, _)| left.name.cmp(&right.name));
    let broken: Vec<String> = outcomes
        .iter()
        .map(|(trace, outcome)| (trace, outcome, trace.limits.exceeded(outcome)))
        .filter(|(_, _, exceeded)| !exceeded.is_empty())
        .map(|(trace, outcome, exceeded)| row(&trace.name, outcome, &exceeded))
        .collect();
    let (_, outcomes): (Vec<_>, Vec<_>) = outcomes.into_iter().unzip();
    assert!(
        broken.is_empty(),
        "{}\n{}\n{}",
        header(),
        broken.join("\n"),
        summary(&outcomes)
    );
    let steps: usize = outcomes.iter().map(operator::simulate::Outcome::step_count).sum();
    assert!(outcomes.len() >= 96 && steps <= 450, "{}", summary(&outcomes));
}

#[test]
fn every_trace_has_limits_and_a_name_of_its_own() {
    let traces = traces();
    let names: std::collections::BTreeSet<&str> = traces.iter().map(|trace| trace.name.as_str()).collect();
    assert_eq!(names.len(), traces.len());
    for trace in &traces {
        let limits = &trace.limits;
        let is_limited = limits.steps.is_some() && limits.cost.is_some() && limits.over.is_some();
        assert!(
            is_limited && limits.delay.is_some() && limits.writes.is_some(),
            "{}",
            trace.name
        );
    }
}
