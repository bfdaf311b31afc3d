//! Reads a message into a row, in one pass over its text.
//!
//! The pass finds the defects of [`strict`], too. Only a message with a defect is read again, to report the same defect as
//! the strict scan and a typed parse would, one after the other.

mod seeds;
mod state;
#[cfg(test)]
mod tests;
mod text;

use serde::de::DeserializeSeed as _;

use self::seeds::ObjectSeed;
use self::state::State;
use crate::decode::{DecodeSettings, located_rejection};
use crate::plan::layout::{AcceptLayout, Layout, Node, ObjectLayout};
use crate::plan::message::Fallback;
use crate::plan::slots::Scope;
use crate::rejection::Rejection;
use crate::strict;
use crate::vault::{Row, Value};

pub use self::state::TimestampForm;

/// Reads a message.
///
/// # Errors
/// The codes of [`strict::check`]; `UnsupportedType` for a text that is not accepted, `NumberOutOfRange`, `InvalidTimestamp`,
/// `TooLarge`, or `ContractViolation`, each with the JSON pointer.
pub fn read_row(
    value: &[u8],
    layout: &Layout,
    settings: &DecodeSettings,
    form: TimestampForm,
) -> Result<Row<'static>, Rejection> {
    let Ok(text) = std::str::from_utf8(value) else {
        return Err(strict::check(value).err().unwrap_or_else(unexplained));
    };
    let mut state = State::new(layout, settings, form);
    let mut json = serde_json::Deserializer::from_str(text);
    json.disable_recursion_limit();
    let read = ObjectSeed::root(layout, &mut state)
        .deserialize(&mut json)
        .and_then(|()| json.end());
    if read.is_err() {
        return Err(diagnose(text, layout, settings, form));
    }
    match state.defect {
        None => Ok(state.row),
        Some((_, rejection)) => Err(rejection),
    }
}

/// Fills the slots that the message left empty from their other slots.
pub fn fill_fallbacks(row: &mut Row<'_>, fallbacks: &[Fallback]) {
    for fallback in fallbacks {
        match fallback.slot.scope {
            Scope::Record => fill_empty(&mut row.record, *fallback),
            Scope::Element(array) => {
                let elements = row.arrays[array].elements_mut();
                elements.for_each(|element| fill_empty(element, *fallback));
            }
        }
    }
}

fn fill_empty(values: &mut [Value<'_>], fallback: Fallback) {
    if values[fallback.slot.index] == Value::Null {
        values[fallback.slot.index] = values[fallback.from].clone();
    }
}

/// Reads again with path tracking, to find the location and the cause. It is slow, so only bad messages pay for it.
fn diagnose(text: &str, layout: &Layout, settings: &DecodeSettings, form: TimestampForm) -> Rejection {
    if let Err(rejection) = strict::check(text.as_bytes()) {
        return rejection;
    }
    if let Some(rejection) = find_unaccepted(text, &layout.root) {
        return rejection;
    }
    let mut state = State::new(layout, settings, form);
    let mut track = serde_path_to_error::Track::new();
    let mut json = serde_json::Deserializer::from_str(text);
    json.disable_recursion_limit();
    let tracked = serde_path_to_error::Deserializer::new(&mut json, &mut track);
    let Err(error) = ObjectSeed::root(layout, &mut state).deserialize(tracked) else {
        return unexplained();
    };
    located_rejection(&track.path(), &error)
}

fn unexplained() -> Rejection {
    let rule = "rejected, but accepted with path tracking; report this as a bug";
    Rejection::contract_violation("", rule)
}

/// Finds a text that is not accepted in a message that may have other defects, too.
fn find_unaccepted(text: &str, root: &ObjectLayout) -> Option<Rejection> {
    let message: serde_json::Value = serde_json::from_str(text).ok()?;
    accepts(root).into_iter().find_map(|accept| {
        let text = message.pointer(&accept.pointer)?.as_str()?;
        accept.find_rejection(text)
    })
}

fn accepts(object: &ObjectLayout) -> Vec<&AcceptLayout> {
    let members = object.members.iter();
    let found = members.flat_map(|member| match &member.node {
        Node::Accept(accept) => vec![accept],
        Node::Object(object) => accepts(object),
        Node::Elements(_) | Node::Value(_) | Node::EntryTime { .. } => Vec::new(),
    });
    found.collect()
}
