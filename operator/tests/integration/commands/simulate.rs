//! `operator simulate` on a burst trace.

use std::process::{Command, Output};

fn simulate(trace: &str, svg_file: &str) -> (Output, String) {
    let directory = tempfile::tempdir().expect("create a directory");
    let path = |name: &str| directory.path().join(name);
    std::fs::write(path("trace.csv"), trace).expect("write the trace");
    let output = Command::new(env!("CARGO_BIN_EXE_operator"))
        .args(["simulate", "--stage=stg", "--partitions=12", "--worker-rate=1000"])
        .args([
            "--file",
            concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/orders.yaml"),
        ])
        .arg("--trace")
        .arg(path("trace.csv"))
        .arg("--svg")
        .arg(path(svg_file))
        .output()
        .expect("run operator simulate");
    let svg = std::fs::read_to_string(path(svg_file)).unwrap_or_default();
    (output, svg)
}

/// Trace of the example in `docs/scaling.md`.
const BURST: &str = "seconds,records_per_second\n0,50\n60,20000\n90,50\n600,50\n";

#[test]
fn a_burst_prints_every_decision_and_writes_a_chart() {
    let (output, svg) = simulate(BURST, "trace.svg");
    let text = String::from_utf8(output.stdout).expect("UTF-8 output");
    assert!(output.status.success(), "{text}");
    let steps: Vec<(&str, &str)> = text
        .lines()
        .filter_map(|line| {
            let [_, "s", from, "->", to, ..] = line.split_whitespace().collect::<Vec<_>>()[..] else {
                return None;
            };
            (from != to).then_some((from, to))
        })
        .collect();
    // The first worker is measured for 15 s; until then its capacity is unknown.
    assert_eq!(steps, [("1", "12"), ("12", "1")], "{text}");
    assert!(text.contains("capacity 1,000/s per replica"), "{text}");
    let documented = include_str!("../../../../docs/scaling.svg");
    assert_eq!(
        svg, documented,
        "docs/scaling.svg is out of date: regenerate it with the command in docs/scaling.md"
    );
    assert!(include_str!("../../../../docs/scaling.md").contains(&BURST.replace('\n', "\\n")));
}

#[test]
fn an_invalid_trace_or_output_file_is_reported_by_name() {
    for (trace, svg_file, named) in [
        ("seconds\n", "trace.svg", "trace.csv"),
        (
            "seconds,records_per_second\n0,1\n",
            "missing/trace.svg",
            "missing/trace.svg",
        ),
    ] {
        let (output, _) = simulate(trace, svg_file);
        let text = String::from_utf8(output.stderr).expect("UTF-8 output");
        assert!(!output.status.success() && text.contains(named), "{text}");
    }
}
