//! Seeds of the deserializer: they fill the slots of a row from the objects, arrays and values of a layout.

use std::borrow::Cow;
use std::fmt;

use crds::contract::{Money, integer_from_json, normalize};
use crds::model::FieldType;
use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize as _, Deserializer};
use serde_json::value::RawValue;

use super::state::{RowScope, State};
use super::text::{OptionalTextVisitor, TextVisitor};
use crate::decode::check_amount;
use crate::plan::layout::{ACCEPT_RANK, ArrayLayout, Layout, MAX_MEMBERS, Node, ObjectLayout, ValueLayout};
use crate::rejection::{Code, Rejection};
use crate::strict::{KeySeed, ObjectKeys, Scan};
use crate::vault::Value;

/// Reads an object of the layout.
pub(super) struct ObjectSeed<'s, 'c> {
    object: &'s ObjectLayout,
    scope: RowScope<'s>,
    depth: usize,
    state: &'s mut State<'c>,
}

impl<'s, 'c> ObjectSeed<'s, 'c> {
    /// Seed of the outermost object.
    pub(super) fn root(layout: &'s Layout, state: &'s mut State<'c>) -> Self {
        Self {
            object: &layout.root,
            scope: RowScope::Record,
            depth: 0,
            state,
        }
    }
}

impl<'de> DeserializeSeed<'de> for ObjectSeed<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for ObjectSeed<'_, '_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let members = &self.object.members;
        let mut seen = [0_u64; MAX_MEMBERS / 64];
        let mut unused = ObjectKeys::default();
        // The keys of most messages are in the order of the layout.
        let mut next = 0;
        while let Some(key) = entries.next_key_seed(KeySeed)? {
            let is_next = members.get(next).is_some_and(|member| member.key == key);
            let index = if is_next {
                Some(next)
            } else {
                members.iter().position(|member| member.key == key)
            };
            let Some(index) = index else {
                if key.contains('\0') || !unused.insert(key) {
                    return Err(A::Error::custom("a key that the strict scan rejects"));
                }
                entries.next_value_seed(Scan::at_depth(self.depth + 1, &self.state.scanned))?;
                continue;
            };
            next = index + 1;
            let bit = 1 << (index % 64);
            if seen[index / 64] & bit != 0 {
                return Err(A::Error::custom("duplicate key"));
            }
            seen[index / 64] |= bit;
            entries.next_value_seed(NodeSeed {
                node: &members[index].node,
                scope: self.scope,
                depth: self.depth + 1,
                is_required: members[index].is_required,
                state: &mut *self.state,
            })?;
        }
        for (index, member) in members.iter().enumerate() {
            if member.is_required && seen[index / 64] & 1 << (index % 64) == 0 {
                return Err(A::Error::custom(format_args!("missing field `{}`", member.key)));
            }
        }
        Ok(())
    }
}

/// Reads a value of the layout.
struct NodeSeed<'s, 'c> {
    node: &'s Node,
    scope: RowScope<'s>,
    depth: usize,
    is_required: bool,
    state: &'s mut State<'c>,
}

impl<'de> DeserializeSeed<'de> for NodeSeed<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match self.node {
            Node::Object(object) => deserializer.deserialize_map(ObjectSeed {
                object,
                scope: self.scope,
                depth: self.depth,
                state: self.state,
            }),
            Node::Elements(array) => deserializer.deserialize_seq(ElementsVisitor {
                array,
                depth: self.depth,
                state: self.state,
            }),
            Node::Accept(accept) => {
                let text = deserializer.deserialize_str(TextVisitor)?;
                if let Some(rejection) = accept.find_rejection(&text) {
                    self.state.add_defect((ACCEPT_RANK, 0, 0), rejection);
                }
                check_characters(&text)
            }
            Node::EntryTime {
                lookup,
                pointer,
                rank,
            } => {
                if let Some(text) = deserializer.deserialize_option(OptionalTextVisitor)? {
                    self.state.row.entry_times[*lookup] =
                        self.state.parse_time(pointer, &text, (*rank, 0, 0));
                }
                Ok(())
            }
            Node::Value(value) => match value.type_ {
                FieldType::Bigint | FieldType::Integer | FieldType::Money => {
                    self.read_number(value, deserializer)
                }
                FieldType::Key | FieldType::Text | FieldType::Timestamp => {
                    self.read_text(value, deserializer)
                }
            },
        }
    }
}

