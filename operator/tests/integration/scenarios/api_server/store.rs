//! Stored objects, their resource versions and their history.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::apply::{Owners, leaves, managed_fields, remove, set};

/// Key of an object; an empty namespace or name matches all.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) group: String,
    pub(crate) resource: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// Change in the form of a watch event.
pub(crate) struct WatchEvent {
    pub(crate) kind: &'static str,
    pub(crate) object: Value,
}

/// Object before and after a write.
#[derive(Debug)]
struct HistoryEntry {
    version: u64,
    key: Key,
    before: Option<Value>,
    after: Option<Value>,
}

#[derive(Debug, Default)]
pub(super) struct Store {
    version: u64,
    objects: BTreeMap<Key, Value>,
    owners: BTreeMap<Key, Owners>,
    history: Vec<HistoryEntry>,
}

/// Status code and object, or status code and error message.
pub(super) type WriteResult = Result<(u16, Value), (u16, String)>;

impl Key {
    pub(crate) fn new(resource: &str, namespace: &str, name: &str) -> Self {
        let (group, _, _) = kind_of(resource);
        let [resource, namespace, name] = [resource, namespace, name].map(str::to_owned);
        Self {
            group: group.to_owned(),
            resource,
            namespace,
            name,
        }
    }

    fn covers(&self, other: &Self) -> bool {
        self.group == other.group
            && self.resource == other.resource
            && (self.namespace.is_empty() || self.namespace == other.namespace)
    }
}

impl Store {
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Value> {
        self.objects.get(key)
    }

