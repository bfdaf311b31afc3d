use serde_json::{Value, json};

use super::*;

const SOURCE: &str = "spec.source.authSecretName";
const REFERENCE_DATA: &str = "spec.referenceData.authSecretName";
const WAREHOUSE: &str = "spec.warehouse.authSecretName";

fn stage(change: impl FnOnce(&mut Value)) -> StreamStage {
    let mut stage = json!({
        "apiVersion": "streamstage.dev/v1alpha1",
        "kind": "StreamStage",
        "metadata": {"name": "stg", "namespace": "team-b"},
        "spec": {
            "layer": "stg",
            "source": {"bootstrapServers": ["kafka.example.com:9093"], "topic": "orders", "authSecretName": "kafka"},
            "referenceData": {"url": "rediss://redis.example.com", "authSecretName": "redis"},
            "warehouse": {"host": "postgres.example.com", "database": "orders", "authSecretName": "postgres"},
            "output": {"topic": "out"},
        },
    });
    change(&mut stage);
    serde_json::from_value(stage).expect("a stage")
}

fn keys(annotations: &[(&str, &str)]) -> SecretKeys {
    let annotations = annotations
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    SecretKeys {
        names: ["username", "password"].map(str::to_owned).to_vec(),
        version: "1/2".to_owned(),
        grant: Grant::from_annotations(&annotations.collect()),
    }
}

fn secrets(annotations: &[(&str, &str)]) -> Secrets {
    let names = ["kafka", "redis", "postgres"];
    names
        .map(|name| (name.to_owned(), Some(keys(annotations))))
        .into()
}

const ALLOW: (&str, &str) = (ALLOW_STAGES_ANNOTATION, "true");

#[test]
fn a_secret_is_used_only_if_its_owner_allows_stages() {
    let stage = stage(|_| {});
    for (field, name) in [
        (SOURCE, "kafka"),
        (REFERENCE_DATA, "redis"),
        (WAREHOUSE, "postgres"),
    ] {
        let refusal = check_secret(&stage, field, name, &secrets(&[])).expect_err(field);
        assert_eq!(refusal.reason, Reason::SecretNotAllowed, "{field}");
        assert!(refusal.message.starts_with(field), "{}", refusal.message);
        check_secret(&stage, field, name, &secrets(&[ALLOW])).expect(field);
    }
    check_secrets(&stage, &secrets(&[ALLOW])).expect("every Secret is allowed");
    assert!(check_secrets(&stage, &secrets(&[])).is_err());
}

