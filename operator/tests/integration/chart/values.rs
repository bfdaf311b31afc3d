//! Table of values for the chart's README: names and defaults from `values.yaml`, descriptions from the schema.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;

/// Formats the table; an error names a value that the schema does not describe.
pub(crate) fn markdown_table(values: &Value, schema: &Value) -> Result<String, String> {
    let mut table = "| value | default | meaning |\n| --- | --- | --- |\n".to_owned();
    push_rows("", values, schema, &mut table)?;
    Ok(table)
}

fn push_rows(path: &str, values: &Value, schema: &Value, table: &mut String) -> Result<(), String> {
    let fields = values.as_object().ok_or(format!("{path} is not an object"))?;
    let sorted: BTreeMap<_, _> = fields.iter().collect();
    for (field, value) in sorted {
        let path = if path.is_empty() {
            field.to_owned()
        } else {
            format!("{path}.{field}")
        };
        let property = &schema["properties"][field];
        let description = property["description"]
            .as_str()
            .ok_or(format!("the schema does not describe {path}"))?;
        if property["properties"].is_object() {
            push_rows(&path, value, property, table)?;
        } else {
            writeln!(table, "| `{path}` | `{value}` | {description} |").map_err(|error| error.to_string())?;
        }
    }
    Ok(())
}

/// Returns the values that the schema describes and `values.yaml` lacks.
pub(crate) fn missing_values(values: &Value, schema: &Value) -> Vec<String> {
    let Some(properties) = schema["properties"].as_object() else {
        return Vec::new();
    };
    properties
        .iter()
        .filter(|(field, _)| *field != "global")
        .flat_map(|(field, schema)| match values.get(field) {
            None => vec![field.clone()],
            Some(values) => missing_values(values, schema)
                .into_iter()
                .map(|inner| format!("{field}.{inner}"))
                .collect(),
        })
        .collect()
}
