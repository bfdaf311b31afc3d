//! Validation rules of the CRD on the real API server: each has an accepted and a rejected example.
#![expect(clippy::disallowed_types, reason = "edge: sends stages to the API server")]

use crate::cluster::Story;
use anyhow::{Context as _, Result};
use crds::StreamStage;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

/// A line of `rules.yaml`: layer, field, accepted value, rejected value, and a part of the error message.
#[derive(serde::Deserialize)]
struct Rule(String, String, Value, Value, String);

/// Replaces the value at `pointer`; `null` removes it.
fn with_value(mut base: Value, pointer: &str, value: &Value) -> Result<Value> {
    let (parents, last) = pointer.rsplit_once('/').context("a pointer")?;
    let parent = parents
        .split('/')
        .skip(1)
        .fold(&mut base, |parent, part| &mut parent[part]);
    let repeated = value
        .as_str()
        .and_then(|text| text.strip_prefix("a*")?.parse().ok());
    match repeated.map_or_else(|| value.clone(), |count| json!("a".repeat(count))) {
        Value::Null => drop(parent.as_object_mut().context("an object")?.remove(last)),
        value => parent[last] = value,
    }
    Ok(base)
}

#[tokio::test]
async fn each_rule_accepts_and_rejects_its_examples_on_the_real_api_server() -> Result<()> {
    let story = Story::create("rules", 1).await?;
    let resource = ApiResource::erase::<StreamStage>(&());
    let stages: Api<DynamicObject> =
        Api::namespaced_with(story.cluster.client.clone(), &story.namespace, &resource);
    let dry_run = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let rules: Vec<Rule> =
        serde_saphyr::from_str(include_str!("../../../crds/tests/integration/rules.yaml"))?;
    let mut tested = 0;
    for Rule(layer, field, good, bad, message) in rules {
        let mut stage = story.stage(&layer)?;
        stage.spec.scaling = crds::stage::Scaling::default();
        stage.spec.tags.clear();
        // The topics that the rules refer to.
        "in".clone_into(&mut stage.spec.source.topic);
        if let Some(output) = &mut stage.spec.output {
            "out".clone_into(&mut output.topic);
        }
        let stage = serde_json::to_value(&stage)?;
        let good: DynamicObject = serde_json::from_value(with_value(stage.clone(), &field, &good)?)?;
        stages
            .create(&dry_run, &good)
            .await
            .with_context(|| format!("{layer} {field}: the accepted example"))?;
        let bad = serde_json::from_value::<DynamicObject>(with_value(stage, &field, &bad)?)?;
        let error = stages
            .create(&dry_run, &bad)
            .await
            .err()
            .with_context(|| format!("{layer} {field}: not rejected"))?;
        assert!(error.to_string().contains(&message), "{layer} {field}: {error}");
        tested += 1;
    }
    assert!(tested > 60, "{tested}");
    story.finish()
}

#[tokio::test]
async fn layer_topic_and_group_are_immutable() -> Result<()> {
    let story = Story::create("immutable", 1).await?;
    let mut stage = story.stage("stg")?;
    stage.spec.suspend = true;
    story.apply(&stage).await?;
    let stages = story.api::<StreamStage>();
    let dry_run = PatchParams {
        dry_run: true,
        ..PatchParams::default()
    };
    let change = async |spec: Value| {
        let patch = Patch::Merge(json!({"spec": spec}));
        stages.patch("stg", &dry_run, &patch).await
    };
    change(json!({"source": {"startFrom": "Latest"}})).await?;
    for (spec, message) in [
        (json!({"layer": "dds"}), "layer is immutable"),
        (
            json!({"source": {"topic": "another"}}),
            "the source topic is immutable",
        ),
        (
            json!({"source": {"consumerGroup": "another"}}),
            "consumerGroup is immutable",
        ),
        (
            json!({"source": {"consumerGroup": null}}),
            "consumerGroup is immutable",
        ),
    ] {
        let error = change(spec)
            .await
            .err()
            .with_context(|| format!("not rejected: {message}"))?;
        assert!(error.to_string().contains(message), "{error}");
    }
    story.finish()
}
