//! Drift detection: compares a planned object with the live one.
//!
//! The API server adds defaults and status, omits empty values and rewrites quantities; other controllers add fields and
//! list items. None of this is drift. A planned value that is missing or different is.
//!
//! Quantities are parsed here: the crate `kube_quantity` 0.9 rejects `1E` and compares `1Gi` with `1073741824` in 32-bit
//! floats, which reports false drift.

use serde_json::Value;

/// Suffixes of quantities above one, as `(suffix, factor)`.
const MULTIPLES: [(&str, f64); 12] = [
    ("Ki", 1_024.0),
    ("Mi", 1_048_576.0),
    ("Gi", 1_073_741_824.0),
    ("Ti", 1_099_511_627_776.0),
    ("Pi", 1_125_899_906_842_624.0),
    ("Ei", 1_152_921_504_606_846_976.0),
    ("k", 1e3),
    ("M", 1e6),
    ("G", 1e9),
    ("T", 1e12),
    ("P", 1e15),
    ("E", 1e18),
];
/// Suffixes of quantities below one, as `(suffix, divisor)`: in floating point `9m` is 9 / 1000, but 9 * 0.001 is not
/// 0.009.
const FRACTIONS: [(&str, f64); 3] = [("n", 1e9), ("u", 1e6), ("m", 1e3)];

/// Boolean fields of a pod that the API server omits when they are false; every other one it returns.
const OMITTED_WHEN_FALSE: [&str; 7] = [
    "hostNetwork",
    "hostPID",
    "hostIPC",
    "stdin",
    "stdinOnce",
    "tty",
    "readOnly",
];

/// Returns true if every planned value is present in the live object.
pub(super) fn matches_plan(planned: &Value, live: &Value) -> bool {
    match (planned, live) {
        (Value::Object(planned), Value::Object(live)) => planned.iter().all(|(field, planned)| {
            let live = live.get(field).unwrap_or(&Value::Null);
            match field.as_str() {
                "limits" | "requests" => are_quantities_equal(planned, live),
                "sizeLimit" | "divisor" => is_quantity_equal(planned, live),
                _ => {
                    is_empty(planned)
                        || is_omitted_default(field, planned) && live.is_null()
                        || matches_plan(planned, live)
                }
            }
        }),
        (Value::Array(planned), Value::Array(live))
            if planned.iter().all(|item| item["name"].is_string()) =>
        {
            // A list with `name` as its key, to which other controllers may have added items.
            let find_live = |name: &Value| live.iter().find(|item| item["name"] == *name);
            planned
                .iter()
                .all(|item| find_live(&item["name"]).is_some_and(|live| matches_plan(item, live)))
        }
        (Value::Array(planned), Value::Array(live)) => {
            planned.len() == live.len()
                && planned
                    .iter()
                    .zip(live)
                    .all(|(planned, live)| matches_plan(planned, live))
        }
        _ => planned == live,
    }
}

/// Returns true for a value that the API server omits because it is empty.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

/// Returns true for a value that the API server omits because it equals the default: an empty string, or a false of
/// [`OMITTED_WHEN_FALSE`].
fn is_omitted_default(field: &str, planned: &Value) -> bool {
    match planned {
        Value::String(text) => text.is_empty(),
        Value::Bool(false) => OMITTED_WHEN_FALSE.contains(&field),
        _ => false,
    }
}

/// Compares two maps of quantities by value: `1000m` equals `1`.
fn are_quantities_equal(planned: &Value, live: &Value) -> bool {
    let quantities = |value: &Value| -> Vec<(String, Option<f64>)> {
        let fields = value.as_object().into_iter().flatten();
        fields
            .map(|(name, quantity)| (name.clone(), quantity.as_str().and_then(parse_quantity)))
            .collect()
    };
    quantities(planned) == quantities(live)
}

/// Compares two quantities by value.
fn is_quantity_equal(planned: &Value, live: &Value) -> bool {
    let quantity = |value: &Value| value.as_str().and_then(parse_quantity);
    quantity(planned) == quantity(live)
}

/// Parses a quantity such as `500m` or `64Mi`; `None` if it is malformed.
fn parse_quantity(text: &str) -> Option<f64> {
    let number = |suffix: &str| text.strip_suffix(suffix)?.parse::<f64>().ok();
    let multiples = MULTIPLES
        .iter()
        .filter_map(|(suffix, factor)| Some(number(suffix)? * factor));
    let fractions = FRACTIONS
        .iter()
        .filter_map(|(suffix, divisor)| Some(number(suffix)? / divisor));
    number("").or_else(|| multiples.chain(fractions).next())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_that_the_api_server_adds_are_not_drift() {
        let planned = json!({
            "metadata": {"name": "a", "annotations": {}},
            "spec": {"containers": [{"name": "worker", "args": ["run"], "resources": {"requests": {"cpu": "1000m", "memory": "1Gi"}}}]},
        });
        let live = json!({
            "metadata": {"name": "a", "uid": "1"},
            "spec": {"restartPolicy": "Always", "containers": [
                {"name": "sidecar"},
                {"name": "worker", "args": ["run"], "resources": {"requests": {"cpu": "1", "memory": "1024Mi"}}},
            ]},
            "status": {},
        });
        assert!(matches_plan(&planned, &live));
    }

    #[test]
    fn defaults_that_the_api_server_omits_are_not_drift() {
        let planned = json!({"hostNetwork": false, "containers": [{"name": "worker", "tty": false,
            "env": [{"name": "RUST_LOG", "value": ""}], "volumeMounts": [{"name": "data", "readOnly": false}]}]});
        let live = json!({"containers": [{"name": "worker", "env": [{"name": "RUST_LOG"}],
            "volumeMounts": [{"name": "data"}]}]});
        assert!(matches_plan(&planned, &live));
        let host_network = json!({"hostNetwork": true, "containers": [{"name": "worker", "env": [{"name": "RUST_LOG"}],
            "volumeMounts": [{"name": "data"}]}]});
        assert!(!matches_plan(&planned, &host_network));
        let restricted = json!({"securityContext": {"allowPrivilegeEscalation": false}});
        assert!(
            !matches_plan(&restricted, &json!({"securityContext": {}})),
            "the default of this field is true"
        );
    }

    #[test]
    fn every_change_of_a_planned_value_is_drift() {
        let planned = json!({"spec": {"replicas": 1, "args": ["run"], "limits": {"cpu": "1"}, "ports": [{"name": "a", "port": 1}]}});
        for (pointer, value) in [
            ("/spec/replicas", json!(2)),
            ("/spec/replicas", Value::Null),
            ("/spec/args", json!(["run", "more"])),
            ("/spec/args", json!([])),
            ("/spec/limits", json!({"cpu": "1001m"})),
            ("/spec/limits", json!({"cpu": "1", "memory": "1Mi"})),
            ("/spec/limits", Value::Null),
            ("/spec/ports", json!([{"name": "b", "port": 1}])),
            ("/spec/ports", json!([{"name": "a", "port": 2}])),
        ] {
            let mut live = planned.clone();
            *live.pointer_mut(pointer).expect(pointer) = value;
            assert!(!matches_plan(&planned, &live), "{pointer}: {live}");
        }
    }
}
