//! Decides whether a stage holds its batches, because most of their records would be dead-lettered. Pure.
//!
//! So many faulty records at once are unlikely: the topic, the time zone, the clock or a limit is more likely at fault.
//! The stage waits for a bounded time, in which the installation can be corrected before the first record is
//! dead-lettered. Then it continues, because the records may be faulty nevertheless. [`crate::hold_state`] stores when
//! the hold began, so that a restart does not lengthen it.

use std::collections::BTreeMap;

use crate::rejection::Code;

/// Minimum number of records that decides. Fewer records of several batches are added up.
pub const MIN_RECORDS: usize = 100;

/// Records of the last batches, and those of them that are rejected.
#[derive(Debug, Default)]
pub struct RejectionSample {
    records: usize,
    rejected: BTreeMap<Code, usize>,
    /// True if the next batch decides, however few records it has.
    is_decisive: bool,
}

impl RejectionSample {
    /// Sample of a worker that starts during a hold: its first batch decides, so that a restart lets nothing through.
    #[must_use]
    pub fn during_hold() -> Self {
        Self {
            is_decisive: true,
            ..Self::default()
        }
    }

    /// Adds a batch. Returns the cause of a hold if most records of the sample are rejected.
    ///
    /// A sample of [`MIN_RECORDS`] or more decides once; the next batch starts another one.
    pub fn add(&mut self, records: usize, rejected: impl Iterator<Item = Code>) -> Option<String> {
        self.records += records;
        rejected.for_each(|code| *self.rejected.entry(code).or_default() += 1);
        if self.records < MIN_RECORDS && !self.is_decisive {
            return None;
        }
        let Self {
            records, rejected, ..
        } = std::mem::take(self);
        let total: usize = rejected.values().sum();
        let (code, _) = rejected.into_iter().max_by_key(|(_, count)| *count)?;
        (total * 2 > records)
            .then(|| format!("{total} of {records} records would be dead-lettered, most of them as {code}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(sample: &mut RejectionSample, records: usize, rejected: usize) -> Option<String> {
        sample.add(records, std::iter::repeat_n(Code::ParseError, rejected))
    }

    #[test]
    fn a_batch_is_held_if_most_of_its_records_are_rejected() {
        let held = |records, rejected| add(&mut RejectionSample::default(), records, rejected).is_some();
        assert!(held(100, 51));
        assert!(held(1000, 1000));
        assert!(!held(100, 50));
        assert!(!held(100, 0));
        assert!(!held(99, 99), "too few records");
    }

    #[test]
    fn small_batches_are_added_up_until_they_decide() {
        let mut sample = RejectionSample::default();
        for _ in 0..9 {
            assert_eq!(add(&mut sample, 10, 10), None);
        }
        let cause = add(&mut sample, 10, 0);
        let expected = "90 of 100 records would be dead-lettered, most of them as ParseError";
        assert_eq!(cause.as_deref(), Some(expected));
        // The next sample starts empty.
        assert_eq!(add(&mut sample, 10, 10), None);
    }

    #[test]
    fn the_first_batch_during_a_hold_decides() {
        let mut sample = RejectionSample::during_hold();
        let expected = "2 of 3 records would be dead-lettered, most of them as ParseError";
        assert_eq!(add(&mut sample, 3, 2).as_deref(), Some(expected));
        assert_eq!(add(&mut sample, 3, 2), None);
        assert_eq!(add(&mut RejectionSample::during_hold(), 3, 1), None);
    }

    #[test]
    fn the_most_frequent_code_is_named() {
        let codes = [Code::ParseError, Code::Tombstone, Code::Tombstone];
        let cause = RejectionSample::default().add(100, codes.into_iter().cycle().take(90));
        assert!(cause.is_some_and(|cause| cause.ends_with("as Tombstone")));
    }
}
