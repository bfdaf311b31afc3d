//! Interleaves the versions of many orders by their send time. Pure; only a window of them is in memory.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rand::RngExt;

use super::generator::Generator;
use super::message::{Expected, Message};

/// Maximum delay of a late or duplicated message, in seconds; it bounds the window in memory.
const MAX_DELAY_SECONDS: i64 = 3 * 3600;

/// A scheduled message: send time, sequence number (for a total order), value.
type ScheduledMessage = Reverse<(i64, u64, Vec<u8>)>;

/// Iterator over the messages of a number of orders, see [`Generator::history`].
#[derive(Debug)]
pub struct History<'g> {
    generator: &'g mut Generator,
    /// Orders that have not been placed yet.
    remaining_orders: usize,
    window: BinaryHeap<ScheduledMessage>,
    next_sequence: u64,
}

impl Generator {
    /// Messages of the next `orders` orders: all versions, interleaved by time, with duplicates, late versions and
    /// malformed messages. Memory use is bounded: a few hours of orders, regardless of their number.
    pub fn history(&mut self, orders: usize) -> History<'_> {
        History::new(self, orders)
    }
}

impl<'g> History<'g> {
    fn new(generator: &'g mut Generator, orders: usize) -> Self {
        Self {
            generator,
            remaining_orders: orders,
            window: BinaryHeap::new(),
            next_sequence: 0,
        }
    }

    /// Places one more order and schedules its versions.
    fn place_order(&mut self) {
        self.remaining_orders -= 1;
        let versions = self.generator.place_order();
        let settings = self.generator.settings;
        let latest_sent = versions.last().map_or(0, |version| version.sent);
        let count = versions.len();
        for (number, version) in versions.into_iter().enumerate() {
            let random = &mut self.generator.random;
            let superseded = number + 1 < count;
            let late = superseded && random.random_bool(settings.late);
            let send_time = if late {
                latest_sent + random.random_range(600..=MAX_DELAY_SECONDS)
            } else {
                version.sent
            };
            if random.random_bool(settings.duplicated) {
                let duplicate_time = send_time + random.random_range(0..=MAX_DELAY_SECONDS);
                self.schedule(duplicate_time, version.value.clone());
            }
            self.schedule(send_time, version.value);
        }
    }

    fn schedule(&mut self, send_time: i64, value: Vec<u8>) {
        self.window.push(Reverse((send_time, self.next_sequence, value)));
        self.next_sequence += 1;
    }
}

impl Iterator for History<'_> {
    type Item = Message;

    fn next(&mut self) -> Option<Message> {
        // A message may only be sent when no order that is placed later can have an earlier one.
        while self.remaining_orders > 0
            && self
                .window
                .peek()
                .is_none_or(|Reverse((send_time, ..))| *send_time > self.generator.clock)
        {
            self.place_order();
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
