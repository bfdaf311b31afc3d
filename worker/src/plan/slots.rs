//! Slots of a row: one for each field of the model, numbered by scope.

use std::collections::HashMap;

use crds::model::{FieldOrigin, FieldScope, FieldType, StreamModelSpec};

/// Number of values that a record has for a field, and number of rows that it adds to a table with that field.
pub type Scope = FieldScope;

/// Position of a value in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Record, or array.
    pub scope: Scope,
    /// Index of the slot in the record or the element.
    pub index: usize,
}

/// Field with its slot.
#[derive(Clone, Debug)]
pub struct SlotField {
    /// Name in the model.
    pub name: String,
    /// Type of the value.
    pub type_: FieldType,
    /// Smallest integer.
    pub min: Option<i64>,
    /// Position of the value.
    pub slot: Slot,
    /// Origin of the value.
    pub origin: FieldOrigin,
}

/// All fields of a model, with their slots. The slots of a scope are in the order of the model: first those of the record or
/// the element, then those of the lookups.
#[derive(Clone, Debug)]
pub struct Slots {
    /// Fields in the order of [`StreamModelSpec::fields`].
    pub fields: Vec<SlotField>,
    /// Number of slots of the record.
    pub record_width: usize,
    /// Number of slots of an element, by array.
    pub element_widths: Vec<usize>,
    /// Number of lookups.
    pub lookup_count: usize,
}

impl Slots {
    /// Numbers the fields of a model.
    pub(super) fn new(spec: &StreamModelSpec) -> Self {
        let mut widths: HashMap<Scope, usize> = HashMap::new();
        let fields = spec.fields().into_iter().map(|field| {
            let width = widths.entry(field.scope).or_default();
            *width += 1;
            SlotField {
                name: field.field.name.clone(),
                type_: field.field.type_,
                min: field.field.min,
                slot: Slot {
                    scope: field.scope,
                    index: *width - 1,
                },
                origin: field.origin,
            }
        });
        let fields = fields.collect();
        let width = |scope| widths.get(&scope).copied().unwrap_or_default();
        Self {
            fields,
            record_width: width(Scope::Record),
            element_widths: (0..spec.record.arrays.len())
                .map(|array| width(Scope::Element(array)))
                .collect(),
            lookup_count: spec.lookups.len(),
        }
    }

    /// Returns a field that the check of the model has found.
    ///
    /// # Panics
    /// If the model has no field with this name.
    #[must_use]
    pub fn field(&self, name: &str) -> &SlotField {
        let field = self.fields.iter().find(|field| field.name == name);
        field.unwrap_or_else(|| unreachable!("the check has found {name}"))
    }

    /// Fields of one scope, in the order of their slots.
    pub fn of_scope(&self, scope: Scope) -> impl Iterator<Item = &SlotField> {
        self.fields.iter().filter(move |field| field.slot.scope == scope)
    }
}

/// Returns the index of a name that the check of the model has found.
pub(super) fn index_of<'n>(mut names: impl Iterator<Item = &'n String>, name: &str) -> usize {
    let index = names.position(|other| other == name);
    index.unwrap_or_else(|| unreachable!("the check has found {name}"))
}
