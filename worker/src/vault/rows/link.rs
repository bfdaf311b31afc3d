//! The rows of one link: each combination of hubs once, and hashed once.

use std::borrow::Cow;
use std::collections::HashMap;

use uuid::Uuid;

use super::Column;
use super::hub::HubRows;
use crate::vault::hash::hash_key;
use crate::vault::model::{Hub, Link, Model};
use crate::vault::order::Scope;

/// What a batch knows of one link.
#[derive(Debug)]
pub(super) struct LinkRows {
    link: &'static Link,
    scope: Scope,
    /// Which hubs of the model it joins.
    hubs: Vec<usize>,
    /// The key of each combination of hub keys.
    known: HashMap<Vec<Uuid>, Uuid>,
    /// The combination that was added last, and its key.
    combination: Vec<Uuid>,
    current: Uuid,
}

impl LinkRows {
    pub(super) fn new(link: &'static Link, model: &Model) -> Self {
        Self {
            link,
            scope: link.scope(),
            hubs: link.hubs.iter().map(|hub| position(hub, model)).collect(),
            known: HashMap::new(),
            combination: Vec::new(),
            current: Uuid::nil(),
        }
    }

    pub(super) fn scope(&self) -> Scope {
        self.scope
    }

    /// The key that was added last.
    pub(super) fn current_key(&self) -> Uuid {
        self.current
    }

    /// Links what the hubs were given last.
    pub(super) fn add(&mut self, hubs: &[HubRows<'_>]) {
        self.combination.clear();
        self.combination
            .extend(self.hubs.iter().map(|&hub| hubs[hub].current_key()));
        if let Some(&known) = self.known.get(self.combination.as_slice()) {
            self.current = known;
            return;
        }
        let texts: Vec<Cow<'_, str>> = self
            .hubs
            .iter()
            .map(|&hub| hubs[hub].current_business_key().text())
            .collect();
        let texts: Vec<&str> = texts.iter().map(AsRef::as_ref).collect();
        self.current = hash_key(self.link.name, &texts);
        self.known.insert(self.combination.clone(), self.current);
    }

    pub(super) fn append_to(self, columns: &mut Vec<Column>) {
        let mut rows: Vec<(Uuid, Vec<Uuid>)> =
            self.known.into_iter().map(|(hubs, key)| (key, hubs)).collect();
        rows.sort_unstable();
        columns.push(Column::Uuid(rows.iter().map(|(key, _)| *key).collect()));
        for hub in 0..self.hubs.len() {
            columns.push(Column::Uuid(rows.iter().map(|(_, hubs)| hubs[hub]).collect()));
        }
    }
}

/// The place of a hub in its model.
pub(super) fn position(hub: &Hub, model: &Model) -> usize {
    model
        .hubs
        .iter()
        .position(|other| other.name == hub.name)
        .expect("a model holds the hubs that its links join")
}
