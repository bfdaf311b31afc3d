//! Field ownership of server-side apply.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

/// Path to a value: `f:FIELD`, or `k:KEY` of an item in an associative list.
pub(super) type FieldPath = Vec<String>;
/// Owned fields of each manager, by operation, subresource and manager name.
pub(super) type Owners = BTreeMap<(&'static str, String, String), BTreeSet<FieldPath>>;

/// Metadata fields without field ownership.
const UNOWNED_METADATA: [&str; 8] = [
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "managedFields",
    "deletionTimestamp",
];

/// Returns every value with its own ownership, by path.
pub(super) fn leaves(object: &Value) -> BTreeMap<FieldPath, Value> {
    let mut content = object.clone();
    let fields = content.as_object_mut().expect("it is an object");
    fields.retain(|field, _| field != "apiVersion" && field != "kind");
    if let Some(Value::Object(metadata)) = fields.get_mut("metadata") {
        metadata.retain(|field, _| !UNOWNED_METADATA.contains(&field.as_str()));
    }
    fields.retain(|_, value| *value != json!({}));
    let mut leaves = BTreeMap::new();
    collect_leaves(&content, &FieldPath::new(), &mut leaves);
    leaves
}

fn collect_leaves(value: &Value, path: &FieldPath, leaves: &mut BTreeMap<FieldPath, Value>) {
    let mut descend = |part: String, value: &Value| {
        collect_leaves(value, &[path.as_slice(), &[part]].concat(), leaves);
    };
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (field, value) in fields {
                descend(format!("f:{field}"), value);
            }
        }
        Value::Array(items) if !items.is_empty() && items.iter().all(|item| item_key(item).is_some()) => {
            for item in items {
                descend(item_key(item).unwrap_or_default(), item);
            }
        }
        leaf => drop(leaves.insert(path.clone(), leaf.clone())),
    }
}

/// Key of an item in an associative list; `None` for another value.
fn item_key(item: &Value) -> Option<String> {
    let keys = ["uid", "name", "type"].into_iter();
    let mut present = keys.filter_map(|key| Some((key, item.get(key)?.as_str()?)));
    present
        .next()
        .map(|(key, value)| format!("k:{}", json!({key: value})))
}

/// Sets the value at `path` and creates missing parents.
pub(super) fn set(object: &mut Value, path: &[String], leaf: Value) {
    let Some((part, rest)) = path.split_first() else {
        *object = leaf;
        return;
    };
    if let Some(field) = part.strip_prefix("f:") {
        if !object.is_object() {
            *object = json!({});
        }
        return set(&mut object[field], rest, leaf);
    }
    if !object.is_array() {
        *object = json!([]);
    }
    let items = object.as_array_mut().expect("it is a list");
    let index = items
        .iter()
        .position(|item| item_key(item).as_ref() == Some(part));
    let index = index.unwrap_or_else(|| {
        items.push(serde_json::from_str(&part[2..]).expect("the path has a valid key"));
        items.len() - 1
    });
    set(&mut items[index], rest, leaf);
}

/// Removes the value at `path` and parents that become empty.
pub(super) fn remove(object: &mut Value, path: &[String]) {
    let Some((part, rest)) = path.split_first() else {
        *object = Value::Null;
        return;
    };
    let is_empty = |value: &Value| match value {
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        other => other.is_null(),
    };
    match (object, part.strip_prefix("f:")) {
        (Value::Object(fields), Some(field)) => {
            let Some(value) = fields.get_mut(field) else {
                return;
            };
            remove(value, rest);
            if is_empty(value) {
                fields.remove(field);
            }
        }
        (Value::Array(items), None) => {
            let Some(index) = items
                .iter()
                .position(|item| item_key(item).as_ref() == Some(part))
            else {
                return;
            };
            // The key of an item is removed with its last other field.
            remove(&mut items[index], rest);
            if is_empty(&items[index]) || item_key(&items[index]).is_none() {
                items.remove(index);
            }
        }
        _ => {}
    }
}

/// Formats the owners as `metadata.managedFields`.
pub(super) fn managed_fields(owners: &Owners) -> Value {
    let entries = owners.iter().filter(|(_, paths)| !paths.is_empty());
    let entries = entries.map(|((operation, subresource, manager), paths)| {
        let mut fields = Map::new();
        for path in paths {
            path.iter().fold(&mut fields, |fields, part| {
                let inner = fields.entry(part).or_insert_with(|| json!({}));
                inner.as_object_mut().expect("it is an object")
            });
        }
        let mut entry =
            json!({"manager": manager, "operation": operation, "fieldsType": "FieldsV1", "fieldsV1": fields});
        if !subresource.is_empty() {
            entry["subresource"] = json!(subresource);
        }
        entry
    });
    entries.collect()
}
