//! YAML documents: the accepted forms, the defaults, and the error of every other form.

use std::{fs, path::Path};

use crds::{
    document::{parse, render_worker_document},
    stage::{Bytes, Duration, Layer, Scaling, SslMode, StartFrom},
};

const STAGE: &str = "\
apiVersion: streamstage.dev/v1alpha1
kind: StreamStage
metadata:
  name: cdm
  namespace: orders
spec:
  layer: cdm
  source:
    bootstrapServers: [kafka:9092]
    topic: facts
  warehouse:
    host: postgres
    database: orders
";

fn read_example(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../examples")
        .join(name);
    fs::read_to_string(path).expect(name)
}

#[test]
fn every_example_is_accepted() {
    let folder =
        fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples")).expect("the examples");
    let names = folder.map(|entry| {
        entry
            .expect("an entry")
            .file_name()
            .into_string()
            .expect("a name")
    });
    let yaml: Vec<_> = names
        .filter(|name| Path::new(name).extension().is_some_and(|end| end == "yaml"))
        .collect();
    assert!(yaml.len() >= 2, "{yaml:?}");
    for name in yaml {
        let stages = parse(&read_example(&name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(!stages.is_empty(), "{name}");
    }
}

#[test]
fn examples_connect_the_three_layers() {
    for name in ["orders.yaml", "local.yaml"] {
        let stages = parse(&read_example(name)).expect(name);
        assert_eq!(
            stages.iter().map(|stage| stage.spec.layer).collect::<Vec<_>>(),
            [Layer::Stg, Layer::Dds, Layer::Cdm]
        );
        for pair in stages.windows(2) {
            let output = pair[0].spec.output.as_ref().map(|output| &output.topic);
            assert_eq!(output, Some(&pair[1].spec.source.topic), "{name}");
        }
    }
}

#[test]
fn omitted_fields_have_the_documented_default() {
    let spec = &parse(STAGE).expect("a stage")[0].spec;
    assert_eq!(spec.source.start_from, StartFrom::Earliest);
    assert_eq!(
        (
            spec.warehouse.port,
            spec.warehouse.ssl_mode,
            spec.warehouse.connections_per_worker
        ),
        (5432, SslMode::VerifyFull, 2)
    );
    assert_eq!(
        (spec.batch.max_records, spec.batch.max_bytes, spec.batch.max_wait),
        (1000, Bytes::from_mib(8), Duration::from_secs(1))
    );
    assert_eq!(
        (spec.limits.max_record_bytes, spec.limits.max_clock_skew),
        (Bytes::from_mib(1), Duration::from_secs(86_400))
    );
    assert_eq!((spec.timezone.as_str(), spec.suspend), ("UTC", false));
    assert_eq!(
        (
            spec.scaling.min_replicas,
            spec.scaling.max_replicas,
            spec.scaling.target.effective_drain_seconds()
        ),
        (1, None, 60)
    );
}

#[test]
fn empty_documents_are_skipped() {
    let text = format!("# a comment\n---\n\n--- # nothing\n...\n---\n{STAGE}---\n");
    assert_eq!(parse(&text).expect("one stage").len(), 1);
}

#[test]
fn json_is_accepted() {
    let stage = &parse(STAGE).expect("a stage")[0];
    assert_eq!(
        &parse(&serde_json::to_string(stage).expect("JSON")).expect("a stage")[0],
        stage
    );
}

#[test]
fn a_resource_copied_from_a_cluster_is_accepted() {
    let text = STAGE.replace(
        "  name: cdm\n",
        "  name: cdm\n  uid: 1-2-3\n  generation: 4\n  managedFields: [{manager: kubectl}]\n",
    );
    assert_eq!(
        parse(&format!("{text}status:\n  replicas: 3\n"))
            .expect("a stage")
            .len(),
        1
    );
}

/// The snapshot shows every error as the user sees it.
#[test]
fn errors_name_document_line_field_and_cause() {
    let second = |from: &str, to: &str| {
        assert!(STAGE.contains(from), "{from}");
        format!(
            "{}---\n{}",
            STAGE.replace("name: cdm", "name: first"),
            STAGE.replace(from, to)
        )
    };
    let cases = [
        ("empty text", String::new()),
        ("only comments", "# empty\n---\n".to_owned()),
        (
            "another kind",
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {}\n".to_owned(),
        ),
        ("another version", STAGE.replace("v1alpha1", "v2")),
        ("missing kind", STAGE.replace("kind: StreamStage\n", "")),
        (
            "unknown field of the source",
            second("    topic: facts\n", "    topic: facts\n    topicc: facts\n"),
        ),
        (
            "unknown field of the resource",
            second("spec:\n", "suspend: true\nspec:\n"),
        ),
        (
            "unknown field of the metadata",
            second("  namespace: orders", "  namspace: orders"),
        ),
        (
            "unknown field in a list",
            format!(
                "{STAGE}  tags:\n    - {{category: a, threshold: 1}}\n    - {{category: b, treshold: 1}}\n"
            ),
        ),
        ("missing field", second("    host: postgres\n", "")),
        ("wrong type", second("    topic: facts\n", "    topic: [facts]\n")),
        ("unknown enum value", second("layer: cdm", "layer: ods")),
        (
            "invalid duration",
            format!("{STAGE}  batch:\n    maxWait: 1 second\n"),
        ),
        ("invalid size", format!("{STAGE}  batch:\n    maxBytes: 8MB\n")),
        (
            "negative number",
            format!("{STAGE}  batch:\n    maxRecords: -1\n"),
        ),
        (
            "duplicate key",
            format!("{STAGE}  timezone: UTC\n  timezone: UTC\n"),
        ),
        (
            "malformed YAML",
            second("    topic: facts\n", "    topic: facts: more\n"),
        ),
        ("duplicate name", format!("{STAGE}---\n{STAGE}")),
        (
            "violated rule",
            second("    topic: facts\n", "    topic: fac ts\n"),
        ),
    ];
    let report = cases.map(|(title, text)| {
        format!(
            "{title}\n  {}\n",
            parse(&text).expect_err(title).to_string().replace('\n', "\n  ")
        )
    });
    insta::assert_snapshot!(report.join("\n"));
}

#[test]
fn equal_names_in_two_namespaces_are_two_stages() {
    let text = format!(
        "{STAGE}---\n{}",
        STAGE.replace("namespace: orders", "namespace: other")
    );
    assert_eq!(parse(&text).expect("two stages").len(), 2);
}

#[test]
fn the_worker_document_parses_to_the_same_stage() {
    for stage in parse(&read_example("orders.yaml")).expect("the example") {
        let parsed = parse(&render_worker_document(&stage).expect("YAML")).expect("a stage");
        let mut expected = stage.clone();
        expected.spec.scaling = Scaling::default();
        assert_eq!(parsed, [expected]);
    }
}

#[test]
fn operator_only_fields_do_not_change_the_worker_document() {
    let stage = parse(STAGE).expect("a stage").remove(0);
    let mut scaled = stage.clone();
    scaled.spec.scaling.min_replicas = 0;
    scaled.spec.suspend = true;
    scaled.spec.worker.image = "other".to_owned();
    scaled.metadata.labels = Some([("a".to_owned(), "b".to_owned())].into());
    let text = render_worker_document(&stage).expect("YAML");
    assert_eq!(render_worker_document(&scaled).expect("YAML"), text);
    insta::assert_snapshot!(text);
}

#[test]
fn a_byte_order_mark_before_a_document_is_ignored() {
    let second = STAGE.replace("name: cdm", "name: cdm2");
    for text in [
        format!("\u{feff}{STAGE}"),
        format!("\u{feff}---\r\n{STAGE}"),
        format!("\u{feff}# comment\n{STAGE}"),
        // Several files, concatenated.
        format!("\u{feff}{STAGE}\u{feff}---\n{second}"),
        format!("{STAGE}---\n\u{feff}{second}"),
        format!("{STAGE}---\r\n\u{feff}{second}"),
    ] {
        let stages = parse(&text).unwrap_or_else(|error| panic!("{text:?}: {error}"));
        let expected = 1 + usize::from(text.contains("cdm2"));
        assert_eq!(stages.len(), expected, "{text:?}");
        assert_eq!(stages[0], parse(STAGE).expect("a stage")[0]);
    }
    // A mark is no excuse for an error elsewhere: the line stays the same.
    let error = parse(&format!("\u{feff}{STAGE}  unknown: 1\n")).expect_err("an unknown field");
    assert_eq!(
        error.to_string(),
        parse(&format!("{STAGE}  unknown: 1\n"))
            .expect_err("an unknown field")
            .to_string()
    );
}
