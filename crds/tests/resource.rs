//! The resource: each rule refuses what it must, in the API server's schema and in Rust alike.

use crds::{
    StreamStage,
    document::{self, DocumentError},
    stage::validate,
};
use kube::{CustomResourceExt, core::cel};
use serde_json::{Value, json};

fn stage(layer: &str) -> Value {
    let mut stage = json!({
        "apiVersion": "streamstage.dev/v1alpha1",
        "kind": "StreamStage",
        "metadata": {"name": layer, "namespace": "orders"},
        "spec": {
            "layer": layer,
            "source": {"bootstrapServers": ["kafka:9092"], "topic": "in"},
            "warehouse": {"host": "postgres", "database": "orders"},
        },
    });
    if layer != "cdm" {
        stage["spec"]["output"] = json!({"topic": "out"});
    }
    if layer == "stg" {
        stage["spec"]["dictionary"] = json!({"url": "redis://redis:6379/0"});
    }
    stage
}

/// `base` with the value at `pointer` replaced; an absent value is taken out.
fn with(mut base: Value, pointer: &str, value: Option<Value>) -> Value {
    let (parents, last) = pointer.rsplit_once('/').expect("a pointer");
    let mut parent = &mut base;
    for part in parents.split('/').skip(1) {
        parent = match parent {
            Value::Array(items) => &mut items[part.parse::<usize>().expect("an index")],
            _ => &mut parent[part],
        };
    }
    match value {
        Some(value) => parent[last] = value,
        None => drop(parent.as_object_mut().expect("an object").remove(last)),
    }
    base
}

/// The schema that the API server holds.
fn api_schema() -> Value {
    let schema = StreamStage::crd()
        .spec
        .versions
        .remove(0)
        .schema
        .expect("a schema");
    serde_json::to_value(schema.open_api_v3_schema.expect("an OpenAPI schema")).expect("JSON")
}

/// What the API server does with a resource: fills in defaults, checks the bounds, evaluates the CEL rules.
fn api_server(new: &Value, old: Option<&Value>) -> Result<(), String> {
    let schema = api_schema();
    let defaulted = |resource: &Value| {
        let mut resource = resource.clone();
        fill_defaults(&schema, &mut resource);
        resource
    };
    let (new, old) = (defaulted(new), old.map(defaulted));
    let bounds = jsonschema::validator_for(&int_or_string_as_types(&schema)).expect("a JSON Schema");
    if let Some(error) = bounds.iter_errors(&new).next() {
        return Err(format!("{}: {error}", error.instance_path()));
    }
    cel::Validator::new()
        .validate(&schema, &new, old.as_ref())
        .map_err(|errors| errors.to_string())
}

fn fill_defaults(schema: &Value, value: &mut Value) {
    if let (Some(properties), Some(object)) = (schema["properties"].as_object(), value.as_object_mut()) {
        for (field, property) in properties {
            if let Some(default) = property.get("default") {
                object.entry(field).or_insert_with(|| default.clone());
            }
        }
        for (field, value) in object {
            fill_defaults(&properties.get(field).cloned().unwrap_or_default(), value);
        }
    } else if let Some(items) = value.as_array_mut() {
        for item in items {
            fill_defaults(&schema["items"], item);
        }
    }
}

/// JSON Schema has no `x-kubernetes-int-or-string`.
fn int_or_string_as_types(schema: &Value) -> Value {
    match schema {
        Value::Object(keywords) => {
            let mut keywords: serde_json::Map<_, _> = keywords
                .iter()
                .map(|(keyword, value)| (keyword.clone(), int_or_string_as_types(value)))
                .collect();
            if keywords.remove("x-kubernetes-int-or-string").is_some() {
                keywords.insert("type".to_owned(), json!(["integer", "string"]));
            }
            keywords.into()
        }
        Value::Array(items) => items.iter().map(int_or_string_as_types).collect(),
        other => other.clone(),
    }
}

/// What a worker does with the same resource in a file.
fn worker(resource: &Value) -> Result<Vec<StreamStage>, DocumentError> {
    document::parse(&resource.to_string())
}

/// A line of `rules.yaml`: layer, field, accepted and refused value, a word of the refusal.
#[derive(serde::Deserialize)]
struct Rule(String, String, Value, Value, String);

/// A value of `rules.yaml` with `null` and `a*52` resolved.
fn resolved(value: Value) -> Option<Value> {
    match value
        .as_str()
        .and_then(|text| text.strip_prefix("a*")?.parse().ok())
    {
        Some(count) => Some(json!("a".repeat(count))),
        None => Some(value).filter(|value| !value.is_null()),
    }
}

