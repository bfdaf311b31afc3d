//! Who owns which field of an object.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

/// The way to a value: `f:<field>`, or `k:<key>` of an item in a list of named things.
pub(super) type Path = Vec<String>;
/// The fields of each manager, by operation, subresource and name.
pub(super) type Owners = BTreeMap<(&'static str, String, String), BTreeSet<Path>>;

/// What identifies an object rather than describes it.
const IDENTITY: [&str; 8] = [
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "managedFields",
    "deletionTimestamp",
];

/// Every value that has an owner of its own, with the way to it.
pub(super) fn leaves(object: &Value) -> BTreeMap<Path, Value> {
    let mut described = object.clone();
    let fields = described.as_object_mut().expect("an object");
    fields.retain(|field, _| field != "apiVersion" && field != "kind");
    if let Some(Value::Object(metadata)) = fields.get_mut("metadata") {
        metadata.retain(|field, _| !IDENTITY.contains(&field.as_str()));
    }
    fields.retain(|_, value| *value != json!({}));
    let mut found = BTreeMap::new();
    collect(&described, &Path::new(), &mut found);
    found
}

fn collect(value: &Value, path: &Path, found: &mut BTreeMap<Path, Value>) {
    let mut inner = |part: String, value: &Value| collect(value, &[path.as_slice(), &[part]].concat(), found);
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (field, value) in fields {
                inner(format!("f:{field}"), value);
            }
        }
        Value::Array(items) if !items.is_empty() && items.iter().all(|item| item_key(item).is_some()) => {
            for item in items {
                inner(item_key(item).unwrap_or_default(), item);
            }
        }
        leaf => drop(found.insert(path.clone(), leaf.clone())),
    }
}

/// What tells an item of a list of named things from the others.
fn item_key(item: &Value) -> Option<String> {
    let keys = ["uid", "name", "type"].into_iter();
    let mut found = keys.filter_map(|key| Some((key, item.get(key)?.as_str()?)));
    found
        .next()
        .map(|(key, value)| format!("k:{}", json!({key: value})))
}

/// Sets the value at `path`, and makes what is missing on the way.
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
    let items = object.as_array_mut().expect("a list");
    let index = items
        .iter()
        .position(|item| item_key(item).as_ref() == Some(part));
    let index = index.unwrap_or_else(|| {
        items.push(serde_json::from_str(&part[2..]).expect("a key"));
        items.len() - 1
    });
    set(&mut items[index], rest, leaf);
}

/// Removes the value at `path`, and what becomes empty by it.
pub(super) fn remove(object: &mut Value, path: &[String]) {
    let Some((part, rest)) = path.split_first() else {
        *object = Value::Null;
        return;
    };
    let is_gone = |value: &Value| match value {
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
            if is_gone(value) {
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
            // The item keeps its key until its last other field is gone.
            remove(&mut items[index], rest);
            if is_gone(&items[index]) || item_key(&items[index]).is_none() {
                items.remove(index);
            }
        }
        _ => {}
    }
}

/// The owners as `metadata.managedFields` writes them.
pub(super) fn managed_fields(owners: &Owners) -> Value {
    let entries = owners.iter().filter(|(_, paths)| !paths.is_empty());
    let entries = entries.map(|((operation, subresource, manager), paths)| {
        let mut fields = Map::new();
        for path in paths {
            path.iter().fold(&mut fields, |fields, part| {
                let inner = fields.entry(part).or_insert_with(|| json!({}));
                inner.as_object_mut().expect("an object")
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
