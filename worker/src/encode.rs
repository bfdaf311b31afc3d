//! Writes a row as a message for the next stage.

use std::collections::HashSet;
use std::io::Write as _;

use uuid::Uuid;

use crate::plan::message::{HubKey, WrittenNode, WrittenObject};
use crate::plan::slots::Scope;
use crate::vault::{BusinessKey, Row, Value, hash_key};

/// Returns the message as JSON: its values in the order of the plan, without white space.
#[must_use]
pub fn write_message(message: &WrittenObject, row: &Row<'_>) -> Vec<u8> {
    let mut json = Vec::with_capacity(512);
    let mut writer = Writer { row, json: &mut json };
    writer.write_object(message, &row.record);
    json
}

struct Writer<'w, 'a> {
    row: &'w Row<'a>,
    json: &'w mut Vec<u8>,
}

impl Writer<'_, '_> {
    /// Writes an object from the values of the record or of an element.
    fn write_object(&mut self, object: &WrittenObject, values: &[Value<'_>]) {
        self.json.push(b'{');
        let mut is_first = true;
        for (key, node) in &object.members {
            if self.is_omitted(node, values) {
                continue;
            }
            if !is_first {
                self.json.push(b',');
            }
            is_first = false;
            self.write_text(key);
            self.json.push(b':');
            self.write_node(node, values);
        }
        self.json.push(b'}');
    }

    fn is_omitted(&self, node: &WrittenNode, values: &[Value<'_>]) -> bool {
        match node {
            WrittenNode::Value {
                slot,
                unless_equal_to,
            } => {
                values[*slot] == Value::Null
                    || unless_equal_to.is_some_and(|other| values[other] == values[*slot])
            }
            WrittenNode::EntryTime(lookup) => self.row.entry_times[*lookup].is_none(),
            _ => false,
        }
    }

    fn write_node(&mut self, node: &WrittenNode, values: &[Value<'_>]) {
        match node {
            WrittenNode::Object(object) => self.write_object(object, values),
            WrittenNode::Value { slot, .. } => self.write_value(&values[*slot]),
            WrittenNode::Constant(text) => self.write_text(text),
            WrittenNode::HubKey(hub) => {
                let key = self.hub_key(hub, values).to_string();
                self.write_text(&key);
            }
            WrittenNode::EntryTime(lookup) => {
                if let Some(time) = self.row.entry_times[*lookup] {
                    self.write_value(&Value::Time(time));
                }
            }
            WrittenNode::Elements {
                array,
                distinct,
                element,
            } => self.write_elements(*array, distinct.as_ref(), element),
        }
    }

    fn write_elements(&mut self, array: usize, distinct: Option<&HubKey>, element: &WrittenObject) {
        self.json.push(b'[');
        let mut written: HashSet<Uuid> = HashSet::new();
        let mut is_first = true;
        let row = self.row;
        for values in row.arrays[array].elements() {
            if distinct.is_some_and(|hub| !written.insert(self.hub_key(hub, values))) {
                continue;
            }
            if !is_first {
                self.json.push(b',');
            }
            is_first = false;
            self.write_object(element, values);
        }
        self.json.push(b']');
    }

    fn hub_key(&self, hub: &HubKey, values: &[Value<'_>]) -> Uuid {
        let keys = hub.slots.iter().map(|slot| match slot.scope {
            Scope::Record => BusinessKey::from(&self.row.record[slot.index]),
            Scope::Element(_) => BusinessKey::from(&values[slot.index]),
        });
        hash_key(&hub.hub, &keys.collect::<Vec<_>>())
    }

    fn write_value(&mut self, value: &Value<'_>) {
        // Writing to memory does not fail.
        let _written = match value {
            Value::Text(text) => return self.write_text(text),
            Value::BigInt(number) => write!(self.json, "{number}"),
            Value::Integer(number) => write!(self.json, "{number}"),
            Value::Numeric(amount) => write!(self.json, "{amount}"),
            Value::Time(time) => write!(self.json, "\"{time}\""),
            Value::Null => write!(self.json, "null"),
        };
    }

    fn write_text(&mut self, text: &str) {
        let _written = serde_json::to_writer(&mut *self.json, text);
    }
}