#[test]
fn each_rule_accepts_and_refuses_in_the_api_server_and_in_the_worker() {
    let rules: Vec<Rule> = serde_saphyr::from_str(include_str!("rules.yaml")).expect("rules.yaml");
    for Rule(layer, field, good, bad, word) in rules {
        let context = format!("{layer} {field}: {good} and {bad}");
        let good = with(stage(&layer), &field, resolved(good));
        assert_eq!(api_server(&good, None), Ok(()), "API server, {context}");
        worker(&good).unwrap_or_else(|error| panic!("worker, {context}: {error}"));

        let bad = with(stage(&layer), &field, resolved(bad));
        let error = api_server(&bad, None).expect_err(&context);
        assert!(error.contains(&word), "API server, {context}: {error}");
        let error = worker(&bad).expect_err(&context).to_string();
        assert!(error.contains(&word), "worker, {context}: {error}");
    }
}

#[test]
fn layer_topic_and_group_never_change() {
    let grouped = with(
        stage("stg"),
        "/spec/source/consumerGroup",
        Some(json!("orders.stg")),
    );
    for (old, pointer, value, word) in [
        (stage("cdm"), "/spec/layer", Some(json!("dds")), "layer"),
        (stage("stg"), "/spec/source/topic", Some(json!("other")), "topic"),
        (
            stage("stg"),
            "/spec/source/consumerGroup",
            Some(json!("new")),
            "consumerGroup",
        ),
        (
            grouped.clone(),
            "/spec/source/consumerGroup",
            Some(json!("new")),
            "consumerGroup",
        ),
        (
            grouped.clone(),
            "/spec/source/consumerGroup",
            None,
            "consumerGroup",
        ),
    ] {
        assert_eq!(api_server(&old, Some(&old)), Ok(()), "{pointer}");
        let error = api_server(&with(old.clone(), pointer, value), Some(&old)).expect_err(pointer);
        assert!(
            error.contains(word) && error.contains("immutable"),
            "{pointer}: {error}"
        );
    }
    let elsewhere = with(stage("stg"), "/spec/warehouse/host", Some(json!("other")));
    assert_eq!(api_server(&elsewhere, Some(&stage("stg"))), Ok(()));
}

#[test]
fn what_only_rust_can_check_names_the_field_and_the_remedy() {
    let tags = json!([{"category": "a", "threshold": 1}, {"category": "a", "threshold": 2}, {"category": "a", "threshold": 1, "tag": "t"}]);
    for (layer, pointer, value, field) in [
        ("stg", "/spec/timezone", json!("Europe/Atlantis"), "spec.timezone"),
        ("cdm", "/spec/tags", tags, "spec.tags[2]"),
        ("stg", "/metadata/name", json!("Стадия"), "metadata.name"),
        ("stg", "/metadata/name", json!(""), "metadata.name"),
    ] {
        let stage: StreamStage =
            serde_json::from_value(with(stage(layer), pointer, Some(value))).expect(pointer);
        let violations = validate(&stage).expect_err(pointer);
        assert_eq!(
            violations
                .iter()
                .map(|violation| violation.field.as_str())
                .collect::<Vec<_>>(),
            [field]
        );
        assert!(violations[0].message.contains(": "), "{}", violations[0]);
    }
}

#[test]
fn all_violations_are_reported_at_once() {
    let mut bad = stage("stg");
    bad["spec"]["output"]["topic"] = json!("in");
    bad["spec"]["timezone"] = json!("nowhere");
    bad["spec"]["batch"] = json!({"maxRecords": 0});
    insta::assert_snapshot!(worker(&bad).expect_err("three violations"));
}

#[test]
fn names_that_are_left_out_follow_from_the_others() {
    let stages = document::parse(&stage("stg").to_string()).expect("a stage");
    assert_eq!(stages[0].consumer_group(), "orders.stg");
    assert_eq!(stages[0].dead_letter_topic(), "in.dlq");
    let homeless = with(stage("stg"), "/metadata/namespace", None);
    assert_eq!(
        worker(&homeless).expect("a stage")[0].consumer_group(),
        "default.stg"
    );
}

#[test]
fn defaults_of_the_schema_are_the_defaults_of_the_type() {
    let mut filled = stage("stg");
    fill_defaults(&api_schema(), &mut filled);
    let [given, filled] =
        [stage("stg"), filled].map(|json| serde_json::from_value::<StreamStage>(json).expect("a stage"));
    assert_eq!(given.spec, filled.spec);
}

#[test]
fn schema_has_no_null_and_describes_every_field() {
    fn walk(path: &str, schema: &Value) {
        assert_ne!(schema.get("nullable"), Some(&json!(true)), "{path}");
        for (field, property) in schema["properties"].as_object().into_iter().flatten() {
            assert!(
                property["description"].is_string(),
                "{path}.{field} has no description"
            );
            walk(&format!("{path}.{field}"), property);
        }
        if schema["items"].is_object() {
            walk(&format!("{path}[]"), &schema["items"]);
        }
    }
    walk("spec", &api_schema()["properties"]["spec"]);
}

#[test]
fn resource_definition_changes_only_on_purpose() {
    insta::assert_snapshot!(serde_saphyr::to_string(&StreamStage::crd()).expect("YAML"));
}
