//! Plan of a message between the stages: how it is written from a row, and read into one.

use crds::model::{MessagePart, StreamModelSpec};

use super::layout::{
    ACCEPT_RANK, AcceptLayout, ArrayLayout, Layout, Node, ObjectLayout, PointerConflict, TIMESTAMP_RANK,
    ValueLayout, keys,
};
use super::slots::{Slot, Slots, index_of};

/// Plan of a message that is read into a row.
#[derive(Clone, Debug)]
pub struct ReadPlan {
    /// Layout of the message.
    pub layout: Layout,
    /// Slots that are filled from another slot if the message does not have their value.
    pub fallbacks: Vec<Fallback>,
}

/// Slot that is filled from another one, if it is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fallback {
    /// Slot that may be empty.
    pub slot: Slot,
    /// Index of the slot of the same scope with the value.
    pub from: usize,
}

/// Object of a message that is written.
#[derive(Clone, Debug, Default)]
pub struct WrittenObject {
    /// Keys and values in their order.
    pub members: Vec<(String, WrittenNode)>,
}

/// Value of a message that is written.
#[derive(Clone, Debug)]
pub enum WrittenNode {
    /// Object.
    Object(WrittenObject),
    /// Value of a slot of the record or the element; omitted if it is absent, or equal to the value of the other slot.
    Value {
        /// Index of the slot.
        slot: usize,
        /// Index of the other slot.
        unless_equal_to: Option<usize>,
    },
    /// Text.
    Constant(String),
    /// Hash key of a hub.
    HubKey(HubKey),
    /// Time of the last change of the entry of a lookup; omitted if it is not known.
    EntryTime(usize),
    /// Elements of an array.
    Elements {
        /// Index of the array.
        array: usize,
        /// Hub of which one element is written for each key.
        distinct: Option<HubKey>,
        /// One element.
        element: WrittenObject,
    },
}

/// Hub, and the slots of its business key.
#[derive(Clone, Debug)]
pub struct HubKey {
    /// Name of the table.
    pub hub: String,
    /// Slots of the business key, in the order in which they are hashed.
    pub slots: Vec<Slot>,
}

impl ReadPlan {
    /// Compiles how a message with these parts is read.
    ///
    /// # Errors
    /// If two values are at one pointer, or one is within the other.
    pub(super) fn compile(
        parts: &[MessagePart],
        spec: &StreamModelSpec,
        slots: &Slots,
    ) -> Result<Self, PointerConflict> {
        let (mut root, mut fallbacks) = (ObjectLayout::default(), Vec::new());
        for (rank, part) in (ACCEPT_RANK + 1..).zip(parts) {
            let node = read_node(part, rank, spec, slots, &mut fallbacks)?;
            let is_required = part.fallback.is_none() && part.version_of.is_none();
            root.insert(&part.pointer, is_required, node)?;
        }
        Ok(Self {
            layout: Layout::new(root, slots),
            fallbacks,
        })
    }
}

fn read_node(
    part: &MessagePart,
    rank: usize,
    spec: &StreamModelSpec,
    slots: &Slots,
    fallbacks: &mut Vec<Fallback>,
) -> Result<Node, PointerConflict> {
    let pointer = part.pointer.clone();
    if let Some(text) = &part.constant {
        let texts = vec![text.clone()];
        return Ok(Node::Accept(AcceptLayout { pointer, texts }));
    }
    if let Some(name) = &part.version_of {
        return Ok(Node::EntryTime {
            lookup: lookup_index(name, spec),
            pointer,
            rank: 2 * TIMESTAMP_RANK + rank,
        });
    }
    if let Some(name) = &part.array {
        let array = array_index(name, spec);
        let mut element = ObjectLayout::default();
        for item in &part.items {
            let name = item.field.as_deref().unwrap_or_default();
            if let Some(other) = &item.unless_equal_to {
                fallbacks.push(fallback(name, other, slots));
            }
            let value = ValueLayout::of_element(slots.field(name), &item.pointer, rank);
            element.insert(&item.pointer, item.unless_equal_to.is_none(), Node::Value(value))?;
        }
        let layout = ArrayLayout::new(array, &spec.record.arrays[array], &pointer, rank, element);
        return Ok(Node::Elements(layout));
    }
    let name = part.field.as_deref().unwrap_or_default();
    if let Some(other) = &part.fallback {
        fallbacks.push(fallback(name, other, slots));
    }
    let value = ValueLayout::of_record(slots.field(name), &pointer, rank);
    Ok(Node::Value(value))
}

