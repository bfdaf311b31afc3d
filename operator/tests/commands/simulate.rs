//! `operator simulate` as a process.

use std::process::{Command, Output};

fn simulate(trace: &str, drawing: &str) -> (Output, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
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
        .arg(path(drawing))
        .output()
        .expect("run operator simulate");
    let drawing = std::fs::read_to_string(path(drawing)).unwrap_or_default();
    (output, drawing)
}

/// The trace of `docs/scaling.md`.
const BURST: &str = "seconds,records_per_second\n0,50\n60,20000\n90,50\n600,50\n";

#[test]
fn a_burst_is_played_with_every_decision_and_a_drawing() {
    let (output, drawing) = simulate(BURST, "trace.svg");
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success(), "{text}");
    let moves: Vec<(&str, &str)> = text
        .lines()
        .filter_map(|line| {
            let [_, "s", from, "->", to, ..] = line.split_whitespace().collect::<Vec<_>>()[..] else {
                return None;
            };
            (from != to).then_some((from, to))
        })
        .collect();
    // The first reading of the burst sees a part of it.
    assert_eq!(moves, [("1", "4"), ("4", "12"), ("12", "1")], "{text}");
    assert!(text.contains("records/s needed"), "{text}");
    let documented = include_str!("../../../docs/scaling.svg");
    assert_eq!(
        drawing, documented,
        "draw docs/scaling.svg anew, as docs/scaling.md says"
    );
    assert!(include_str!("../../../docs/scaling.md").contains(&BURST.replace('\n', "\\n")));
}

#[test]
fn what_cannot_be_played_is_refused_with_the_file() {
    for (trace, drawing, words) in [
        ("seconds\n", "trace.svg", "trace.csv"),
        (
            "seconds,records_per_second\n0,1\n",
            "none/trace.svg",
            "none/trace.svg",
        ),
    ] {
        let (output, _) = simulate(trace, drawing);
        let text = String::from_utf8(output.stderr).expect("text");
        assert!(!output.status.success() && text.contains(words), "{text}");
    }
}
