//! Whether an object of the cluster is as planned.
//!
//! The API server adds fields (defaults, status) and writes quantities in its own way; what was planned must be
//! found again, and what others added is theirs.

use serde_json::Value;

/// The suffixes of a quantity above one, as `(suffix, factor)`.
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
/// The suffixes of a quantity below one, as `(suffix, divisor)`: `9m` is 9 / 1000, while 9 * 0.001 is not 0.009.
const FRACTIONS: [(&str, f64); 3] = [("n", 1e9), ("u", 1e6), ("m", 1e3)];

/// Switches of a pod that the API server does not keep when they are off. It keeps every other one.
const SWITCHES: [&str; 7] = [
    "hostNetwork",
    "hostPID",
    "hostIPC",
    "stdin",
    "stdinOnce",
    "tty",
    "readOnly",
];

/// Whether everything of `planned` is in `live`.
pub(super) fn holds(planned: &Value, live: &Value) -> bool {
    match (planned, live) {
        (Value::Object(planned), Value::Object(live)) => planned.iter().all(|(field, planned)| {
            let live = live.get(field).unwrap_or(&Value::Null);
            match field.as_str() {
                "limits" | "requests" => same_quantities(planned, live),
                "sizeLimit" | "divisor" => same_amount(planned, live),
                _ => {
                    is_empty(planned) || is_left_out(field, planned) && live.is_null() || holds(planned, live)
                }
            }
        }),
        (Value::Array(planned), Value::Array(live))
            if planned.iter().all(|item| item["name"].is_string()) =>
        {
            // A list of named things, to which others may have added theirs.
            let named = |name: &Value| live.iter().find(|item| item["name"] == *name);
            planned
                .iter()
                .all(|item| named(&item["name"]).is_some_and(|live| holds(item, live)))
        }
        (Value::Array(planned), Value::Array(live)) => {
            planned.len() == live.len()
                && planned
                    .iter()
                    .zip(live)
                    .all(|(planned, live)| holds(planned, live))
        }
        _ => planned == live,
    }
}

/// Empty values are left out by the API server.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

/// What the API server leaves out because it says the same: a text that is empty, and a switch that is off.
fn is_left_out(field: &str, planned: &Value) -> bool {
    match planned {
        Value::String(text) => text.is_empty(),
        Value::Bool(false) => SWITCHES.contains(&field),
        _ => false,
    }
}

/// Whether two maps have the same amounts, such as `1000m` and `1`.
fn same_quantities(planned: &Value, live: &Value) -> bool {
    let amounts = |value: &Value| -> Vec<(String, Option<f64>)> {
        let fields = value.as_object().into_iter().flatten();
        fields
            .map(|(name, amount)| (name.clone(), amount.as_str().and_then(quantity)))
            .collect()
    };
    amounts(planned) == amounts(live)
}

/// Whether two quantities are one amount.
fn same_amount(planned: &Value, live: &Value) -> bool {
    let amount = |value: &Value| value.as_str().and_then(quantity);
    amount(planned) == amount(live)
}

/// The amount that a quantity stands for.
fn quantity(text: &str) -> Option<f64> {
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
    fn what_the_api_server_adds_is_no_drift() {
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
        assert!(holds(&planned, &live));
    }

    #[test]
    fn what_the_api_server_leaves_out_is_no_drift() {
        let planned = json!({"hostNetwork": false, "containers": [{"name": "worker", "tty": false,
            "env": [{"name": "RUST_LOG", "value": ""}], "volumeMounts": [{"name": "data", "readOnly": false}]}]});
        let live = json!({"containers": [{"name": "worker", "env": [{"name": "RUST_LOG"}],
            "volumeMounts": [{"name": "data"}]}]});
        assert!(holds(&planned, &live));
        let on = json!({"hostNetwork": true, "containers": [{"name": "worker", "env": [{"name": "RUST_LOG"}],
            "volumeMounts": [{"name": "data"}]}]});
        assert!(!holds(&planned, &on));
        let strict = json!({"securityContext": {"allowPrivilegeEscalation": false}});
        assert!(
            !holds(&strict, &json!({"securityContext": {}})),
            "it is on where it is missing"
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
            assert!(!holds(&planned, &live), "{pointer}: {live}");
        }
    }
}
