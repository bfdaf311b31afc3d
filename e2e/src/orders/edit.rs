//! Edits of an order that change neither its `update_ts` nor its status, only the time when the message is sent. Pure.

use jiff::civil::DateTime;
use jiff::{SignedDuration, fmt::strtime};
use serde_json::{Value, json};

use super::message::{Expected, Message};

/// Format of the timestamps in messages.
const TIMESTAMP_FORMAT: &str = "%Y-%m-%d %H:%M:%S";

/// Message of a later edit of the same version: sent `seconds` later, with other lines. `None` for a malformed message.
#[must_use]
pub fn later_edit(message: &Message, seconds: i64) -> Option<Message> {
    if message.expected != Expected::Good {
        return None;
    }
    let mut order: Value = serde_json::from_slice(message.value.as_deref()?).ok()?;
    let sent: DateTime = order["sent_dttm"].as_str()?.parse().ok()?;
    let sent = sent.checked_add(SignedDuration::from_secs(seconds)).ok()?;
    order["sent_dttm"] = json!(strtime::format(TIMESTAMP_FORMAT, sent).ok()?);
    let lines = order["payload"]["order_items"].as_array_mut()?;
    // Removes the first line, or repeats the only one.
    match &mut lines[..] {
        [only] => {
            let line = only.clone();
            lines.push(line);
        }
        [_, ..] => drop(lines.remove(0)),
        [] => {}
    }
    Some(Message {
        value: Some(order.to_string().into_bytes()),
        expected: Expected::Good,
    })
}

/// Adds two edits after every seventh message.
pub fn with_edits(messages: impl Iterator<Item = Message>) -> impl Iterator<Item = Message> {
    messages.enumerate().flat_map(|(number, message)| {
        let edits = [30, 60].map(|seconds| later_edit(&message, seconds).filter(|_| number % 7 == 0));
        [Some(message)].into_iter().chain(edits).flatten()
    })
}
