//! The reference of the resource in `docs/stages.md` is made from its schema: `UPDATE_DOCS=1 cargo test` writes it anew.

use std::fmt::Write as _;
use std::path::Path;

use crds::StreamStage;
use kube::CustomResourceExt as _;
use serde_json::Value;

const HEAD: &str = "# The resource StreamStage

`apiVersion: streamstage.dev/v1alpha1`, `kind: StreamStage`; short names `stage` and `stages`.
This page is made from the resource's schema; `kubectl explain streamstage.spec` says the same.
Fields of `spec` are a user's, fields of `status` the operator's.
";

/// The type of a field, with its bounds, as a person writes them.
fn kind(schema: &Value) -> String {
    let kind = schema["type"].as_str().unwrap_or("number or text").to_owned();
    let allowed = schema["enum"].as_array().map(|allowed| {
        let allowed: Vec<String> = allowed
            .iter()
            .map(|one| format!("`{}`", one.as_str().unwrap_or_default()))
            .collect();
        allowed.join(", ")
    });
    match (kind.as_str(), allowed) {
        (_, Some(allowed)) => allowed,
        ("array", None) => format!("list of {}", kind_of_items(schema)),
        _ => kind,
    }
}

fn kind_of_items(schema: &Value) -> String {
    match schema["items"]["type"].as_str() {
        Some(kind) => format!("{kind}s"),
        None => "values".to_owned(),
    }
}

/// A row for each field below `schema`, an object's own first.
fn rows(text: &mut String, path: &str, schema: &Value) {
    let required: Vec<&str> = schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    for (field, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{field}");
        let need = if required.contains(&field.as_str()) {
            "yes"
        } else {
            ""
        };
        let description = property["description"]
            .as_str()
            .unwrap_or_default()
            .replace('\n', " ")
            .replace('|', "\\|");
        writeln!(text, "| `{path}` | {} | {need} | {description} |", kind(property)).expect("a string");
        rows(text, &path, property);
        if property["items"].is_object() {
            rows(text, &format!("{path}[]"), &property["items"]);
        }
    }
}

#[test]
fn reference_is_that_of_the_schema() {
    let definition = serde_json::to_value(StreamStage::crd()).expect("JSON");
    let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
    let mut text = HEAD.to_owned();
    for part in ["spec", "status"] {
        write!(
            text,
            "\n## {part}\n\n| field | type | required | meaning |\n| --- | --- | --- | --- |\n"
        )
        .expect("a string");
        rows(&mut text, part, &schema[part]);
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/stages.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&file, &text).expect("writable");
    }
    let found = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        found == text,
        "docs/stages.md is not up to date: UPDATE_DOCS=1 cargo test -p streamstage-crds --test reference"
    );
}
