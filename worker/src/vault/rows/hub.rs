//! The rows of one hub: each business key once, and hashed once.

use std::borrow::Cow;
use std::collections::HashMap;

use uuid::Uuid;

use super::Column;
use crate::vault::hash::{hash_key, normalise};
use crate::vault::model::Hub;
use crate::vault::order::{Scope, Source, Value};

/// What a batch knows of one hub.
#[derive(Debug)]
pub(super) struct HubRows<'a> {
    hub: &'static Hub,
    scope: Scope,
    /// Where each business key, as it was spelt, stands in `rows`. Spellings of one key have rows of their own
    /// here; they are equal, and only one is written.
    known: HashMap<Value<'a>, usize>,
    rows: Vec<HubRow<'a>>,
    current: usize,
}

#[derive(Debug)]
struct HubRow<'a> {
    key: Uuid,
    /// Normalised: a row must not depend on the spelling that came first.
    business_key: Value<'a>,
}

impl<'a> HubRows<'a> {
    pub(super) fn new(hub: &'static Hub) -> Self {
        let scope = hub.business_key.field.scope();
        Self {
            hub,
            scope,
            known: HashMap::new(),
            rows: Vec::new(),
            current: 0,
        }
    }

    pub(super) fn scope(&self) -> Scope {
        self.scope
    }

    /// The key that was added last.
    pub(super) fn current_key(&self) -> Uuid {
        self.rows[self.current].key
    }

    /// The business key that was added last, normalised.
    pub(super) fn current_business_key(&self) -> &Value<'a> {
        &self.rows[self.current].business_key
    }

    pub(super) fn add(&mut self, source: Source<'_, 'a>) {
        let Some(value) = source.value(self.hub.business_key.field) else {
            return;
        };
        if let Some(&known) = self.known.get(&value) {
            self.current = known;
            return;
        }
        self.current = self.rows.len();
        self.rows.push(HubRow {
            key: hash_key(self.hub.name, &[&value.text()]),
            business_key: normal(&value),
        });
        self.known.insert(value, self.current);
    }

    pub(super) fn append_to(mut self, columns: &mut Vec<Column>) {
        self.rows.sort_unstable_by_key(|row| row.key);
        self.rows.dedup_by_key(|row| row.key);
        columns.push(Column::Uuid(self.rows.iter().map(|row| row.key).collect()));
        let kind = self.hub.business_key.field.kind();
        columns.push(Column::gather(
            kind,
            self.rows.iter().map(|row| &row.business_key),
        ));
    }
}

fn normal<'a>(value: &Value<'a>) -> Value<'a> {
    match value {
        Value::Text(Cow::Borrowed(text)) => Value::Text(normalise(text)),
        Value::Text(text) => Value::Text(normalise(text).into_owned().into()),
        other => other.clone(),
    }
}
