//! Lookups: their pointers, and the fields that are their keys.

use super::known_fields::{KnownField, KnownFields};
use super::pointers::Pointers;
use super::violations::Violations;
use crate::model::field::{FieldOrigin, FieldType};
use crate::model::lookup::Lookup;
use crate::model::spec::StreamModelSpec;

/// Checks the pointers and the keys of the lookups.
pub(super) fn check(model: &StreamModelSpec, fields: &KnownFields, violations: &mut Violations) {
    for (number, lookup) in model.lookups.iter().enumerate() {
        let path = format!("spec.lookups[{number}]");
        check_key(&lookup.key, &format!("{path}.key"), fields, violations);
        check_pointers(lookup, &path, violations);
        if let Some(index) = &lookup.index {
            check_key(&index.key, &format!("{path}.index.key"), fields, violations);
        } else {
            violations.require(!lookup.fields.is_empty(), &format!("{path}.fields"), || {
                "is empty: add a field of the entry, or an index".to_owned()
            });
        }
    }
}

fn check_pointers(lookup: &Lookup, path: &str, violations: &mut Violations) {
    let mut pointers = Pointers::default();
    if let Some(version) = &lookup.version {
        pointers.add(&version.pointer, &format!("{path}.version.pointer"), violations);
    }
    for (index, field) in lookup.fields.iter().enumerate() {
        pointers.add(
            &field.pointer,
            &format!("{path}.fields[{index}].pointer"),
            violations,
        );
    }
    if let Some(index) = &lookup.index {
        pointers.add(&index.pointer, &format!("{path}.index.pointer"), violations);
        let mut items = Pointers::default();
        items.add(&index.by, &format!("{path}.index.by"), violations);
        for (number, field) in index.fields.iter().enumerate() {
            items.add(
                &field.pointer,
                &format!("{path}.index.fields[{number}].pointer"),
                violations,
            );
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