impl NodeSeed<'_, '_> {
    fn read_number<'de, D: Deserializer<'de>>(
        self,
        value: &ValueLayout,
        deserializer: D,
    ) -> Result<(), D::Error> {
        let text = <&'de RawValue>::deserialize(deserializer)?.get();
        if !self.is_required && text == "null" {
            return Ok(());
        }
        if value.type_ == FieldType::Money {
            let money = Money::from_json(text).map_err(D::Error::custom)?;
            match check_amount(self.scope.pointer(&value.pointer), &money) {
                Ok(()) => self.state.fill(self.scope, value.slot, Value::money(money.0)),
                Err(rejection) => self.state.add_defect(self.scope.rank(value), rejection),
            }
            return Ok(());
        }
        let integer = integer_from_json(text).map_err(D::Error::custom)?;
        let filled = if value.type_ == FieldType::Integer {
            let too_large = |_| D::Error::custom("number out of range: the integer is too large");
            Value::Integer(i32::try_from(integer).map_err(too_large)?)
        } else {
            Value::BigInt(integer)
        };
        if let Some(min) = value.min
            && integer < min
        {
            let rule = match min {
                0 => "must not be negative".to_owned(),
                min => format!("must be at least {min}"),
            };
            let rejection = Rejection::contract_violation(self.scope.pointer(&value.pointer), &rule);
            self.state.add_defect(self.scope.rank(value), rejection);
        }
        self.state.fill(self.scope, value.slot, filled);
        Ok(())
    }

    fn read_text<'de, D: Deserializer<'de>>(
        self,
        value: &ValueLayout,
        deserializer: D,
    ) -> Result<(), D::Error> {
        let text = if self.is_required {
            deserializer.deserialize_str(TextVisitor)?
        } else {
            match deserializer.deserialize_option(OptionalTextVisitor)? {
                Some(text) => text,
                None => return Ok(()),
            }
        };
        check_characters(&text)?;
        let filled = match value.type_ {
            FieldType::Key => {
                let key = normalize(&text);
                if key.is_empty() {
                    let unexpected = serde::de::Unexpected::Str(&text);
                    return Err(D::Error::invalid_value(unexpected, &"an id that is not empty"));
                }
                Value::Text(Cow::Owned(key.into_owned()))
            }
            FieldType::Timestamp => {
                let (pointer, rank) = (self.scope.pointer(&value.pointer), self.scope.rank(value));
                match self.state.parse_time(pointer, &text, rank) {
                    Some(time) => Value::Time(time),
                    None => return Ok(()),
                }
            }
            _ => Value::Text(Cow::Owned(text.into_owned())),
        };
        self.state.fill(self.scope, value.slot, filled);
        Ok(())
    }
}

fn check_characters<E: serde::de::Error>(text: &str) -> Result<(), E> {
    if text.contains('\0') {
        return Err(E::custom("a character that the strict scan rejects"));
    }
    Ok(())
}

/// Reads the elements of an array.
struct ElementsVisitor<'s, 'c> {
    array: &'s ArrayLayout,
    depth: usize,
    state: &'s mut State<'c>,
}

impl<'de> Visitor<'de> for ElementsVisitor<'_, '_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a sequence")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let Self { array, depth, state } = self;
        let width = state.row.arrays[array.array].width;
        let mut index = 0;
        loop {
            let values = &mut state.row.arrays[array.array].values;
            let first = values.len();
            values.resize(first + width, Value::Null);
            let element = ObjectSeed {
                object: &array.element,
                scope: RowScope::Element { array, index, first },
                depth: depth + 1,
                state: &mut *state,
            };
            if items.next_element_seed(element)?.is_none() {
                state.row.arrays[array.array].values.truncate(first);
                break;
            }
            index += 1;
        }
        if index > array.max_items {
            let detail = format!(
                "{}: {index} items, the maximum is {}",
                array.pointer, array.max_items
            );
            state.add_defect((array.rank, 0, 0), Rejection::new(Code::TooLarge, detail));
        }
        Ok(())
    }
}
