//! What to do about each kind of trouble: the one table of the worker.
//!
//! | trouble | policy |
//! | --- | --- |
//! | a record breaks its contract ([`crate::rejection::Code`]) | dead-letter |
//! | PostgreSQL 08, 57, 53, 25P03, 40001, 40P01, 55P03, 25006; no answer at all | retry with backoff and jitter |
//! | PostgreSQL 22, 23514, 21000, 54000 | bisect; dead-letter the culprit |
//! | PostgreSQL, anything else | bisect; hold the culprit's partition, the others go on |
//! | Kafka refuses an output as too large | read the topic's limit again, dead-letter what exceeds it |
//! | Kafka, any other failure to publish | retry with backoff and jitter |
//! | Kafka reports a fatal client error; a position outside of the log | stop, with the reason |
//! | Redis down, slow or refusing | retry with backoff and jitter, dead-letter nothing |
//!
//! Pure: errors are named here by their codes, never by a client's types.

use std::time::Duration;

/// How the path of a batch goes on after an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Try the same batch again, later.
    Retry,
    /// A record is at fault: find it and send it to the dead letters.
    DeadLetter,
    /// A record is at fault, and nobody knows why: find it and hold its partition.
    Hold,
    /// Nothing that the worker can do will help: stop.
    Stop,
}

/// The policy for an error of PostgreSQL's, by its SQLSTATE.
#[must_use]
pub fn of_sqlstate(sqlstate: &str) -> Policy {
    match sqlstate {
        "40001" | "40P01" | "55P03" | "25006" | "25P03" => Policy::Retry,
        "23514" | "21000" | "54000" => Policy::DeadLetter,
        _ => match sqlstate.get(..2) {
            Some("08" | "57" | "53") => Policy::Retry,
            Some("22") => Policy::DeadLetter,
            _ => Policy::Hold,
        },
    }
}

/// First pause before a retry.
const FIRST: Duration = Duration::from_millis(100);
/// Longest pause before a retry.
const LONGEST: Duration = Duration::from_secs(5);

/// Pauses between retries: doubling from 0.1 s to 5 s, each shortened by up to a half, so that workers that
/// failed together do not come back together.
#[derive(Clone, Debug, Default)]
pub struct Backoff {
    attempts: u32,
}

impl Backoff {
    /// The next pause; `jitter` is any number that differs from worker to worker.
    pub fn next(&mut self, jitter: u64) -> Duration {
        let full = FIRST.saturating_mul(1 << self.attempts.min(10)).min(LONGEST);
        self.attempts += 1;
        let half = full / 2;
        half + half.mul_f64(f64::from(u32::try_from(jitter % 1000).unwrap_or(0)) / 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sqlstate_has_the_policy_of_the_table() {
        let cases = [
            (
                Policy::Retry,
                [
                    "08006", "57P01", "53300", "40001", "40P01", "55P03", "25006", "25P03",
                ]
                .as_slice(),
            ),
            (
                Policy::DeadLetter,
                ["22001", "22P05", "22003", "23514", "21000", "54000"].as_slice(),
            ),
            (
                Policy::Hold,
                ["42P01", "42501", "23505", "P0001", "XX000", ""].as_slice(),
            ),
        ];
        for (policy, sqlstates) in cases {
            for sqlstate in sqlstates {
                assert_eq!(of_sqlstate(sqlstate), policy, "{sqlstate}");
            }
        }
    }

    #[test]
    fn pauses_grow_to_the_longest_and_stay_there() {
        let mut backoff = Backoff::default();
        let pauses: Vec<Duration> = (0..12).map(|_| backoff.next(0)).collect();
        assert_eq!(pauses[0], FIRST / 2);
        assert!(pauses.is_sorted());
        assert_eq!(pauses[11], LONGEST / 2);
        assert!(Backoff::default().next(999) < FIRST);
    }
}
