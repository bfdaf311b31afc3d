//! Names: their form, and that each is declared once.

use std::collections::BTreeMap;

use super::violations::Violations;
use crate::model::field::{FieldType, MAX_NAME_LENGTH, ModelField};
use crate::model::spec::StreamModelSpec;
use crate::model::vault::{MAX_TABLE_NAME_LENGTH, effectivity_name};

/// Checks every declared name.
pub(super) fn check(model: &StreamModelSpec, fields: &[ModelField<'_>], violations: &mut Violations) {
    let mut declared = Declared::default();
    for field in fields {
        let path = &field.path;
        check_name(&field.field.name, &format!("{path}.name"), violations);
        declared.add(&field.field.name, &format!("{path}.name"), violations);
        let is_integer = matches!(field.field.type_, FieldType::Bigint | FieldType::Integer);
        violations.require(
            field.field.min.is_none() || is_integer,
            &format!("{path}.min"),
            || "is for the types bigint and integer: remove it".to_owned(),
        );
    }
    let mut arrays = Declared::default();
    for (index, array) in model.record.arrays.iter().enumerate() {
        let path = format!("spec.record.arrays[{index}]");
        check_name(&array.name, &format!("{path}.name"), violations);
        arrays.add(&array.name, &format!("{path}.name"), violations);
    }
    let mut lookups = Declared::default();
    for (number, lookup) in model.lookups.iter().enumerate() {
        let path = format!("spec.lookups[{number}]");
        check_name(&lookup.name, &format!("{path}.name"), violations);
        lookups.add(&lookup.name, &format!("{path}.name"), violations);
    }
    check_tables(model, violations);
}

fn check_tables(model: &StreamModelSpec, violations: &mut Violations) {
    let vault = &model.vault;
    let mut tables = Declared::default();
    let hubs = vault.hubs.iter().map(|hub| ("hubs", "h_", &hub.name));
    let links = vault.links.iter().map(|link| ("links", "l_", &link.name));
    let satellites = vault
        .satellites
        .iter()
        .map(|satellite| ("satellites", "s_", &satellite.name));
    let mut number = BTreeMap::new();
    for (list, prefix, name) in hubs.chain(links).chain(satellites) {
        let index = number.entry(list).or_insert(0_usize);
        let path = format!("spec.vault.{list}[{index}].name");
        *index += 1;
        let rest = name.strip_prefix(prefix).unwrap_or_default();
        violations.require(
            !rest.is_empty() && rest.bytes().all(is_name_byte) && name.len() <= MAX_TABLE_NAME_LENGTH,
            &path,
            || {
                format!(
                    "`{name}` is not a name of this kind of table: use `{prefix}` and lower-case letters, digits and `_`, at \
                     most {MAX_TABLE_NAME_LENGTH} characters"
                )
            },
        );
        tables.add(name, &path, violations);
    }
    for (index, link) in vault.links.iter().enumerate() {
        if link.driving_hub.is_some() {
            let path = format!("spec.vault.links[{index}].drivingHub");
            tables.add(&effectivity_name(&link.name), &path, violations);
        }
    }
}

/// Names that were declared, with the path of the first declaration.
#[derive(Default)]
struct Declared(BTreeMap<String, String>);

impl Declared {
    fn add(&mut self, name: &str, path: &str, violations: &mut Violations) {
        if let Some(first) = self.0.get(name) {
            violations.add(
                path,
                format!("`{name}` is declared at {first}: rename one of them"),
            );
        } else {
            self.0.insert(name.to_owned(), path.to_owned());
        }
    }
}

/// Checks the form of the name of a field, an array or a lookup.
fn check_name(name: &str, path: &str, violations: &mut Violations) {
    violations.require(is_name(name), path, || {
        format!(
            "`{name}` is not a name: use lower-case letters, digits and `_`, a letter first, at most {MAX_NAME_LENGTH} characters"
        )
    });
}

/// Returns true for lower-case letters, digits and `_`, with a letter first.
pub(super) fn is_name(name: &str) -> bool {
    name.len() <= MAX_NAME_LENGTH
        && name.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase())
        && name.bytes().all(is_name_byte)
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_'
}
