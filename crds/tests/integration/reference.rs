//! API reference: `docs/stages.md` is generated from the CRD's schema. `UPDATE_DOCS=1 cargo test` regenerates it.

use std::fmt::Write as _;
use std::path::Path;

use crds::StreamStage;
use kube::CustomResourceExt as _;
use serde_json::Value;

const HEADER: &str = "# StreamStage API reference

`apiVersion: streamstage.dev/v1alpha1`, `kind: StreamStage`; short names `stage` and `stages`.
This page is generated from the schema of the CRD; `kubectl explain streamstage.spec` shows the same text.
Users write `spec`; the operator writes `status`.
";

/// Type of a field, or its allowed values.
fn type_label(schema: &Value) -> String {
    let type_name = schema["type"].as_str().unwrap_or("number or string").to_owned();
    let allowed = schema["enum"].as_array().map(|allowed| {
        let allowed: Vec<String> = allowed
            .iter()
            .map(|value| format!("`{}`", value.as_str().unwrap_or_default()))
            .collect();
        allowed.join(", ")
    });
    match (type_name.as_str(), allowed) {
        (_, Some(allowed)) => allowed,
        ("array", None) => format!("list of {}", item_type_label(schema)),
        _ => type_name,
    }
}

fn item_type_label(schema: &Value) -> String {
    match schema["items"]["type"].as_str() {
        Some(type_name) => format!("{type_name}s"),
        None => "values".to_owned(),
    }
}

/// Appends a table row per field of `schema`; an object precedes its fields.
fn append_rows(text: &mut String, path: &str, schema: &Value) {
    let required: Vec<&str> = schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    for (field, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{field}");
        let is_required = if required.contains(&field.as_str()) {
            "yes"
        } else {
            ""
        };
        let description = property["description"]
            .as_str()
            .unwrap_or_default()
            .replace('\n', " ")
            .replace('|', "\\|");
        writeln!(
            text,
            "| `{path}` | {} | {is_required} | {description} |",
            type_label(property)
        )
        .expect("a string");
        // Types of Kubernetes, which its own reference describes.
        if ["affinity", "tolerations", "topologySpreadConstraints"].contains(&field.as_str()) {
            continue;
        }
        append_rows(text, &path, property);
        if property["items"].is_object() {
            append_rows(text, &format!("{path}[]"), &property["items"]);
        }
    }
}

#[test]
fn the_api_reference_matches_the_schema() {
    let crd = serde_json::to_value(StreamStage::crd()).expect("JSON");
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
    let mut text = HEADER.to_owned();
    for part in ["spec", "status"] {
        write!(
            text,
            "\n## {part}\n\n| field | type | required | description |\n| --- | --- | --- | --- |\n"
        )
        .expect("a string");
        append_rows(&mut text, part, &schema[part]);
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/stages.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&file, &text).expect("writable");
    }
    let committed = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        committed == text,
        "docs/stages.md is out of date: run `UPDATE_DOCS=1 cargo test -p streamstage-crds` and commit it"
    );
}
