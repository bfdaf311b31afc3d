//! Rows of one link: each combination of hub keys is hashed once and written once.

use std::collections::HashMap;

use uuid::Uuid;

use super::column::Column;
use super::hub::HubRows;
use crate::plan::slots::Scope;
use crate::plan::vault::Link;
use crate::vault::hash::{BusinessKey, hash_key};

/// Collector of the rows of one link.
#[derive(Debug)]
pub(super) struct LinkRows<'a> {
    link: &'a Link,
    /// Hash key of the link by combination of hub keys.
    keys: HashMap<Vec<Uuid>, Uuid>,
    /// Combination that was added last. A field, so that its memory is reused.
    combination: Vec<Uuid>,
    /// Hash key of that combination.
    current: Uuid,
}

impl<'a> LinkRows<'a> {
    pub(super) fn new(link: &'a Link) -> Self {
        Self {
            link,
            keys: HashMap::new(),
            combination: Vec::new(),
            current: Uuid::nil(),
        }
    }

    pub(super) fn scope(&self) -> Scope {
        self.link.scope
    }

    /// Hash key that was added last.
    pub(super) fn current_key(&self) -> Uuid {
        self.current
    }

    /// Links the hub keys that were added last.
    pub(super) fn add(&mut self, hubs: &[HubRows<'_>]) {
        self.combination.clear();
        let joined = self.link.hubs.iter().map(|&hub| &hubs[hub]);
        self.combination.extend(joined.clone().map(HubRows::current_key));
        if let Some(&key) = self.keys.get(self.combination.as_slice()) {
            self.current = key;
            return;
        }
        let business_keys: Vec<BusinessKey<'_>> = joined
            .flat_map(HubRows::current_business_key)
            .map(BusinessKey::from)
            .collect();
        self.current = hash_key(&self.link.name, &business_keys);
        self.keys.insert(self.combination.clone(), self.current);
    }

    /// Appends the rows, sorted by hash key.
    pub(super) fn append_to(self, columns: &mut Vec<Column>) {
        let mut rows: Vec<(Uuid, Vec<Uuid>)> = self.keys.into_iter().map(|(hubs, key)| (key, hubs)).collect();
        rows.sort_unstable();
        columns.push(Column::Uuid(rows.iter().map(|(key, _)| *key).collect()));
        for hub in 0..self.link.hubs.len() {
            columns.push(Column::Uuid(rows.iter().map(|(_, hubs)| hubs[hub]).collect()));
        }
    }
}
