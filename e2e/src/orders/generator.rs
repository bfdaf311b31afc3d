//! The generator: settings, and the random stream of orders and malformed messages. Pure.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::bad;
use super::catalogue::Catalogue;
use super::message::{Expected, Message};
use super::order::{self, NewOrder};

/// Id of the first valid order; later ones count up.
pub(super) const FIRST_ORDER_ID: i64 = 322_519;
/// Order id of the first malformed message: far from the valid ones, so that no malformed message can change a valid order.
pub(super) const FIRST_BAD_ORDER_ID: i64 = 9_000_000_000;

/// Settings of the generator. Shares are clamped to their range; NaN counts as 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Seed of the random numbers, for everything that the other settings do not determine.
    pub seed: u64,
    /// Number of users, at least 1.
    pub users: usize,
    /// Number of restaurants, at least 1; each has its own menu.
    pub restaurants: usize,
    /// Share of the superseded versions that arrive after every newer version of their order, 0 to 1.
    pub late: f64,
    /// Share of the versions that are sent twice, 0 to 1.
    pub duplicated: f64,
    /// Share of the orders that are cancelled, half of them after they were closed, 0 to 1.
    pub cancelled: f64,
    /// Share of malformed messages among all messages, 0 to 0.5.
    pub bad: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            seed: 1,
            users: 120,
            restaurants: 8,
            late: 0.02,
            duplicated: 0.02,
            cancelled: 0.08,
            bad: 0.006,
        }
    }
}

/// The simulated source system: its clock, its counters and its random numbers.
#[derive(Clone, Debug)]
pub struct Generator {
    pub(super) settings: Settings,
    pub(super) catalogue: Catalogue,
    pub(super) random: ChaCha8Rng,
    /// Time of the latest order, in seconds since [`super::clock::EPOCH`].
    pub(super) clock: i64,
    orders: i64,
    bad_orders: i64,
    bad_forms: bad::FormDeck,
}

impl Generator {
    /// Creates a generator that starts with the first order.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        let clamp_share = |share: f64, max: f64| {
            if share.is_nan() {
                0.0
            } else {
                share.clamp(0.0, max)
            }
        };
        let settings = Settings {
            users: settings.users.max(1),
            restaurants: settings.restaurants.max(1),
            late: clamp_share(settings.late, 1.0),
            duplicated: clamp_share(settings.duplicated, 1.0),
            cancelled: clamp_share(settings.cancelled, 1.0),
            bad: clamp_share(settings.bad, 0.5),
            ..*settings
        };
        // Orders use another random stream, so that their settings do not change the reference data.
        let mut random = ChaCha8Rng::seed_from_u64(settings.seed);
        let catalogue = Catalogue::new(&mut random, settings.users, settings.restaurants);
        random.set_stream(1);
        Self {
            settings,
            catalogue,
            random,
            clock: 0,
            orders: 0,
            bad_orders: 0,
            bad_forms: bad::FormDeck::default(),
        }
    }

    /// Users, restaurants and menus that the orders refer to.
    #[must_use]
    pub fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    /// Endless stream of messages: the last version of a new order each, with malformed messages in between.
    pub fn live(&mut self) -> impl Iterator<Item = Message> + '_ {
        std::iter::from_fn(|| {
            let bad = self.next_bad();
            bad.or_else(|| {
                self.place_order().pop().map(|version| Message {
                    value: Some(version.value),
                    expected: Expected::Good,
                })
            })
        })
    }

    /// One malformed message of every form, so that a test also covers the rare ones.
    pub fn every_bad(&mut self) -> Vec<Message> {
        (0..bad::FORMS.len()).map(|form| self.bad_message(form)).collect()
    }

    /// Malformed message with the probability [`Settings::bad`], else `None`.
    pub(super) fn next_bad(&mut self) -> Option<Message> {
        let is_bad = self.random.random_bool(self.settings.bad);
        is_bad.then(|| {
            let form = self.bad_forms.draw(&mut self.random);
            self.bad_message(form)
        })
    }

    fn bad_message(&mut self, form: usize) -> Message {
        let order = NewOrder {
            object_id: FIRST_BAD_ORDER_ID + self.bad_orders,
            placed_at: self.clock,
        };
        self.bad_orders += 1;
        let valid = order::plain_message(&mut self.random, &self.catalogue, order);
        bad::malformed_message(form, &valid)
    }

    /// Places the next order; returns its published versions, oldest first, at least one.
    pub(super) fn place_order(&mut self) -> Vec<order::Version> {
        self.clock += self.random.random_range(2..=18);
        let order = NewOrder {
            object_id: FIRST_ORDER_ID + self.orders,
            placed_at: self.clock,
        };
        self.orders += 1;
        order::published_versions(&mut self.random, &self.catalogue, order, self.settings.cancelled)
    }
}
