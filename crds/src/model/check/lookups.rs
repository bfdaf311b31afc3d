//! Lookups: the fields that are their keys.

use super::known_fields::{KnownField, KnownFields};
use super::violations::Violations;
use crate::model::field::{FieldOrigin, FieldType};
use crate::model::spec::StreamModelSpec;

/// Checks the keys of the lookups.
pub(super) fn check(model: &StreamModelSpec, fields: &KnownFields, violations: &mut Violations) {
    for (number, lookup) in model.lookups.iter().enumerate() {
        let path = format!("spec.lookups[{number}]");
        check_key(&lookup.key, &format!("{path}.key"), fields, violations);
        if let Some(index) = &lookup.index {
            check_key(&index.key, &format!("{path}.index.key"), fields, violations);
        } else {
            violations.require(!lookup.fields.is_empty(), &format!("{path}.fields"), || {
                "is empty: add a field of the entry, or an index".to_owned()
            });
        }
    }
}

fn check_key(name: &str, path: &str, fields: &KnownFields, violations: &mut Violations) {
    let is_key = |field: &KnownField| field.type_ == FieldType::Key && field.origin == FieldOrigin::Record;
    if let Some(field) = fields.get(name, path, violations, is_key) {
        violations.require(is_key(&field), path, || {
            format!("`{name}` cannot be looked up: use a field of the record with the type key")
        });
    }
}
