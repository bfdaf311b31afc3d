//! Stages for the scenarios, and writes to them as users make them.

use serde_json::{Value, json};

use super::api_server::ApiServer;

/// Resources of the five objects that a stage owns.
pub(crate) const OWNED: [&str; 5] = [
    "serviceaccounts",
    "configmaps",
    "services",
    "poddisruptionbudgets",
    "deployments",
];

/// Stage with the required fields only; `spec` is merged into it.
pub(crate) fn cdm(name: &str, spec: &Value) -> Value {
    let mut stage = json!({
        "apiVersion": "streamstage.dev/v1alpha1",
        "kind": "StreamStage",
        "metadata": {"name": name, "namespace": "orders"},
        "spec": {
            "layer": "cdm",
            "source": {"bootstrapServers": ["kafka:9092"], "topic": "facts"},
            "warehouse": {"host": "postgres", "database": "orders"},
        },
    });
    merge(&mut stage["spec"], spec);
    stage
}

/// Stage with every optional section.
pub(crate) fn full() -> Value {
    json!({
        "apiVersion": "streamstage.dev/v1alpha1",
        "kind": "StreamStage",
        "metadata": {"name": "stg", "namespace": "orders", "uid": "uid-1", "generation": 3},
        "spec": {
            "layer": "stg",
            "source": {
                "bootstrapServers": ["kafka-0:9092", "kafka-1:9092"],
                "topic": "order-service_orders",
                "consumerGroup": "orders",
                "startFrom": "Latest",
                "authSecretName": "orders-kafka",
            },
            "referenceData": {"url": "redis://redis:6379/0", "authSecretName": "orders-redis", "maxWait": "5m"},
            "warehouse": {
                "host": "postgres",
                "database": "orders",
                "authSecretName": "orders-postgres",
                "connectionsPerWorker": 2,
                "connectionBudget": 40,
            },
            "output": {"topic": "stg-service-orders"},
            "deadLetter": {"topic": "stg-service-orders.dlq"},
            "batch": {"maxRecords": 500, "maxBytes": "8Mi", "maxWait": "10s"},
            "timezone": "Europe/Moscow",
            "scaling": {"mode": "Manual", "replicas": 5, "maxReplicas": 12},
            "worker": {
                "image": "streamstage/worker:2",
                "resources": {"requests": {"cpu": "500m"}, "limits": {"cpu": 1, "memory": "1Gi"}},
                "podTemplate": {
                    "metadata": {"annotations": {"team": "orders"}, "labels": {"team": "orders"}},
                    "spec": {
                        "nodeSelector": {"disk": "ssd"},
                        "containers": [
                            {"name": "worker", "env": [{"name": "RUST_LOG", "value": "debug"}]},
                        ],
                    },
                },
            },
        },
    })
}

/// Creates a stage as `kubectl apply` does.
pub(crate) fn create(server: &ApiServer, stage: &Value) {
    let name = stage["metadata"]["name"].as_str().expect("the stage has a name");
    server.edit("streamstages", name, "kubectl", |live| {
        let metadata = live["metadata"].clone();
        *live = stage.clone();
        live["metadata"] = metadata;
    });
}

/// Sets an annotation of a stage, which leaves its generation unchanged.
pub(crate) fn annotate(server: &ApiServer, name: &str, annotation: &str, value: &str) {
    server.edit("streamstages", name, "kubectl", |stage| {
        stage["metadata"]["annotations"][annotation] = json!(value);
    });
}

/// Merges `spec` into the spec of a stage.
pub(crate) fn change(server: &ApiServer, name: &str, spec: &Value) {
    server.edit("streamstages", name, "kubectl", |stage| {
        merge(&mut stage["spec"], spec);
    });
}

/// Creates or replaces a Secret that stages may use; the values are base64.
pub(crate) fn put_secret(server: &ApiServer, name: &str, data: &Value) {
    server.edit("secrets", name, "kubectl", |secret| {
        secret["metadata"]["annotations"] = json!({"streamstage.dev/allow-stages": "true"});
        secret["data"] = data.clone();
    });
}

/// Applies a JSON merge patch: null removes a field.
fn merge(into: &mut Value, from: &Value) {
    let Value::Object(fields) = from else {
        *into = from.clone();
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    for (field, value) in fields {
        if value.is_null() {
            into.as_object_mut().expect("it is an object").remove(field);
        } else {
            merge(&mut into[field], value);
        }
    }
}
