//! Puts the versions of many orders into the order in which the topic would get them. Pure; holds a window, never all.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rand::RngExt;

use super::{Expected, Generator, Message};

/// How much later than due a late or a repeated message comes at most, in seconds. It bounds what is held in memory.
const LATEST: i64 = 3 * 3600;

/// A message that waits: when it is due, its number among all (so that the order is total), the value.
type Waiting = Reverse<(i64, u64, Vec<u8>)>;

/// Iterator over the messages of a number of orders, see [`Generator::history`].
#[derive(Debug)]
pub struct History<'g> {
    generator: &'g mut Generator,
    /// Orders that are yet to be placed.
    left: usize,
    window: BinaryHeap<Waiting>,
    pushed: u64,
}

impl<'g> History<'g> {
    pub(super) fn new(generator: &'g mut Generator, orders: usize) -> Self {
        Self {
            generator,
            left: orders,
            window: BinaryHeap::new(),
            pushed: 0,
        }
    }

    /// Places one more order and lets its versions wait for their time.
    fn place(&mut self) {
        self.left -= 1;
        let versions = self.generator.place();
        let settings = self.generator.settings;
        let newest = versions.last().map_or(0, |version| version.sent);
        let count = versions.len();
        for (number, version) in versions.into_iter().enumerate() {
            let random = &mut self.generator.random;
            let superseded = number + 1 < count;
            let late = superseded && random.random_bool(settings.late);
            let due = if late {
                newest + random.random_range(600..=LATEST)
            } else {
                version.sent
            };
            if random.random_bool(settings.duplicated) {
                let again = due + random.random_range(0..=LATEST);
                self.push(again, version.value.clone());
            }
            self.push(due, version.value);
        }
    }

    fn push(&mut self, due: i64, value: Vec<u8>) {
        self.window.push(Reverse((due, self.pushed, value)));
        self.pushed += 1;
    }
}

impl Iterator for History<'_> {
    type Item = Message;

    fn next(&mut self) -> Option<Message> {
        // Orders that are still to be placed send nothing before they are placed.
        while self.left > 0
            && self
                .window
                .peek()
                .is_none_or(|Reverse((due, ..))| *due > self.generator.clock)
        {
            self.place();
        }
        if self.window.is_empty() {
            return None;
        }
        if let Some(bad) = self.generator.next_bad() {
            return Some(bad);
        }
        let Reverse((_, _, value)) = self.window.pop()?;
        Some(Message {
            value: Some(value),
            expected: Expected::Good,
        })
    }
}
