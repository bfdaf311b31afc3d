//! Fields that a model declares, and the message for a name that it does not declare.

use std::collections::BTreeMap;

use super::violations::Violations;
use crate::model::field::{FieldOrigin, FieldScope, FieldType, ModelField};

/// Fields of a model by name.
pub(super) struct KnownFields(pub(super) BTreeMap<String, KnownField>);

/// Properties of a field that other parts of the model depend on.
#[derive(Clone, Copy)]
pub(super) struct KnownField {
    pub(super) type_: FieldType,
    pub(super) scope: FieldScope,
    pub(super) origin: FieldOrigin,
}

impl KnownFields {
    pub(super) fn new(fields: &[ModelField<'_>]) -> Self {
        let known = fields.iter().map(|field| {
            let known = KnownField {
                type_: field.field.type_,
                scope: field.scope,
                origin: field.origin,
            };
            (field.field.name.clone(), known)
        });
        Self(known.collect())
    }

    /// Returns a field, or adds a violation that lists the fields that `is_candidate` accepts.
    pub(super) fn get(
        &self,
        name: &str,
        path: &str,
        violations: &mut Violations,
        is_candidate: impl Fn(&KnownField) -> bool,
    ) -> Option<KnownField> {
        let known = self.0.get(name).copied();
        if known.is_none() {
            let candidates = self.0.iter().filter(|(_, field)| is_candidate(field));
            let candidates: Vec<&str> = candidates.map(|(name, _)| name.as_str()).collect();
            violations.add(path, unknown("a field", name, &candidates));
        }
        known
    }
}

/// Message for a name that is not declared.
pub(super) fn unknown(kind: &str, name: &str, candidates: &[&str]) -> String {
    const MAX_CANDIDATES: usize = 10;
    if candidates.is_empty() {
        return format!("`{name}` is not {kind}: declare it");
    }
    let shown = candidates[..candidates.len().min(MAX_CANDIDATES)].join(", ");
    let others = if candidates.len() > MAX_CANDIDATES {
        ", …"
    } else {
        ""
    };
    format!("`{name}` is not {kind}: use one of {shown}{others}, or declare it")
}
