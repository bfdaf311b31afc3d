//! Counts of the generated messages; a test or the demo compares them with the results of the pipeline. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::message::{Expected, Message};

/// Counts of a run, in the JSON format of `--manifest`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Number of orders. The caller of [`Generator::history`](super::generator::Generator::history) sets it.
    pub orders: u64,
    /// All messages.
    pub messages: u64,
    /// Messages that must be stored, including duplicates.
    pub good: u64,
    /// Messages that must be dead-lettered.
    pub bad: u64,
    /// [`Self::bad`] by expected dead-letter code.
    pub bad_by_code: BTreeMap<String, u64>,
}

impl Manifest {
    /// Adds one message to the counts; does not change [`Self::orders`].
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
