//! The record: its key, and what orders its versions.

use std::collections::BTreeSet;

use super::known_fields::{KnownField, KnownFields};
use super::pointers::Pointers;
use super::violations::Violations;
use crate::model::field::{FieldOrigin, FieldScope, FieldType};
use crate::model::record::RecordModel;

/// Maximum number of elements of an array.
const MAX_ITEMS: u32 = 10_000;

/// Checks the pointers, the key and the version of the record.
pub(super) fn check(record: &RecordModel, fields: &KnownFields, violations: &mut Violations) {
    check_pointers(record, violations);
    let path = "spec.record.key";
    if let Some(key) = fields.get(&record.key, path, violations, is_of_record) {
        violations.require(
            is_of_record(&key) && matches!(key.type_, FieldType::Bigint | FieldType::Key),
            path,
            || {
                format!(
                    "`{}` cannot identify a record: use a field of spec.record.fields of the type bigint or key",
                    record.key
                )
            },
        );
    }
    violations.require(!record.version.is_empty(), "spec.record.version", || {
        "is empty: name the timestamp that orders the versions of a key".to_owned()
    });
    let mut seen = BTreeSet::new();
    for (index, part) in record.version.iter().enumerate() {
        let path = format!("spec.record.version[{index}]");
        let field_path = format!("{path}.field");
        violations.require(seen.insert(&part.field), &field_path, || {
            format!("`{}` orders the versions twice: remove one", part.field)
        });
        let Some(field) = fields.get(&part.field, &field_path, violations, is_of_record) else {
            continue;
        };
        violations.require(is_of_record(&field), &field_path, || {
            format!(
                "`{}` has no value of the record itself: use a field of spec.record.fields",
                part.field
            )
        });
        if index == 0 {
            violations.require(field.type_ == FieldType::Timestamp, &field_path, || {
                format!(
                    "`{}` is not a timestamp: a version is valid from the time in the first field",
                    part.field
                )
            });
        }
        check_rank(&path, &part.rank, field.type_, violations);
    }
}

fn check_pointers(record: &RecordModel, violations: &mut Violations) {
    let mut pointers = Pointers::default();
    let path = "spec.record";
    for (index, accept) in record.accept.iter().enumerate() {
        let path = format!("{path}.accept[{index}]");
        pointers.add(&accept.pointer, &format!("{path}.pointer"), violations);
        violations.require(!accept.texts.is_empty(), &format!("{path}.in"), || {
            "is empty: list the texts of the records that are processed".to_owned()
        });
    }
    for (index, field) in record.fields.iter().enumerate() {
        pointers.add(
            &field.pointer,
            &format!("{path}.fields[{index}].pointer"),
            violations,
        );
    }
    for (index, array) in record.arrays.iter().enumerate() {
        let path = format!("{path}.arrays[{index}]");
        pointers.add(&array.pointer, &format!("{path}.pointer"), violations);
        let mut elements = Pointers::default();
        for (index, field) in array.fields.iter().enumerate() {
            elements.add(
                &field.pointer,
                &format!("{path}.fields[{index}].pointer"),
                violations,
            );
        }
        violations.require(
            (1..=MAX_ITEMS).contains(&array.max_items),
            &format!("{path}.maxItems"),
            || format!("is out of range: must be between 1 and {MAX_ITEMS}"),
        );
    }
}

fn check_rank(path: &str, rank: &[String], type_: FieldType, violations: &mut Violations) {
    let path = format!("{path}.rank");
    let mut seen = BTreeSet::new();
    for (index, value) in rank.iter().enumerate() {
        violations.require(seen.insert(value), &format!("{path}[{index}]"), || {
            format!("`{value}` has two ranks: remove one")
        });
    }
    match type_ {
        FieldType::Text | FieldType::Key => {
            violations.require(!rank.is_empty(), &path, || {
                "is missing: list the values of the text, the earliest first".to_owned()
            });
        }
        FieldType::Money => violations.add(
            path,
            "an amount of money does not order versions: use a timestamp, an integer or a ranked text",
        ),
        FieldType::Bigint | FieldType::Integer | FieldType::Timestamp => {
            violations.require(rank.is_empty(), &path, || {
                "ranks the values of a text only: remove it".to_owned()
            });
        }
    }
}

/// Returns true for a field of the record itself.
fn is_of_record(field: &KnownField) -> bool {
    field.scope == FieldScope::Record && field.origin == FieldOrigin::Record
}
