//! Plan of a record of the source topic: its layout, its key, and its version.

use crds::model::{Array, FieldType, StreamModelSpec};

use super::layout::{AcceptLayout, ArrayLayout, Layout, Node, ObjectLayout, PointerConflict, ValueLayout};
use super::slots::Slots;

/// Rank of the defects of timestamps, which are found after those of other values.
const TIMESTAMP_RANK: usize = 1000;

/// Plan of a record of the source topic.
#[derive(Clone, Debug)]
pub struct RecordPlan {
    /// Layout of the record. The slots of the record, and of an element, are in the order of the model.
    pub layout: Layout,
    /// Slot of the key.
    pub key: usize,
    /// Values that order the versions of a key.
    pub version: Vec<VersionPart>,
}

/// One of the values that order the versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionPart {
    /// Slot of the value.
    pub slot: usize,
    /// Texts in the order of their ranks; empty for a number or a time.
    pub rank: Vec<String>,
}

impl RecordPlan {
    /// Compiles the record of a model.
    ///
    /// # Errors
    /// If two values are at one pointer, or one is within the other.
    pub(super) fn compile(spec: &StreamModelSpec, slots: &Slots) -> Result<Self, PointerConflict> {
        let record = &spec.record;
        let mut root = ObjectLayout::default();
        for accept in &record.accept {
            let node = Node::Accept(AcceptLayout {
                pointer: accept.pointer.clone(),
                texts: accept.texts.clone(),
            });
            root.insert(&accept.pointer, true, node)?;
        }
        for (slot, field) in record.fields.iter().enumerate() {
            let rank = if field.type_ == FieldType::Timestamp {
                TIMESTAMP_RANK + slot
            } else {
                0
            };
            let node = Node::Value(ValueLayout {
                pointer: field.pointer.clone(),
                slot,
                type_: field.type_,
                min: field.min,
                rank,
            });
            root.insert(&field.pointer, true, node)?;
        }
        for (index, array) in record.arrays.iter().enumerate() {
            root.insert(&array.pointer, true, Node::Elements(array_layout(index, array)?))?;
        }
        let slot_of = |name: &str| slots.field(name).slot.index;
        Ok(Self {
            layout: Layout {
                root,
                record_width: slots.record_width,
                element_widths: slots.element_widths.clone(),
                lookup_count: spec.lookups.len(),
            },
            key: slot_of(&record.key),
            version: record
                .version
                .iter()
                .map(|part| VersionPart {
                    slot: slot_of(&part.field),
                    rank: part.rank.clone(),
                })
                .collect(),
        })
    }
}

fn array_layout(index: usize, array: &Array) -> Result<ArrayLayout, PointerConflict> {
    // After the values of the record.
    let rank = index + 1;
    let mut element = ObjectLayout::default();
    for (slot, field) in array.fields.iter().enumerate() {
        let node = Node::Value(ValueLayout {
            pointer: field.pointer.clone(),
            slot,
            type_: field.type_,
            min: field.min,
            rank,
        });
        element.insert(&field.pointer, true, node)?;
    }
    Ok(ArrayLayout {
        array: index,
        rank,
        pointer: array.pointer.clone(),
        max_items: usize::try_from(array.max_items).unwrap_or(usize::MAX),
        element,
    })
}