    pub(super) fn select<'a>(&'a self, scope: &'a Key, selector: &'a str) -> impl Iterator<Item = &'a Value> {
        let objects = self.objects.iter().filter(|(key, _)| scope.covers(key));
        objects
            .map(|(_, object)| object)
            .filter(|object| matches(object, selector))
    }

    pub(super) fn changes(&self, scope: &Key, selector: &str, from: u64) -> Vec<WatchEvent> {
        let entries = self
            .history
            .iter()
            .filter(|entry| entry.version > from && scope.covers(&entry.key));
        let changes = entries.filter_map(|entry| {
            let [before, after] = [&entry.before, &entry.after]
                .map(|object| object.as_ref().filter(|object| matches(object, selector)));
            let (kind, object) = match (before, after) {
                (None, None) => return None,
                (None, Some(after)) => ("ADDED", after),
                (Some(_), Some(after)) => ("MODIFIED", after),
                (Some(before), None) => ("DELETED", before),
            };
            let mut object = object.clone();
            object["metadata"]["resourceVersion"] = json!(entry.version.to_string());
            Some(WatchEvent { kind, object })
        });
        changes.collect()
    }

    /// Server-side apply with `force=true`.
    pub(super) fn apply(&mut self, key: &Key, subresource: &str, manager: &str, body: &Value) -> WriteResult {
        let live = self.objects.get(key);
        let precondition = |field: &str| body["metadata"].get(field).filter(|value| !value.is_null());
        for field in ["uid", "resourceVersion"] {
            if precondition(field)
                .is_some_and(|value| live.is_none_or(|live| live["metadata"][field] != *value))
            {
                return Err((409, format!("precondition failed: {field} of {}", key.name)));
            }
        }
        if live.is_none() && !subresource.is_empty() {
            return Err((404, format!("{} not found", key.name)));
        }
        let mut object = live.cloned().unwrap_or_else(|| new_object(key));
        let mut applied = leaves(body);
        applied.retain(|path, _| (path[0] == "f:status") == (subresource == "status"));
        let mut owners = self.owners.get(key).cloned().unwrap_or_default();
        let manager_key = ("Apply", subresource.to_owned(), manager.to_owned());
        let dropped = owners.remove(&manager_key).unwrap_or_default();
        for path in dropped.iter().filter(|path| !applied.contains_key(*path)) {
            if !owners.values().any(|paths| paths.contains(path)) {
                remove(&mut object, path);
            }
        }
        let present = leaves(&object);
        for (path, value) in &applied {
            // An applied empty object does not remove fields of other managers inside it.
            let has_other_fields = *value == json!({}) && present.keys().any(|other| other.starts_with(path));
            if present.get(path) != Some(value) && !has_other_fields {
                for paths in owners.values_mut() {
                    paths.retain(|owned| owned != path);
                }
                set(&mut object, path, value.clone());
            }
        }
        owners.insert(manager_key, applied.into_keys().collect());
        Ok(self.store(key, object, owners))
    }

    /// Update without server-side apply, as by `kubectl edit` or a controller.
    pub(super) fn update(&mut self, key: &Key, manager: &str, change: impl FnOnce(&mut Value)) {
        let before = self.objects.get(key).cloned().unwrap_or_else(|| new_object(key));
        let mut object = before.clone();
        change(&mut object);
        let (old, new) = (leaves(&before), leaves(&object));
        let mut owners = self.owners.get(key).cloned().unwrap_or_default();
        let mut changed = BTreeSet::new();
        for path in old
            .keys()
            .chain(new.keys())
            .filter(|path| old.get(*path) != new.get(*path))
        {
            for paths in owners.values_mut() {
                paths.retain(|owned| owned != path);
            }
            changed.extend(new.contains_key(path).then(|| path.clone()));
        }
        let manager_key = ("Update", String::new(), manager.to_owned());
        owners.entry(manager_key).or_default().extend(changed);
        self.store(key, object, owners);
    }

    pub(super) fn create(&mut self, key: &Key, body: &Value) -> WriteResult {
        let mut key = key.clone();
        key.name = match body["metadata"]["name"].as_str() {
            Some(name) => name.to_owned(),
            None => format!(
                "{}{}",
                body["metadata"]["generateName"].as_str().unwrap_or_default(),
                self.version
            ),
        };
        if self.objects.contains_key(&key) {
            return Err((409, format!("{} already exists", key.name)));
        }
        let mut object = body.clone();
        object["metadata"]["name"] = json!(key.name);
        Ok(self.store(&key, object, Owners::new()))
    }

    pub(super) fn merge(&mut self, key: &Key, body: &Value) -> WriteResult {
        let live = self.objects.get(key).cloned();
        let mut object = live.ok_or_else(|| (404, format!("{} not found", key.name)))?;
        for (path, value) in leaves(body) {
            set(&mut object, &path, value);
        }
        let owners = self.owners.get(key).cloned().unwrap_or_default();
        Ok(self.store(key, object, owners))
    }

    /// Deletes an object and, like the garbage collector, its dependents.
    pub(super) fn delete(&mut self, key: &Key) {
        let Some(object) = self.objects.remove(key) else {
            return;
        };
        self.owners.remove(key);
        let uid = object["metadata"]["uid"].clone();
        self.version += 1;
        self.history.push(HistoryEntry {
            version: self.version,
            key: key.clone(),
            before: Some(object),
            after: None,
        });
        let dependents = self.objects.iter().filter(|(_, object)| {
            let owners = object["metadata"]["ownerReferences"].as_array();
            owners.into_iter().flatten().any(|owner| owner["uid"] == uid)
        });
        let dependents: Vec<Key> = dependents.map(|(key, _)| key.clone()).collect();
        for key in &dependents {
            self.delete(key);
        }
    }

    /// Stores the result of a write. A write without a change gets no new resource version.
    fn store(&mut self, key: &Key, mut object: Value, owners: Owners) -> (u16, Value) {
        let before = self.objects.get(key).cloned();
        if key.resource == "deployments" && object["spec"]["replicas"].is_null() {
            object["spec"]["replicas"] = json!(1);
        }
        let metadata = &mut object["metadata"];
        metadata["managedFields"] = managed_fields(&owners);
        if metadata["uid"].is_null() {
            let second = self.version + 1;
            metadata["uid"] = json!(format!("uid-{second}"));
            let (hours, minutes, seconds) = (second / 3600, second / 60 % 60, second % 60);
            metadata["creationTimestamp"] =
                json!(format!("2024-02-24T{hours:02}:{minutes:02}:{seconds:02}Z"));
        }
        let is_same_spec = before
            .as_ref()
            .is_some_and(|before| before["spec"] == object["spec"]);
        if !object["spec"].is_null() && !is_same_spec {
            let generation = before
                .as_ref()
                .and_then(|before| before["metadata"]["generation"].as_i64());
            object["metadata"]["generation"] = json!(generation.unwrap_or(0) + 1);
        }
        self.owners.insert(key.clone(), owners);
        if before.as_ref() == Some(&object) {
            return (200, object);
        }
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let code = if before.is_some() { 200 } else { 201 };
        self.objects.insert(key.clone(), object.clone());
        self.history.push(HistoryEntry {
            version: self.version,
            key: key.clone(),
            before,
            after: Some(object.clone()),
        });
        (code, object)
    }
}

/// Group, version and kind of a resource.
fn kind_of(resource: &str) -> (&'static str, &'static str, &'static str) {
    match resource {
        "streamstages" => ("streamstage.dev", "v1alpha1", "StreamStage"),
        "deployments" => ("apps", "v1", "Deployment"),
        "poddisruptionbudgets" => ("policy", "v1", "PodDisruptionBudget"),
        "events" => ("events.k8s.io", "v1", "Event"),
        "leases" => ("coordination.k8s.io", "v1", "Lease"),
        "configmaps" => ("", "v1", "ConfigMap"),
        "serviceaccounts" => ("", "v1", "ServiceAccount"),
        "services" => ("", "v1", "Service"),
        "secrets" => ("", "v1", "Secret"),
        _ => ("", "v1", "Pod"),
    }
}

fn new_object(key: &Key) -> Value {
    let (group, version, kind) = kind_of(&key.resource);
    let api_version = [group, version].join("/");
    json!({
        "apiVersion": api_version.trim_start_matches('/'),
        "kind": kind,
        "metadata": {"name": key.name, "namespace": key.namespace},
    })
}

/// Returns true if the object has the labels of an equality selector.
fn matches(object: &Value, selector: &str) -> bool {
    let mut terms = selector.split(',').filter_map(|term| term.split_once('='));
    terms.all(|(label, value)| object["metadata"]["labels"][label] == value)
}
