//! The table of values in the chart's README: names and defaults from `values.yaml`, meanings from the schema.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;

/// The table, or the value that the schema does not describe.
pub(crate) fn table(values: &Value, schema: &Value) -> Result<String, String> {
    let mut table = "| value | default | meaning |\n| --- | --- | --- |\n".to_owned();
    rows("", values, schema, &mut table)?;
    Ok(table)
}

fn rows(path: &str, values: &Value, schema: &Value, table: &mut String) -> Result<(), String> {
    let fields = values.as_object().ok_or(format!("{path} is no object"))?;
    let sorted: BTreeMap<_, _> = fields.iter().collect();
    for (field, value) in sorted {
        let path = if path.is_empty() {
            field.to_owned()
        } else {
            format!("{path}.{field}")
        };
        let described = &schema["properties"][field];
        let meaning = described["description"]
            .as_str()
            .ok_or(format!("the schema does not describe {path}"))?;
        if described["properties"].is_object() {
            rows(&path, value, described, table)?;
        } else {
            writeln!(table, "| `{path}` | `{value}` | {meaning} |").map_err(|error| error.to_string())?;
        }
    }
    Ok(())
}

/// The values that the schema describes and `values.yaml` leaves out.
pub(crate) fn undocumented(values: &Value, schema: &Value) -> Vec<String> {
    let Some(properties) = schema["properties"].as_object() else {
        return Vec::new();
    };
    properties
        .iter()
        .filter(|(field, _)| *field != "global")
        .flat_map(|(field, schema)| match values.get(field) {
            None => vec![field.clone()],
            Some(values) => undocumented(values, schema)
                .into_iter()
                .map(|inner| format!("{field}.{inner}"))
                .collect(),
        })
        .collect()
}
