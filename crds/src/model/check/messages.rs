//! Messages between the stages: what their values are, and that the vault gets all that it needs.

use std::collections::BTreeSet;

use super::known_fields::{KnownField, KnownFields, unknown};
use super::pointers::Pointers;
use super::violations::Violations;
use crate::model::field::FieldScope;
use crate::model::message::{ItemPart, MessagePart};
use crate::model::spec::StreamModelSpec;

/// Checks the messages.
pub(super) fn check(model: &StreamModelSpec, fields: &KnownFields, violations: &mut Violations) {
    let mut checker = Checker {
        model,
        fields,
        violations,
    };
    checker.check_message(&model.messages.enriched, "spec.messages.enriched", false);
    checker.check_message(&model.messages.fact, "spec.messages.fact", true);
    checker.check_complete();
}

struct Checker<'c> {
    model: &'c StreamModelSpec,
    fields: &'c KnownFields,
    violations: &'c mut Violations,
}

impl Checker<'_> {
    fn check_message(&mut self, parts: &[MessagePart], path: &str, has_hubs: bool) {
        let mut pointers = Pointers::default();
        for (index, part) in parts.iter().enumerate() {
            let path = format!("{path}[{index}]");
            pointers.add(&part.pointer, &format!("{path}.pointer"), self.violations);
            self.check_part(part, &path, has_hubs);
        }
    }

    fn check_part(&mut self, part: &MessagePart, path: &str, has_hubs: bool) {
        let contents = [
            part.field.is_some(),
            part.constant.is_some(),
            part.version_of.is_some(),
            part.hub.is_some(),
            part.array.is_some(),
        ];
        let count = contents.iter().filter(|is_set| **is_set).count();
        self.violations.require(count == 1, path, || {
            "needs one of field, constant, versionOf, hub and array: add or remove one".to_owned()
        });
        if let Some(field) = &part.field {
            self.check_field(field, &format!("{path}.field"), FieldScope::Record);
        }
        if let Some(lookup) = &part.version_of {
            self.check_lookup(lookup, &format!("{path}.versionOf"));
        }
        if let Some(hub) = &part.hub {
            self.check_hub(hub, &format!("{path}.hub"), FieldScope::Record, has_hubs);
        }
        self.check_other(
            part.field.as_ref(),
            part.fallback.as_ref(),
            &format!("{path}.fallback"),
        );
        let Some(array) = &part.array else {
            let is_single = part.items.is_empty() && part.distinct.is_none();
            self.violations.require(is_single, &format!("{path}.items"), || {
                "is for an array: remove it, and distinct".to_owned()
            });
            return;
        };
        let mut arrays = self.model.record.arrays.iter();
        let Some(index) = arrays.position(|other| other.name == *array) else {
            let arrays = self.model.record.arrays.iter();
            let names: Vec<&str> = arrays.map(|array| array.name.as_str()).collect();
            let message = unknown("an array", array, &names);
            return self.violations.add(format!("{path}.array"), message);
        };
        let scope = FieldScope::Element(index);
        if let Some(hub) = &part.distinct {
            self.check_hub(hub, &format!("{path}.distinct"), scope, has_hubs);
        }
        self.check_items(&part.items, &format!("{path}.items"), scope, has_hubs);
    }

    fn check_items(&mut self, items: &[ItemPart], path: &str, scope: FieldScope, has_hubs: bool) {
        self.violations.require(!items.is_empty(), path, || {
            "is empty: add a value of the element".to_owned()
        });
        let mut pointers = Pointers::default();
        for (index, item) in items.iter().enumerate() {
            let path = format!("{path}[{index}]");
            pointers.add(&item.pointer, &format!("{path}.pointer"), self.violations);
            self.violations
                .require(item.field.is_some() != item.hub.is_some(), &path, || {
                    "needs one of field and hub: add or remove one".to_owned()
                });
            if let Some(field) = &item.field {
                self.check_field(field, &format!("{path}.field"), scope);
            }
            if let Some(hub) = &item.hub {
                self.check_hub(hub, &format!("{path}.hub"), scope, has_hubs);
            }
            let other = item.unless_equal_to.as_ref();
            self.check_other(item.field.as_ref(), other, &format!("{path}.unlessEqualTo"));
        }
    }

    fn check_field(&mut self, name: &str, path: &str, scope: FieldScope) {
        let is_of_scope = |field: &KnownField| field.scope == scope;
        if let Some(field) = self.fields.get(name, path, self.violations, is_of_scope) {
            self.violations
                .require(is_of_scope(&field), path, || match scope {
                    FieldScope::Record => {
                        format!("`{name}` has one value per element: write it with its array")
                    }
                    FieldScope::Element(_) => {
                        format!("`{name}` is not a field of the element: use one of its fields")
                    }
                });
        }
    }

    /// Checks that another field can take the place of a field.
    fn check_other(&mut self, field: Option<&String>, other: Option<&String>, path: &str) {
        let Some(other) = other else {
            return;
        };
        let Some(field) = field else {
            return self.violations.add(path, "is for a field: remove it");
        };
        let known = self.fields.get(other, path, self.violations, |_| true);
        if let (Some(other_field), Some(field)) = (known, self.fields.0.get(field)) {
            self.violations.require(
                (other_field.type_, other_field.scope) == (field.type_, field.scope),
                path,
                || {
                    format!(
                        "`{other}` has another type, or is of another array: use a field like the first one"
                    )
                },
            );
        }
    }

    fn check_lookup(&mut self, name: &str, path: &str) {
        let lookup = self.model.lookups.iter().find(|lookup| lookup.name == name);
        let Some(lookup) = lookup else {
            let lookups = self.model.lookups.iter();
            let names: Vec<&str> = lookups.map(|lookup| lookup.name.as_str()).collect();
            return self.violations.add(path, unknown("a lookup", name, &names));
        };
        self.violations.require(lookup.version.is_some(), path, || {
            format!("the entries of `{name}` have no version: add it to the lookup")
        });
    }

    fn check_hub(&mut self, name: &str, path: &str, scope: FieldScope, has_hubs: bool) {
        self.violations.require(has_hubs, path, || {
            "the vault reads business keys, not hash keys: write the fields of the hub".to_owned()
        });
        let Some(hub) = self.model.vault.hubs.iter().find(|hub| hub.name == name) else {
            let names: Vec<&str> = self
                .model
                .vault
                .hubs
                .iter()
                .map(|hub| hub.name.as_str())
                .collect();
            return self.violations.add(path, unknown("a hub", name, &names));
        };
        let keys = hub
            .business_key
            .iter()
            .filter_map(|column| self.fields.0.get(&column.field));
        let is_outside = keys
            .map(|field| field.scope)
            .any(|other| other != FieldScope::Record && other != scope);
        self.violations.require(!is_outside, path, || {
            format!("`{name}` has one key per element of another array: write it with that array")
        });
    }

    /// Checks that the message to the vault has every field that a column, the key or the version needs.
    fn check_complete(&mut self) {
        let enriched = &self.model.messages.enriched;
        let items = enriched.iter().flat_map(|part| &part.items);
        let items = items.filter_map(|item| item.field.as_ref());
        let written: BTreeSet<&String> = enriched
            .iter()
            .filter_map(|part| part.field.as_ref())
            .chain(items)
            .collect();
        let vault = &self.model.vault;
        let keys = vault.hubs.iter().flat_map(|hub| &hub.business_key);
        let attributes = vault
            .satellites
            .iter()
            .flat_map(|satellite| &satellite.attributes);
        let columns = keys.chain(attributes).map(|column| &column.field);
        let version = self.model.record.version.first().map(|part| &part.field);
        let needed: BTreeSet<&String> = columns.chain([&self.model.record.key]).chain(version).collect();
        for field in needed.difference(&written) {
            if self.fields.0.contains_key(*field) {
                self.violations.add(
                    "spec.messages.enriched",
                    format!("does not have `{field}`, which the vault needs: add it"),
                );
            }
        }
    }
}
