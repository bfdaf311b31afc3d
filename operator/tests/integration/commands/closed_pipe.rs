//! Commands of the operator whose output goes to a pipe that its reader has closed, as `head` does.

use std::process::Command;

#[test]
fn a_command_finishes_although_its_output_is_a_closed_pipe() {
    let directory = tempfile::tempdir().expect("create a directory");
    let trace = directory.path().join("trace.csv");
    std::fs::write(&trace, "seconds,records_per_second\n0,50\n").expect("write the trace");
    let stages = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/orders.yaml");
    let trace = trace.to_string_lossy();
    let simulate = ["simulate", "--stage=stg", "--file", stages, "--trace", &trace];
    for arguments in [&["crd"][..], &["--help"], &simulate] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let output = Command::new(env!("CARGO_BIN_EXE_operator"))
            .args(arguments)
            .stdout(writer)
            .output()
            .expect("run the operator");
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {}\n{log}", output.status);
    }
}
