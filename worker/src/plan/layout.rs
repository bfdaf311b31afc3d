//! Layout of a JSON message: where the values of a row are.
//!
//! A tree of the keys of the message, so that one pass over the text fills the slots of the row.

use crds::model::{Array, FieldType};

use super::slots::{SlotField, Slots};
use crate::rejection::{Code, Rejection};

/// Rank of a text that is not accepted, before all other defects: nothing is known about a record of another type.
pub const ACCEPT_RANK: usize = 0;
/// Rank of the defects of timestamps, which are found after those of other values.
pub(super) const TIMESTAMP_RANK: usize = 1000;
/// Maximum number of keys that one object of a layout has.
pub const MAX_MEMBERS: usize = 256;

/// Layout of one message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// Outermost object.
    pub root: ObjectLayout,
    /// Number of slots of the record.
    pub record_width: usize,
    /// Number of slots of an element, by array.
    pub element_widths: Vec<usize>,
    /// Number of lookups.
    pub lookup_count: usize,
}

/// Object of a layout: its keys that are used. Any other key may have any value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectLayout {
    /// Used keys, in the order of the model.
    pub members: Vec<Member>,
}

/// Key of an object, and what its value is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Key.
    pub key: String,
    /// True if the key must exist.
    pub is_required: bool,
    /// What the value is.
    pub node: Node,
}

/// Value of a layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// Object with used keys.
    Object(ObjectLayout),
    /// Array of objects.
    Elements(ArrayLayout),
    /// Value that fills a slot.
    Value(ValueLayout),
    /// Text that decides whether the record is processed.
    Accept(AcceptLayout),
    /// Time of the last change of a looked-up entry.
    EntryTime {
        /// Index of the lookup.
        lookup: usize,
        /// JSON pointer within the message.
        pointer: String,
        /// Rank of its defects.
        rank: usize,
    },
}

/// Array of objects that fill the slots of elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArrayLayout {
    /// Index of the array in the model.
    pub array: usize,
    /// JSON pointer of the array.
    pub pointer: String,
    /// Maximum number of elements.
    pub max_items: usize,
    /// Rank of its defects.
    pub rank: usize,
    /// One element.
    pub element: ObjectLayout,
}

/// Value that fills a slot of the record or of the element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueLayout {
    /// JSON pointer within the record or the element.
    pub pointer: String,
    /// Slot of the value. Several values may have one slot: the first of them fills it, and the others are only checked.
    pub slot: usize,
    /// Type of the value.
    pub type_: FieldType,
    /// Smallest integer.
    pub min: Option<i64>,
    /// Rank of its defects: of several defects, that with the lowest rank is reported.
    pub rank: usize,
}

/// Texts of a record that is processed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptLayout {
    /// JSON pointer within the record.
    pub pointer: String,
    /// Accepted texts.
    pub texts: Vec<String>,
}

impl Layout {
    /// Creates the layout of a message with this outermost object.
    pub(super) fn new(root: ObjectLayout, slots: &Slots) -> Self {
        Self {
            root,
            record_width: slots.record_width,
            element_widths: slots.element_widths.clone(),
            lookup_count: slots.lookup_count,
        }
    }
}

impl ArrayLayout {
    /// Creates the layout of an array of the model, at a pointer of the message.
    pub(super) fn new(
        index: usize,
        array: &Array,
        pointer: &str,
        rank: usize,
        element: ObjectLayout,
    ) -> Self {
        Self {
            array: index,
            pointer: pointer.to_owned(),
            max_items: usize::try_from(array.max_items).unwrap_or(usize::MAX),
            rank,
            element,
        }
    }
}

impl ValueLayout {
    /// Creates the layout of a field of an element, at a pointer within the element.
    pub(super) fn of_element(field: &SlotField, pointer: &str, rank: usize) -> Self {
        Self {
            pointer: pointer.to_owned(),
            slot: field.slot.index,
            type_: field.type_,
            min: field.min,
            rank,
        }
    }

