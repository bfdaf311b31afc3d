//! Layout of a record of the source topic.

use crds::model::StreamModelSpec;

use super::layout::{
    ACCEPT_RANK, AcceptLayout, ArrayLayout, Layout, Node, ObjectLayout, PointerConflict, ValueLayout,
};
use super::slots::Slots;

/// Returns the layout of the record of a model.
///
/// # Errors
/// If two values are at one pointer, or one is within the other.
pub(super) fn record_layout(spec: &StreamModelSpec, slots: &Slots) -> Result<Layout, PointerConflict> {
    let record = &spec.record;
    let mut root = ObjectLayout::default();
    for accept in &record.accept {
        let node = Node::Accept(AcceptLayout {
            pointer: accept.pointer.clone(),
            texts: accept.texts.clone(),
        });
        root.insert(&accept.pointer, true, node)?;
    }
    for field in &record.fields {
        let value = ValueLayout::of_record(slots.field(&field.name), &field.pointer, ACCEPT_RANK + 1);
        root.insert(&field.pointer, true, Node::Value(value))?;
    }
    for (index, array) in record.arrays.iter().enumerate() {
        // After the values of the record.
        let rank = ACCEPT_RANK + 2 + index;
        let mut element = ObjectLayout::default();
        for field in &array.fields {
            let value = ValueLayout::of_element(slots.field(&field.name), &field.pointer, rank);
            element.insert(&field.pointer, true, Node::Value(value))?;
        }
        let node = Node::Elements(ArrayLayout::new(index, array, &array.pointer, rank, element));
        root.insert(&array.pointer, true, node)?;
    }
    Ok(Layout::new(root, slots))
}
