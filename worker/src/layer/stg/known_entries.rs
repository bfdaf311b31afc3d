//! Entries that exist: the evidence that decides whether a missing entry is missing alone. Pure.
//!
//! If most of the entries that were found before are missing now, the reference data has nearly vanished: it was
//! deleted, or the stage reads another database. That is an outage, and never the fault of an order.

use std::collections::VecDeque;
use std::fmt;

/// Maximum number of entries of each kind that are remembered.
pub const MAX_ENTRIES: usize = 16;
/// Minimum number of remembered entries of one kind that decides on its own.
const MIN_ENTRIES: usize = 4;

/// Keys of the entries that were found last, by kind.
#[derive(Debug, Default)]
pub(super) struct KnownEntries {
    users: VecDeque<String>,
    restaurants: VecDeque<String>,
}

impl KnownEntries {
    /// Remembers a user that exists.
    pub(super) fn remember_user(&mut self, id: &str) {
        remember(&mut self.users, id);
    }

    /// Remembers a restaurant that exists.
    pub(super) fn remember_restaurant(&mut self, id: &str) {
        remember(&mut self.restaurants, id);
    }

    /// Remembered keys: the users, then the restaurants.
    pub(super) fn keys(&self) -> Vec<String> {
        self.users.iter().chain(&self.restaurants).cloned().collect()
    }

    /// Returns the loss if most of the remembered entries do not exist any more.
    pub(super) fn find_loss(&self, exists: impl Fn(&String) -> bool) -> Option<Loss> {
        let count = |keys: &VecDeque<String>| Loss {
            known: keys.len(),
            missing: keys.iter().filter(|key| !exists(key)).count(),
        };
        let (users, restaurants) = (count(&self.users), count(&self.restaurants));
        let both = Loss {
            known: users.known + restaurants.known,
            missing: users.missing + restaurants.missing,
        };
        let is_near_total = |loss: &Loss, min: usize| loss.known >= min && loss.missing * 4 >= loss.known * 3;
        (is_near_total(&both, 2)
            || is_near_total(&users, MIN_ENTRIES)
            || is_near_total(&restaurants, MIN_ENTRIES))
        .then_some(both)
    }
}

/// Adds a key as the newest one, in place of the oldest one.
fn remember(keys: &mut VecDeque<String>, id: &str) {
    if keys.iter().any(|key| key == id) {
        return;
    }
    if keys.len() == MAX_ENTRIES {
        keys.pop_front();
    }
    keys.push_back(id.to_owned());
}

/// Number of known entries, and of those that are missing now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Loss {
    known: usize,
    missing: usize,
}

impl fmt::Display for Loss {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} of {} entries that existed before",
            self.missing, self.known
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known_entries(users: usize, restaurants: usize) -> KnownEntries {
        let mut known = KnownEntries::default();
        (0..users).for_each(|number| known.remember_user(&format!("u{number}")));
        (0..restaurants).for_each(|number| known.remember_restaurant(&format!("r{number}")));
        known
    }

    #[test]
    fn the_reference_data_has_vanished_if_most_known_entries_are_missing() {
        let is_lost = |known: &KnownEntries, missing: &[&str]| {
            known
                .find_loss(|key| !missing.iter().any(|prefix| key.starts_with(prefix)))
                .is_some()
        };
        // Everything, or all entries of one kind.
        assert!(is_lost(&known_entries(16, 8), &["u", "r"]));
        assert!(is_lost(&known_entries(16, 8), &["u"]));
        assert!(is_lost(&known_entries(16, 8), &["r"]));
        assert!(is_lost(&known_entries(1, 1), &["u", "r"]));
        // A few entries were deleted.
        assert!(!is_lost(&known_entries(16, 8), &[]));
        assert!(!is_lost(&known_entries(16, 8), &["u1"]));
        assert!(!is_lost(&known_entries(1, 1), &["u"]));
        assert!(!is_lost(&known_entries(16, 2), &["r"]));
        // Without evidence, a missing entry is missing alone.
        assert!(!is_lost(&known_entries(0, 0), &["u", "r"]));
        assert!(!is_lost(&known_entries(1, 0), &["u"]));
    }

    #[test]
    fn the_newest_entries_are_remembered_once() {
        let mut known = known_entries(MAX_ENTRIES + 2, 0);
        known.remember_user("u5");
        let keys = known.keys();
        assert_eq!(
            (keys.len(), keys[0].as_str(), keys[15].as_str()),
            (MAX_ENTRIES, "u2", "u17")
        );
    }
}
