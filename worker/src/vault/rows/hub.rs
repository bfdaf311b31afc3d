//! Rows of one hub: each business key is hashed once and written once.

use std::borrow::Cow;
use std::collections::HashMap;

use crds::contract::normalize;
use uuid::Uuid;

use super::column::Column;
use crate::plan::slots::Scope;
use crate::plan::vault::Hub;
use crate::vault::hash::{BusinessKey, hash_key};
use crate::vault::row::{Source, Value};

/// Collector of the rows of one hub.
#[derive(Debug)]
pub(super) struct HubRows<'a> {
    hub: &'a Hub,
    /// Index in `rows` of each business key in its original encoding. Different encodings of one key have equal rows,
    /// of which only one is written.
    indices: HashMap<Box<[Value<'a>]>, usize>,
    rows: Vec<HubRow<'a>>,
    /// Index in `rows` of the key that was added last.
    current: usize,
    /// Business key that was added last. A field, so that its memory is reused.
    business_key: Vec<Value<'a>>,
}

#[derive(Debug)]
struct HubRow<'a> {
    key: Uuid,
    /// Normalized, because a row must not depend on the encoding that arrived first.
    business_key: Box<[Value<'a>]>,
}

impl<'a> HubRows<'a> {
    pub(super) fn new(hub: &'a Hub) -> Self {
        Self {
            hub,
            indices: HashMap::new(),
            rows: Vec::new(),
            current: 0,
            business_key: Vec::new(),
        }
    }

    pub(super) fn scope(&self) -> Scope {
        self.hub.scope
    }

    /// Hash key that was added last.
    pub(super) fn current_key(&self) -> Uuid {
        self.rows[self.current].key
    }

    /// Business key that was added last, normalized.
    pub(super) fn current_business_key(&self) -> &[Value<'a>] {
        &self.rows[self.current].business_key
    }

    /// Adds the business key of the source.
    pub(super) fn add(&mut self, source: Source<'a, '_>) {
        self.business_key.clear();
        let columns = self.hub.business_key.iter();
        self.business_key
            .extend(columns.map(|column| source.value(column.slot)));
        if let Some(&index) = self.indices.get(self.business_key.as_slice()) {
            self.current = index;
            return;
        }
        self.current = self.rows.len();
        let business_keys: Vec<BusinessKey<'_>> = self.business_key.iter().map(BusinessKey::from).collect();
        self.rows.push(HubRow {
            key: hash_key(&self.hub.name, &business_keys),
            business_key: self.business_key.iter().map(normalize_value).collect(),
        });
        self.indices
            .insert(self.business_key.as_slice().into(), self.current);
    }

    /// Appends the rows, sorted by hash key and distinct.
    pub(super) fn append_to(mut self, columns: &mut Vec<Column>) {
        self.rows.sort_unstable_by_key(|row| row.key);
        self.rows.dedup_by_key(|row| row.key);
        columns.push(Column::Uuid(self.rows.iter().map(|row| row.key).collect()));
        for (index, column) in self.hub.business_key.iter().enumerate() {
            let values = self.rows.iter().map(|row| &row.business_key[index]);
            columns.push(Column::from_values(column.kind, values));
        }
    }
}

fn normalize_value<'a>(value: &Value<'a>) -> Value<'a> {
    match value {
        Value::Text(Cow::Borrowed(text)) => Value::Text(normalize(text)),
        Value::Text(text) => Value::Text(normalize(text).into_owned().into()),
        other => other.clone(),
    }
}
