//! Custom resource: the API server's schema and the Rust validation accept and reject the same stages.

use crds::{
    StreamStage,
    document::{self, DocumentError},
    stage::validate,
};
use kube::CustomResourceExt;
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
        stage["spec"]["referenceData"] = json!({"url": "redis://redis:6379/0"});
    }
    stage
}

/// Returns `base` with the value at `pointer` replaced, or removed if `value` is `None`.
fn with_value(mut base: Value, pointer: &str, value: Option<Value>) -> Value {
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

/// Schema in the CRD, as the API server stores it.
fn api_schema() -> Value {
    let schema = StreamStage::crd()
        .spec
        .versions
        .remove(0)
        .schema
        .expect("a schema");
    serde_json::to_value(schema.open_api_v3_schema.expect("an OpenAPI schema")).expect("JSON")
}

/// Validates a resource as the API server does: sets defaults, checks the bounds, evaluates the CEL rules.
fn validate_as_api_server(new: &Value, old: Option<&Value>) -> Result<(), String> {
    let schema = api_schema();
    let defaulted = |resource: &Value| {
        let mut resource = resource.clone();
        fill_defaults(&schema, &mut resource);
        resource
    };
    let (new, old) = (defaulted(new), old.map(defaulted));
    let bounds = jsonschema::validator_for(&expand_int_or_string(&schema)).expect("a JSON Schema");
    if let Some(error) = bounds.iter_errors(&new).next() {
        return Err(format!("{}: {error}", error.instance_path()));
    }
    kube_cel::Validator::new()
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

/// Replaces `x-kubernetes-int-or-string`, which JSON Schema does not have, with the two types.
fn expand_int_or_string(schema: &Value) -> Value {
    match schema {
        Value::Object(keywords) => {
            let mut keywords: serde_json::Map<_, _> = keywords
                .iter()
                .map(|(keyword, value)| (keyword.clone(), expand_int_or_string(value)))
                .collect();
            if keywords.remove("x-kubernetes-int-or-string").is_some() {
                keywords.insert("type".to_owned(), json!(["integer", "string"]));
            }
            keywords.into()
        }
        Value::Array(items) => items.iter().map(expand_int_or_string).collect(),
        other => other.clone(),
    }
}

/// Parses a resource as a worker does with a file.
fn parse_as_worker(resource: &Value) -> Result<Vec<StreamStage>, DocumentError> {
    document::parse(&resource.to_string())
}

/// Line of `rules.yaml`: layer, field, accepted value, rejected value, text in the error.
#[derive(serde::Deserialize)]
struct Rule(String, String, Value, Value, String);

/// Expands `a*52` of `rules.yaml` and maps `null` to `None`.
fn expand_value(value: Value) -> Option<Value> {
    match value
        .as_str()
        .and_then(|text| text.strip_prefix("a*")?.parse().ok())
    {
        Some(count) => Some(json!("a".repeat(count))),
        None => Some(value).filter(|value| !value.is_null()),
    }
}

#[test]
fn the_api_server_and_the_worker_enforce_the_same_rules() {
    let rules: Vec<Rule> = serde_saphyr::from_str(include_str!("rules.yaml")).expect("rules.yaml");
    for Rule(layer, field, accepted, rejected, expected) in rules {
        let context = format!("{layer} {field}: {accepted} and {rejected}");
        let accepted = with_value(stage(&layer), &field, expand_value(accepted));
        assert_eq!(
            validate_as_api_server(&accepted, None),
            Ok(()),
            "API server, {context}"
        );
        parse_as_worker(&accepted).unwrap_or_else(|error| panic!("worker, {context}: {error}"));

        let rejected = with_value(stage(&layer), &field, expand_value(rejected));
        let error = validate_as_api_server(&rejected, None).expect_err(&context);
        assert!(error.contains(&expected), "API server, {context}: {error}");
        let error = parse_as_worker(&rejected).expect_err(&context).to_string();
        assert!(error.contains(&expected), "worker, {context}: {error}");
    }
}

#[test]
fn every_time_zone_of_the_database_is_accepted() {
    let zones = jiff::tz::TimeZoneDatabase::bundled();
    assert!(zones.available().count() > 500);
    let zone_schema = api_schema()["properties"]["spec"]["properties"]["timezone"].clone();
    let validator = jsonschema::validator_for(&zone_schema).expect("a JSON Schema");
    for name in zones.available() {
        let name = json!(name.as_str());
        assert!(validator.is_valid(&name), "API server, {name}");
        let stage = with_value(stage("stg"), "/spec/timezone", Some(name.clone()));
        let stage: StreamStage = serde_json::from_value(stage).expect("a stage");
        assert_eq!(validate(&stage), Ok(()), "worker, {name}");
        assert!(stage.time_zone().is_ok(), "worker, {name}");
    }
}

#[test]
fn layer_topic_group_and_database_are_immutable() {
    let grouped = with_value(
        stage("stg"),
        "/spec/source/consumerGroup",
        Some(json!("orders.stg")),
    );
    for (old, pointer, value, expected) in [
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
        (
            stage("stg"),
            "/spec/warehouse/database",
            Some(json!("other")),
            "the stage would read its topic again",
        ),
    ] {
        assert_eq!(validate_as_api_server(&old, Some(&old)), Ok(()), "{pointer}");
        let error =
            validate_as_api_server(&with_value(old.clone(), pointer, value), Some(&old)).expect_err(pointer);
        assert!(
            error.contains(expected) && error.contains("immutable"),
            "{pointer}: {error}"
        );
    }
    for (pointer, value) in [
        ("/spec/warehouse/host", json!("other")),
        ("/spec/warehouse/port", json!(6432)),
        ("/spec/timezone", json!("Europe/Moscow")),
    ] {
        let changed = with_value(stage("stg"), pointer, Some(value));
        assert_eq!(
            validate_as_api_server(&changed, Some(&stage("stg"))),
            Ok(()),
            "{pointer}"
        );
    }
}

#[test]
fn rules_without_a_schema_name_the_field_and_the_remedy() {
    let tags = json!([{"category": "a", "threshold": 1}, {"category": "a", "threshold": 2}, {"category": "a", "threshold": 1, "tag": "t"}]);
    let schedules = |start: &str, end: &str, timezone: &str| json!({"schedules": [{"start": start, "end": end, "timezone": timezone, "minReplicas": 1}]});
    let start = schedules("60 8 * * *", "0 9 * * *", "UTC");
    let end = schedules("0 8 * * *", "0 0 30 2 *", "UTC");
    let timezone = schedules("0 8 * * *", "0 9 * * *", "Europe/Atlantis");
    for (layer, pointer, value, field) in [
        ("stg", "/spec/scaling", start, "spec.scaling.schedules[0].start"),
        ("stg", "/spec/scaling", end, "spec.scaling.schedules[0].end"),
        (
            "stg",
            "/spec/scaling",
            timezone,
            "spec.scaling.schedules[0].timezone",
        ),
        ("stg", "/spec/timezone", json!("Europe/Atlantis"), "spec.timezone"),
        ("cdm", "/spec/tags", tags, "spec.tags[2]"),
        ("stg", "/metadata/name", json!("Стадия"), "metadata.name"),
        ("stg", "/metadata/name", json!(""), "metadata.name"),
    ] {
        let stage: StreamStage =
            serde_json::from_value(with_value(stage(layer), pointer, Some(value))).expect(pointer);
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
fn a_stage_has_at_most_sixteen_schedules() {
    let schedule = json!({"start": "0 8 * * *", "end": "0 9 * * *", "minReplicas": 1});
    for (count, is_valid) in [(16, true), (17, false)] {
        let schedules = json!({"schedules": vec![schedule.clone(); count]});
        let stage = with_value(stage("dds"), "/spec/scaling", Some(schedules));
        assert_eq!(validate_as_api_server(&stage, None).is_ok(), is_valid, "{count}");
        assert_eq!(parse_as_worker(&stage).is_ok(), is_valid, "{count}");
    }
}

#[test]
fn all_violations_are_reported_at_once() {
    let mut bad = stage("stg");
    bad["spec"]["output"]["topic"] = json!("in");
    bad["spec"]["timezone"] = json!("nowhere");
    bad["spec"]["batch"] = json!({"maxRecords": 0});
    insta::assert_snapshot!(parse_as_worker(&bad).expect_err("three violations"));
}

#[test]
fn omitted_names_are_derived() {
    let stages = document::parse(&stage("stg").to_string()).expect("a stage");
    assert_eq!(stages[0].consumer_group(), "orders.stg");
    assert_eq!(stages[0].dead_letter_topic(), "in.dlq");
    let without_namespace = with_value(stage("stg"), "/metadata/namespace", None);
    assert_eq!(
        parse_as_worker(&without_namespace).expect("a stage")[0].consumer_group(),
        "default.stg"
    );
}

#[test]
fn schema_defaults_equal_the_type_defaults() {
    let mut filled = stage("stg");
    fill_defaults(&api_schema(), &mut filled);
    let [given, filled] =
        [stage("stg"), filled].map(|json| serde_json::from_value::<StreamStage>(json).expect("a stage"));
    assert_eq!(given.spec, filled.spec);
}

#[test]
fn the_schema_has_no_null_and_describes_every_field() {
    fn check_fields(path: &str, schema: &Value) {
        assert_ne!(schema.get("nullable"), Some(&json!(true)), "{path}");
        for (field, property) in schema["properties"].as_object().into_iter().flatten() {
            assert!(
                property["description"].is_string(),
                "{path}.{field} has no description"
            );
            check_fields(&format!("{path}.{field}"), property);
        }
        if schema["items"].is_object() {
            check_fields(&format!("{path}[]"), &schema["items"]);
        }
    }
    check_fields("spec", &api_schema()["properties"]["spec"]);
}

#[test]
fn the_crd_changes_only_on_purpose() {
    insta::assert_snapshot!(serde_saphyr::to_string(&StreamStage::crd()).expect("YAML"));
}