#[test]
fn a_secret_is_sent_only_to_the_hosts_that_it_names() {
    let other = |pointer: &'static str, host: Value| {
        stage(move |stage| *stage.pointer_mut(pointer).expect(pointer) = host)
    };
    let hosts = "kafka.example.com:9093, redis.example.com, postgres.example.com:5432";
    let secrets = secrets(&[ALLOW, (ALLOW_HOSTS_ANNOTATION, hosts)]);
    check_secrets(&stage(|_| {}), &secrets).expect("the named hosts");
    for (field, name, other) in [
        (
            SOURCE,
            "kafka",
            other(
                "/spec/source/bootstrapServers",
                json!(["kafka.example.com:9093", "evil:9093"]),
            ),
        ),
        (
            SOURCE,
            "kafka",
            other("/spec/source/bootstrapServers", json!(["kafka.example.com:9092"])),
        ),
        (
            REFERENCE_DATA,
            "redis",
            other("/spec/referenceData/url", json!("rediss://evil.example.com")),
        ),
        (
            WAREHOUSE,
            "postgres",
            other("/spec/warehouse/host", json!("postgres.example.com,evil")),
        ),
    ] {
        let refusal = check_secret(&other, field, name, &secrets).expect_err(field);
        assert_eq!(refusal.reason, Reason::SecretNotAllowed, "{}", refusal.message);
    }
    // Code of the author could read the Secret, and send it anywhere.
    for worker in [
        json!({"image": "evil"}),
        json!({"podTemplate": {"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}}}),
        json!({"podTemplate": {"spec": {"containers": [{"name": "worker", "env": [{"name": "LD_PRELOAD", "value": "/v/a.so"}]}]}}}),
    ] {
        let customized = stage(|stage| stage["spec"]["worker"] = worker.clone());
        let refusal = check_secret(&customized, SOURCE, "kafka", &secrets).expect_err("a customized worker");
        assert_eq!(refusal.reason, Reason::SecretNotAllowed, "{worker}");
    }
}

#[test]
fn a_password_is_sent_without_tls_only_if_its_secret_allows_it() {
    let stage = stage(|stage| stage["spec"]["referenceData"]["url"] = json!("redis://redis.example.com"));
    let check = |annotations: &[_]| check_secret(&stage, REFERENCE_DATA, "redis", &secrets(annotations));
    assert_eq!(
        check(&[ALLOW]).expect_err("clear text").reason,
        Reason::SecretNotAllowed
    );
    check(&[ALLOW, (ALLOW_CLEAR_TEXT_ANNOTATION, "true")]).expect("allowed");
}

#[test]
fn the_prefix_of_another_namespace_is_refused_whether_or_not_it_has_stages() {
    for (group, is_refused) in [
        ("team-a.cdm", true),
        ("team-a.", true),
        ("kube-system.x", true),
        ("team-b.cdm", false),
        ("team-b.other.cdm", false),
        ("orders", false),
        ("Team_A.cdm", false),
        (".cdm", false),
    ] {
        let stage = stage(|stage| stage["spec"]["source"]["consumerGroup"] = json!(group));
        let result = check_stage(&stage, &[]);
        assert_eq!(result.is_err(), is_refused, "{group}: {result:?}");
        if let Err(refusal) = result {
            assert_eq!(refusal.reason, Reason::ConsumerGroupConflict);
        }
    }
    check_stage(&stage(|_| {}), &[]).expect("the default group has the prefix of its own namespace");
}

#[test]
fn hosts_outside_of_the_allow_list_are_refused() {
    let stage = stage(|_| {});
    let patterns = |texts: &[&str]| -> Vec<HostPattern> {
        texts
            .iter()
            .map(|text| text.parse().expect("a pattern"))
            .collect()
    };
    check_stage(&stage, &patterns(&["*.example.com"])).expect("every host is allowed");
    for (texts, section) in [
        (&["redis.example.com", "postgres.example.com"][..], "spec.source"),
        (
            &["kafka.example.com", "postgres.example.com"],
            "spec.referenceData",
        ),
        (&["kafka.example.com", "redis.example.com"], "spec.warehouse"),
    ] {
        let refusal = check_stage(&stage, &patterns(texts)).expect_err(section);
        assert_eq!(refusal.reason, Reason::HostNotAllowed);
        assert!(refusal.message.starts_with(section), "{}", refusal.message);
    }
}

#[test]
fn a_service_account_is_used_only_if_its_owner_allows_stages() {
    let named = stage(|stage| {
        stage["spec"]["worker"] = json!({"podTemplate": {"spec": {"serviceAccountName": "admin"}}});
    });
    let allowed = keys(&[ALLOW]).grant;
    for grant in [None, Some(&Grant::default())] {
        let refusal = check_service_account(&named, grant).expect_err("not allowed");
        assert_eq!(refusal.reason, Reason::ServiceAccountNotAllowed);
    }
    check_service_account(&named, Some(&allowed)).expect("allowed");
    check_service_account(&stage(|_| {}), None).expect("the operator's own");
}

#[test]
fn each_secret_needs_the_keys_of_its_dependency() {
    for (field, names, missing) in [
        (WAREHOUSE, &["password"][..], Some("username")),
        (WAREHOUSE, &["username"], None),
        (REFERENCE_DATA, &["username"], Some("password")),
        (REFERENCE_DATA, &["password"], None),
        (SOURCE, &["username"], Some("password")),
        (SOURCE, &["ca.crt"], None),
    ] {
        let keys = SecretKeys {
            names: names.iter().map(ToString::to_string).collect(),
            ..SecretKeys::default()
        };
        assert_eq!(missing_key(field, &keys), missing, "{field} {names:?}");
    }
}