    /// Creates the layout of a field of the record.
    pub(super) fn of_record(field: &SlotField, pointer: &str, rank: usize) -> Self {
        let is_time = field.type_ == FieldType::Timestamp;
        let rank = if is_time { TIMESTAMP_RANK + rank } else { rank };
        Self::of_element(field, pointer, rank)
    }
}

impl ObjectLayout {
    /// Adds a value at a JSON pointer. The objects on the way are created; they must exist in a message.
    ///
    /// # Errors
    /// If another value is at the pointer, or on the way to it.
    pub fn insert(&mut self, pointer: &str, is_required: bool, node: Node) -> Result<(), PointerConflict> {
        let mut keys = keys(pointer);
        let last = keys.pop().ok_or(PointerConflict)?;
        let mut object = self;
        for key in keys {
            object = object.object_at(key, is_required)?;
        }
        if object.members.iter().any(|member| member.key == last) || object.members.len() == MAX_MEMBERS {
            return Err(PointerConflict);
        }
        object.members.push(Member {
            key: last,
            is_required,
            node,
        });
        Ok(())
    }

    fn object_at(&mut self, key: String, is_required: bool) -> Result<&mut Self, PointerConflict> {
        let index = self.members.iter().position(|member| member.key == key);
        let index = index.unwrap_or_else(|| {
            self.members.push(Member {
                key,
                is_required,
                node: Node::Object(Self::default()),
            });
            self.members.len() - 1
        });
        let member = &mut self.members[index];
        // An object with a required value is required.
        member.is_required |= is_required;
        match &mut member.node {
            Node::Object(object) => Ok(object),
            Node::Elements(_) | Node::Value(_) | Node::Accept(_) | Node::EntryTime { .. } => {
                Err(PointerConflict)
            }
        }
    }
}

impl AcceptLayout {
    /// Rejection of a record with another text.
    #[must_use]
    pub fn find_rejection(&self, text: &str) -> Option<Rejection> {
        if self.texts.iter().any(|accepted| accepted == text) {
            return None;
        }
        let texts: Vec<String> = self.texts.iter().map(|text| format!("{text:?}")).collect();
        let detail = format!(
            "{}: only the type {} is supported",
            self.pointer,
            texts.join(" or ")
        );
        Some(Rejection::new(Code::UnsupportedType, detail))
    }
}

/// Two values of a layout are at one pointer, or one is within the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PointerConflict;

/// Returns the keys on the way of a JSON pointer (RFC 6901).
pub(super) fn keys(pointer: &str) -> Vec<String> {
    let steps = pointer.split('/').skip(1);
    steps
        .map(|step| step.replace("~1", "/").replace("~0", "~"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accept() -> Node {
        Node::Accept(AcceptLayout {
            pointer: String::new(),
            texts: Vec::new(),
        })
    }

    #[test]
    fn values_with_a_common_way_are_in_one_object() {
        let mut root = ObjectLayout::default();
        for (pointer, is_required) in [("/a/b", false), ("/a/c~1d~0~01", true), ("/e", true)] {
            assert_eq!(root.insert(pointer, is_required, accept()), Ok(()));
        }
        assert_eq!(root.members.len(), 2);
        assert!(root.members[0].is_required);
        let Node::Object(object) = &root.members[0].node else {
            unreachable!("an object")
        };
        let keys: Vec<&str> = object.members.iter().map(|member| member.key.as_str()).collect();
        assert_eq!(keys, ["b", "c/d~~1"]);
        assert!(!object.members[0].is_required);
    }

    #[test]
    fn a_value_is_not_within_another_one() {
        let mut root = ObjectLayout::default();
        assert_eq!(root.insert("/a/b", true, accept()), Ok(()));
        for pointer in ["/a/b", "/a", "/a/b/c"] {
            assert_eq!(
                root.insert(pointer, true, accept()),
                Err(PointerConflict),
                "{pointer}"
            );
        }
    }
}