fn fallback(field: &str, from: &str, slots: &Slots) -> Fallback {
    Fallback {
        slot: slots.field(field).slot,
        from: slots.field(from).slot.index,
    }
}

impl WrittenObject {
    /// Compiles how a message with these parts is written.
    pub(super) fn compile(parts: &[MessagePart], spec: &StreamModelSpec, slots: &Slots) -> Self {
        let mut root = Self::default();
        for part in parts {
            root.insert(&part.pointer, written_part(part, spec, slots));
        }
        root
    }

    /// Adds a value at a JSON pointer. The objects on the way are created where the first of their values is added.
    fn insert(&mut self, pointer: &str, node: WrittenNode) {
        let mut keys = keys(pointer);
        let last = keys.pop().unwrap_or_default();
        let mut object = self;
        for key in keys {
            let index = object.members.iter().position(|(other, _)| *other == key);
            let index = index.unwrap_or_else(|| {
                object.members.push((key, WrittenNode::Object(Self::default())));
                object.members.len() - 1
            });
            let WrittenNode::Object(inner) = &mut object.members[index].1 else {
                unreachable!("the check has found a value within another one")
            };
            object = inner;
        }
        object.members.push((last, node));
    }
}

fn written_part(part: &MessagePart, spec: &StreamModelSpec, slots: &Slots) -> WrittenNode {
    if let Some(text) = &part.constant {
        return WrittenNode::Constant(text.clone());
    }
    if let Some(name) = &part.version_of {
        return WrittenNode::EntryTime(lookup_index(name, spec));
    }
    if let Some(name) = &part.array {
        let mut element = WrittenObject::default();
        for item in &part.items {
            let other = item.unless_equal_to.as_ref();
            let node = written_value(item.field.as_ref(), item.hub.as_ref(), other, spec, slots);
            element.insert(&item.pointer, node);
        }
        return WrittenNode::Elements {
            array: array_index(name, spec),
            distinct: part.distinct.as_ref().map(|hub| hub_key(hub, spec, slots)),
            element,
        };
    }
    written_value(part.field.as_ref(), part.hub.as_ref(), None, spec, slots)
}

fn written_value(
    field: Option<&String>,
    hub: Option<&String>,
    unless_equal_to: Option<&String>,
    spec: &StreamModelSpec,
    slots: &Slots,
) -> WrittenNode {
    let slot = |name: &String| slots.field(name).slot.index;
    match hub {
        Some(hub) => WrittenNode::HubKey(hub_key(hub, spec, slots)),
        None => WrittenNode::Value {
            slot: slots.field(field.map_or("", String::as_str)).slot.index,
            unless_equal_to: unless_equal_to.map(slot),
        },
    }
}

fn hub_key(name: &str, spec: &StreamModelSpec, slots: &Slots) -> HubKey {
    let hubs = &spec.vault.hubs;
    let hub = &hubs[index_of(hubs.iter().map(|hub| &hub.name), name)];
    let columns = hub.business_key.iter();
    HubKey {
        hub: hub.name.clone(),
        slots: columns.map(|column| slots.field(&column.field).slot).collect(),
    }
}

fn lookup_index(name: &str, spec: &StreamModelSpec) -> usize {
    index_of(spec.lookups.iter().map(|lookup| &lookup.name), name)
}

fn array_index(name: &str, spec: &StreamModelSpec) -> usize {
    index_of(spec.record.arrays.iter().map(|array| &array.name), name)
}
