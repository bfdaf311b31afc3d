//! History of recommendations for the stabilization windows.
//!
//! The history is a step function of time, so only changes are stored. It is part of the status: after a change of
//! leader, the new leader applies the same windows as the old one. Pure.

use crds::status::Recommendation;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

/// Maximum length of the history; the schema of the status sets the same limit.
const MAX_ENTRIES: usize = 1024;

/// Returns the history with the recommendation `replicas` appended, if it differs from the last one.
///
/// Entries older than `window` are dropped, except the one in effect at the start of the window. An empty history
/// starts with the `current` replicas as its first entry.
#[must_use]
pub fn push_recommendation(
    history: &[Recommendation],
    current: u32,
    replicas: u32,
    now: Timestamp,
    window: SignedDuration,
) -> Vec<Recommendation> {
    let mut entries: Vec<Recommendation> = recommendations_since(history, now, window)
        .map(|entry| Recommendation {
            // The clock stepped back. The entry counts from now, or it would apply until the clock is there again.
            time: entry.time.min(now),
            replicas: entry.replicas,
        })
        .collect();
    if entries.is_empty() {
        append_recommendation(&mut entries, current, now);
    }
    append_recommendation(&mut entries, replicas, now);
    entries
}

/// Appends a recommendation, if it differs from the last one.
pub fn append_recommendation(entries: &mut Vec<Recommendation>, replicas: u32, now: Timestamp) {
    if entries.last().is_none_or(|last| last.replicas != replicas) {
        entries.push(Recommendation { time: now, replicas });
    }
    entries.drain(..entries.len().saturating_sub(MAX_ENTRIES));
}

/// Returns the recommendations in effect within the last `window`, oldest first.
pub fn recommendations_since(
    history: &[Recommendation],
    now: Timestamp,
    window: SignedDuration,
) -> impl Iterator<Item = &Recommendation> + Clone {
    let first = history
        .iter()
        .rposition(|recommendation| now.duration_since(recommendation.time) >= window)
        .unwrap_or(0);
    history[first..].iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: SignedDuration = SignedDuration::from_mins(1);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a valid timestamp")
    }

    fn replicas<'r>(recommendations: impl Iterator<Item = &'r Recommendation>) -> Vec<u32> {
        recommendations
            .map(|recommendation| recommendation.replicas)
            .collect()
    }

    #[test]
    fn the_recommendation_in_effect_at_the_window_start_counts() {
        let history = push_recommendation(&[], 5, 5, at(0), MINUTE);
        let history = push_recommendation(&history, 5, 5, at(30), MINUTE);
        assert_eq!(history.len(), 1, "an unchanged recommendation is one entry");
        let history = push_recommendation(&history, 5, 2, at(50), MINUTE);
        assert_eq!(replicas(recommendations_since(&history, at(109), MINUTE)), [5, 2]);
        assert_eq!(replicas(recommendations_since(&history, at(110), MINUTE)), [2]);
        assert_eq!(
            replicas(push_recommendation(&history, 2, 1, at(111), MINUTE).iter()),
            [2, 1]
        );
    }

    #[test]
    fn an_empty_history_starts_with_the_current_replicas() {
        assert_eq!(
            replicas(push_recommendation(&[], 8, 3, at(0), MINUTE).iter()),
            [8, 3]
        );
    }

    #[test]
    fn the_history_never_exceeds_the_limit_of_its_schema() {
        let hour = SignedDuration::from_hours(1);
        let history = (0..2000).fold(Vec::new(), |history, second| {
            let replicas = u32::try_from(second % 7).unwrap_or(0);
            push_recommendation(&history, 1, replicas, at(second), hour)
        });
        assert_eq!(history.len(), MAX_ENTRIES);
    }
}
