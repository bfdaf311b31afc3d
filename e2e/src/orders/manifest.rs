//! What was made, counted: a test or the demo compares it with what the pipeline did. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Expected, Message};

/// Counts of a run, in the JSON of `--manifest`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Orders whose messages are among these; whoever starts a history or a live stream knows how many.
    pub orders: u64,
    /// All messages.
    pub messages: u64,
    /// Messages that must be stored, duplicates included.
    pub good: u64,
    /// Messages that must be dead-lettered.
    pub bad: u64,
    /// The latter by the code that they must get.
    pub bad_by_code: BTreeMap<String, u64>,
}

impl Manifest {
    /// Counts one message.
    pub fn count(&mut self, message: &Message) {
        self.messages += 1;
        match message.expected {
            Expected::Good => self.good += 1,
            Expected::Bad(code) => {
                self.bad += 1;
                *self.bad_by_code.entry(code.to_owned()).or_default() += 1;
            }
        }
    }
}
