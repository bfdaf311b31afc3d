//! Every rule of the resource on the real API server: an accepted and a refused example each, naming the field.
#![expect(clippy::disallowed_types, reason = "edge: tries resources on the API server")]

use anyhow::{Context as _, Result};
use crds::StreamStage;
use e2e::cluster::Story;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

/// A line of `rules.yaml`: layer, field, accepted and refused value, a word of the refusal.
#[derive(serde::Deserialize)]
struct Rule(String, String, Value, Value, String);

/// `base` with the value at `pointer` replaced; `null` takes it out.
fn with(mut base: Value, pointer: &str, value: &Value) -> Result<Value> {
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
async fn each_rule_accepts_and_refuses_on_the_real_api_server() -> Result<()> {
    let story = Story::begin("rules", 1).await?;
    let resource = ApiResource::erase::<StreamStage>(&());
    let stages: Api<DynamicObject> =
        Api::namespaced_with(story.cluster.client.clone(), &story.namespace, &resource);
    let dry_run = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let rules: Vec<Rule> = serde_saphyr::from_str(include_str!("../../../crds/tests/rules.yaml"))?;
    let mut tried = 0;
    for Rule(layer, field, good, bad, word) in rules {
        let mut stage = story.stage(&layer)?;
        stage.spec.scaling = crds::stage::Scaling::default();
        stage.spec.tags.clear();
        // The topics that the lines of the file speak of.
        "in".clone_into(&mut stage.spec.source.topic);
        if let Some(output) = &mut stage.spec.output {
            "out".clone_into(&mut output.topic);
        }
        let stage = serde_json::to_value(&stage)?;
        let good: DynamicObject = serde_json::from_value(with(stage.clone(), &field, &good)?)?;
        stages
            .create(&dry_run, &good)
            .await
            .with_context(|| format!("{layer} {field}: the accepted example"))?;
        let bad = serde_json::from_value::<DynamicObject>(with(stage, &field, &bad)?)?;
        let refusal = stages
            .create(&dry_run, &bad)
            .await
            .err()
            .with_context(|| format!("{layer} {field}: not refused"))?;
        assert!(refusal.to_string().contains(&word), "{layer} {field}: {refusal}");
        tried += 1;
    }
    assert!(tried > 60, "{tried}");
    story.end()
}

#[tokio::test]
async fn what_a_stage_is_cannot_be_changed_later() -> Result<()> {
    let story = Story::begin("immutable", 1).await?;
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
    for (spec, word) in [
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
        let refusal = change(spec)
            .await
            .err()
            .with_context(|| format!("not refused: {word}"))?;
        assert!(refusal.to_string().contains(word), "{refusal}");
    }
    story.end()
}
