//! The wishes of the stabilization windows: a step function of time, of which only the steps are kept.
//!
//! It stands in the status, so that a successor holds what its predecessor would have held.

use crds::status::Wish;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

/// Steps that are kept at most, as the schema of the status says.
const MOST: usize = 1024;

/// Adds a wish; keeps the steps within `longest`, and the one that was in force when it began. Before the first wish,
/// the `present` number counts as one.
#[must_use]
pub fn with(
    window: &[Wish],
    present: u32,
    replicas: u32,
    now: Timestamp,
    longest: SignedDuration,
) -> Vec<Wish> {
    let mut kept: Vec<Wish> = within(window, now, longest).cloned().collect();
    if kept.is_empty() {
        kept.push(Wish {
            time: now,
            replicas: present,
        });
    }
    if kept.last().is_none_or(|last| last.replicas != replicas) {
        kept.push(Wish { time: now, replicas });
    }
    kept.drain(..kept.len().saturating_sub(MOST));
    kept
}

/// The wishes that were in force within the last `length`, the oldest first.
pub fn within(
    window: &[Wish],
    now: Timestamp,
    length: SignedDuration,
) -> impl Iterator<Item = &Wish> + Clone {
    let first = window
        .iter()
        .rposition(|wish| now.duration_since(wish.time) >= length)
        .unwrap_or(0);
    window[first..].iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn replicas<'w>(wishes: impl Iterator<Item = &'w Wish>) -> Vec<u32> {
        wishes.map(|wish| wish.replicas).collect()
    }

    #[test]
    fn the_wish_in_force_when_the_window_began_still_counts() {
        let minute = SignedDuration::from_mins(1);
        let window = with(&[], 5, 5, at(0), minute);
        let window = with(&window, 5, 5, at(30), minute);
        assert_eq!(window.len(), 1, "a wish that lasts is one step");
        let window = with(&window, 5, 2, at(50), minute);
        assert_eq!(replicas(within(&window, at(109), minute)), [5, 2]);
        assert_eq!(replicas(within(&window, at(110), minute)), [2]);
        assert_eq!(replicas(with(&window, 2, 1, at(111), minute).iter()), [2, 1]);
    }

    #[test]
    fn before_the_first_wish_the_present_number_counts() {
        let minute = SignedDuration::from_mins(1);
        assert_eq!(replicas(with(&[], 8, 3, at(0), minute).iter()), [8, 3]);
    }

    #[test]
    fn a_window_never_outgrows_its_schema() {
        let hour = SignedDuration::from_hours(1);
        let window = (0..2000).fold(Vec::new(), |window, second| {
            with(
                &window,
                1,
                u32::try_from(second % 7).unwrap_or(0),
                at(second),
                hour,
            )
        });
        assert_eq!(window.len(), MOST);
    }
}
