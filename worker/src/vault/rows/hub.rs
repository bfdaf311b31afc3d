//! Rows of one hub: each business key is hashed once and written once.

use std::borrow::Cow;
use std::collections::HashMap;

use crds::contract::normalize;
use uuid::Uuid;

use super::column::Column;
use crate::vault::hash::{BusinessKey, hash_key};
use crate::vault::model::Hub;
use crate::vault::order::{Scope, Source, Value};

/// Collector of the rows of one hub.
#[derive(Debug)]
pub(super) struct HubRows<'a> {
    hub: &'static Hub,
    scope: Scope,
    /// Index in `rows` of each business key in its original encoding. Different encodings of one key have equal rows,
    /// of which only one is written.
    indices: HashMap<Value<'a>, usize>,
    rows: Vec<HubRow<'a>>,
    /// Index in `rows` of the key that was added last.
    current: usize,
}

#[derive(Debug)]
struct HubRow<'a> {
    key: Uuid,
    /// Normalized, because a row must not depend on the encoding that arrived first.
    business_key: Value<'a>,
}

impl<'a> HubRows<'a> {
    pub(super) fn new(hub: &'static Hub) -> Self {
        let scope = hub.business_key.field.scope();
        Self {
            hub,
            scope,
            indices: HashMap::new(),
            rows: Vec::new(),
            current: 0,
        }
    }

    pub(super) fn scope(&self) -> Scope {
        self.scope
    }

    /// Hash key that was added last.
    pub(super) fn current_key(&self) -> Uuid {
        self.rows[self.current].key
    }

    /// Business key that was added last, normalized.
    pub(super) fn current_business_key(&self) -> &Value<'a> {
        &self.rows[self.current].business_key
    }

    /// Adds the business key of the source, unless the hub is one per line and the source is the order itself.
    pub(super) fn add(&mut self, source: Source<'_, 'a>) {
        let Some(value) = source.value(self.hub.business_key.field) else {
            return;
        };
        if let Some(&index) = self.indices.get(&value) {
            self.current = index;
            return;
        }
        self.current = self.rows.len();
        self.rows.push(HubRow {
            key: hash_key(self.hub.name, &[value_key(&value)]),
            business_key: normalize_value(&value),
        });
        self.indices.insert(value, self.current);
    }

    /// Appends the rows, sorted by hash key and distinct.
    pub(super) fn append_to(mut self, columns: &mut Vec<Column>) {
        self.rows.sort_unstable_by_key(|row| row.key);
        self.rows.dedup_by_key(|row| row.key);
        columns.push(Column::Uuid(self.rows.iter().map(|row| row.key).collect()));
        let kind = self.hub.business_key.field.kind();
        columns.push(Column::from_values(
            kind,
            self.rows.iter().map(|row| &row.business_key),
        ));
    }
}

/// Returns a value as a business key.
pub(super) fn value_key<'v>(value: &'v Value<'_>) -> BusinessKey<'v> {
    match value {
        Value::Text(text) => BusinessKey::Text(text),
        Value::BigInt(number) => BusinessKey::Number(*number),
        Value::Integer(number) => BusinessKey::Number((*number).into()),
        Value::Numeric(_) | Value::Micros(_) => {
            unreachable!("no hub has an amount or a time as its business key")
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
