//! The source system: dictionaries and order messages, good and bad, from a seed.
//!
//! Pure, apart from [`dictionary`] and [`send`]: the same settings give the same bytes, on every machine and in every run.
//! Each bad message carries the dead-letter code that it must get, so that a test can compare without knowing how it was made.
//! Messages follow the first contract of the pipeline: JSON as the source system writes it, no key, timestamps without a zone.

use jiff::SignedDuration;
use jiff::civil::DateTime;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

mod bad;
pub mod catalogue;
pub mod dictionary;
mod history;
mod json;
pub mod manifest;
mod order;
pub mod send;
mod words;

pub use history::History;

use catalogue::Catalogue;
use order::Place;

/// The first good order; the following ones count up.
const FIRST_ORDER: i64 = 322_519;
/// The first bad message's order: far from the good ones, so that no bad message can change one of them.
const FIRST_BAD_ORDER: i64 = 9_000_000_000;
/// The order that is placed first is placed then.
const OPENING: DateTime = jiff::civil::datetime(2024, 2, 24, 8, 0, 0, 0);

/// What the generator makes. Shares are between 0 and 1; others are taken as the nearest of these.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Decides everything that the other settings leave open.
    pub seed: u64,
    /// Guests, at least 1.
    pub guests: usize,
    /// Restaurants, at least 1; each has a menu of its own.
    pub restaurants: usize,
    /// Share of the superseded versions that come after every newer version of their order.
    pub late: f64,
    /// Share of the versions that come twice.
    pub duplicated: f64,
    /// Share of the orders that end cancelled, half of them after they were closed.
    pub cancelled: f64,
    /// Share of all messages that are bad, at most one half.
    pub bad: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            seed: 1,
            guests: 120,
            restaurants: 8,
            late: 0.02,
            duplicated: 0.02,
            cancelled: 0.08,
            bad: 0.006,
        }
    }
}

/// What must become of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Expected {
    /// It is stored.
    Good,
    /// It is dead-lettered with this code.
    Bad(&'static str),
}

/// One message of the topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The value; `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    /// What must become of it.
    pub expected: Expected,
}

/// The source system, with its clock and its counters.
#[derive(Clone, Debug)]
pub struct Generator {
    settings: Settings,
    catalogue: Catalogue,
    random: ChaCha8Rng,
    /// Seconds since [`OPENING`] when the latest order was placed.
    clock: i64,
    orders: i64,
    bad_orders: i64,
    bad_forms: bad::Deck,
}

impl Generator {
    /// A generator at its beginning.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        let share = |share: f64, most: f64| {
            if share.is_nan() {
                0.0
            } else {
                share.clamp(0.0, most)
            }
        };
        let settings = Settings {
            guests: settings.guests.max(1),
            restaurants: settings.restaurants.max(1),
            late: share(settings.late, 1.0),
            duplicated: share(settings.duplicated, 1.0),
            cancelled: share(settings.cancelled, 1.0),
            bad: share(settings.bad, 0.5),
            ..*settings
        };
        // A stream of its own, so that the dictionaries do not change with what the orders are asked to be.
        let mut random = ChaCha8Rng::seed_from_u64(settings.seed);
        let catalogue = Catalogue::new(&mut random, settings.guests, settings.restaurants);
        random.set_stream(1);
        Self {
            settings,
            catalogue,
            random,
            clock: 0,
            orders: 0,
            bad_orders: 0,
            bad_forms: bad::Deck::default(),
        }
    }

    /// The guests, the restaurants and their menus, which the orders name.
    #[must_use]
    pub fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    /// The messages of the next `orders` orders: every version, mixed with those of other orders as they would meet
    /// in the topic, duplicates and late ones and bad ones in between. Holds some hours of orders in memory, whatever their number.
    pub fn history(&mut self, orders: usize) -> History<'_> {
        History::new(self, orders)
    }

    /// A stream without end: one version of a new order each, the last one, and bad messages in between.
    pub fn live(&mut self) -> impl Iterator<Item = Message> + '_ {
        std::iter::from_fn(|| {
            let bad = self.next_bad();
            bad.or_else(|| {
                self.place().pop().map(|version| Message {
                    value: Some(version.value),
                    expected: Expected::Good,
                })
            })
        })
    }

    /// One bad message of every form there is, so that a test need not wait for the rare ones.
    pub fn every_bad(&mut self) -> Vec<Message> {
        (0..bad::FORMS.len()).map(|form| self.bad_message(form)).collect()
    }

    /// A bad message, as often as the settings say.
    fn next_bad(&mut self) -> Option<Message> {
        let due = self.random.random_bool(self.settings.bad);
        due.then(|| {
            let form = self.bad_forms.draw(&mut self.random);
            self.bad_message(form)
        })
    }

    fn bad_message(&mut self, form: usize) -> Message {
        let place = Place {
            object_id: FIRST_BAD_ORDER + self.bad_orders,
            at: self.clock,
        };
        self.bad_orders += 1;
        bad::message(form, &order::plain(&mut self.random, &self.catalogue, place))
    }

    /// Places the next order; its published versions, oldest first, never empty.
    fn place(&mut self) -> Vec<order::Version> {
        self.clock += self.random.random_range(2..=18);
        let place = Place {
            object_id: FIRST_ORDER + self.orders,
            at: self.clock,
        };
        self.orders += 1;
        order::versions(&mut self.random, &self.catalogue, place, self.settings.cancelled)
    }
}

/// A moment of the source system as it writes it: `2024-02-24 12:00:05`.
fn timestamp(seconds: i64) -> String {
    (OPENING + SignedDuration::from_secs(seconds))
        .strftime("%Y-%m-%d %H:%M:%S")
        .to_string()
}

#[cfg(test)]
mod tests;
