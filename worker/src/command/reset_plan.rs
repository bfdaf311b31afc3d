//! Plan of `worker reset-offsets`: the positions to reset, and their new offsets. Pure.

use std::collections::BTreeMap;
use std::str::FromStr;

use jiff::Timestamp;
use uuid::Uuid;

use crate::position::{LogRange, StoredPosition, is_same_log};

/// Target of a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetTarget {
    /// Log start offset; stored records are skipped as duplicates.
    Earliest,
    /// Log end offset; records before it are never read.
    Latest,
    /// Offset of the first record whose timestamp is at or after this time.
    Time(Timestamp),
    /// This offset, which must be in the log.
    Offset(i64),
}

/// Error for a text that is not a target.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("use earliest, latest, a time such as 2024-02-24T00:00:00Z, or an offset")]
pub struct ResetTargetError;

impl FromStr for ResetTarget {
    type Err = ResetTargetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "earliest" => Ok(Self::Earliest),
            "latest" => Ok(Self::Latest),
            _ if text.bytes().all(|byte| byte.is_ascii_digit()) => {
                text.parse().map(Self::Offset).map_err(|_| ResetTargetError)
            }
            _ => text.parse().map(Self::Time).map_err(|_| ResetTargetError),
        }
    }
}

/// Positions that a command resets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selection<'s> {
    /// Positions outside of the log or of another log, and those with a stop.
    OutOfRange,
    /// Every position.
    All,
    /// The positions of these partitions.
    Partitions(&'s [i32]),
}

/// Log of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionLog {
    /// Log start and end offset.
    pub range: LogRange,
    /// First offset at or after the time of the target; `None` for another target, or if no record is that new.
    pub at_time: Option<i64>,
}

/// Change of one position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reset {
    /// Stored offset.
    pub from: i64,
    /// New offset.
    pub to: i64,
}

/// Error of a plan.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ResetError {
    /// A selected partition has no stored position.
    #[error("partition {0} has no stored position; select one that has")]
    NoPosition(i32),
    /// The target offset is not in the log.
    #[error("partition {partition}: offset {offset} is not in the log, which holds {start} to {end}")]
    NotInLog {
        /// Partition.
        partition: i32,
        /// Target offset.
        offset: i64,
        /// Log start offset.
        start: i64,
        /// Log end offset.
        end: i64,
    },
}

/// Returns the positions to reset, by partition.
///
/// A partition that the topic no longer has gets the offset 0: if it is added to the topic again, it is read from its
/// beginning.
///
/// # Errors
/// If a selected partition has no position, or the target offset is not in its log.
pub fn plan_resets(
    stored: &BTreeMap<i32, StoredPosition>,
    topic_id: Uuid,
    logs: &BTreeMap<i32, PartitionLog>,
    to: ResetTarget,
    selection: Selection<'_>,
) -> Result<BTreeMap<i32, Reset>, ResetError> {
    if let Selection::Partitions(partitions) = selection {
        let missing = partitions
            .iter()
            .find(|partition| !stored.contains_key(partition));
        missing.map_or(Ok(()), |&partition| Err(ResetError::NoPosition(partition)))?;
    }
    let is_selected = |partition: &i32, position: &StoredPosition| match selection {
        Selection::All => true,
        Selection::Partitions(partitions) => partitions.contains(partition),
        Selection::OutOfRange => {
            let log = logs.get(partition);
            position.stop.is_some()
                || !is_same_log(position.topic_id, topic_id)
                || log.is_some_and(|log| !log.range.contains(position.next_offset))
        }
    };
    let selected = stored
        .iter()
        .filter(|(partition, position)| is_selected(partition, position));
    let resets = selected.map(|(&partition, position)| {
        let to = match logs.get(&partition) {
            Some(log) => target_offset(partition, *log, to)?,
            None => 0,
        };
        let from = position.next_offset;
        Ok((partition, Reset { from, to }))
    });
    resets.collect()
}

fn target_offset(partition: i32, log: PartitionLog, to: ResetTarget) -> Result<i64, ResetError> {
    let LogRange { start, end } = log.range;
    match to {
        ResetTarget::Earliest => Ok(start),
        ResetTarget::Latest => Ok(end),
        ResetTarget::Time(_) => Ok(log.at_time.unwrap_or(end)),
        ResetTarget::Offset(offset) if log.range.contains(offset) => Ok(offset),
        ResetTarget::Offset(offset) => Err(ResetError::NotInLog {
            partition,
            offset,
            start,
            end,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::Stop;

    const CURRENT: Uuid = Uuid::from_u128(1);
    const FORMER: Uuid = Uuid::from_u128(2);
    const RANGE: LogRange = LogRange { start: 5, end: 50 };

    fn position(next_offset: i64, topic_id: Uuid, stop: Option<Stop>) -> StoredPosition {
        StoredPosition {
            next_offset,
            topic_id,
            stop,
        }
    }

    /// Positions: in range, before the log, stopped, of another log, of a previous version, of a partition that is gone.
    fn stored() -> BTreeMap<i32, StoredPosition> {
        let stop = Stop::out_of_range("orders", 2, 4, RANGE);
        BTreeMap::from([
            (0, position(20, CURRENT, None)),
            (1, position(4, CURRENT, None)),
            (2, position(30, CURRENT, Some(stop))),
            (3, position(30, FORMER, None)),
            (4, position(30, Uuid::nil(), None)),
            (9, position(30, FORMER, None)),
        ])
    }

    fn plan(to: ResetTarget, selection: Selection<'_>) -> Result<Vec<(i32, i64)>, ResetError> {
        let log = |partition| {
            let at_time = (partition != 1).then_some(25);
            (
                partition,
                PartitionLog {
                    range: RANGE,
                    at_time,
                },
            )
        };
        let logs = [0, 1, 2, 3, 4].map(log).into();
        let resets = plan_resets(&stored(), CURRENT, &logs, to, selection)?;
        Ok(resets
            .into_iter()
            .map(|(partition, reset)| (partition, reset.to))
            .collect())
    }

    #[test]
    fn a_target_is_a_word_a_time_or_an_offset() {
        let time = "2024-02-24T00:00:00Z".parse().expect("a time");
        for (text, target) in [
            ("earliest", ResetTarget::Earliest),
            ("latest", ResetTarget::Latest),
            ("17", ResetTarget::Offset(17)),
            ("2024-02-24T00:00:00Z", ResetTarget::Time(time)),
            ("2024-02-24T03:00:00+03:00", ResetTarget::Time(time)),
        ] {
            assert_eq!(text.parse(), Ok(target));
        }
        for text in ["", "-1", "Earliest", "2024-02-24", "99999999999999999999"] {
            assert_eq!(text.parse::<ResetTarget>(), Err(ResetTargetError), "{text}");
        }
    }

    #[test]
    fn by_default_only_positions_without_a_meaning_are_reset() {
        let resets = plan(ResetTarget::Earliest, Selection::OutOfRange);
        assert_eq!(resets, Ok(vec![(1, 5), (2, 5), (3, 5), (9, 0)]));
    }

    #[test]
    fn selected_positions_are_reset_although_they_are_in_range() {
        let selection = Selection::Partitions(&[0, 4]);
        assert_eq!(plan(ResetTarget::Latest, selection), Ok(vec![(0, 50), (4, 50)]));
        let selection = Selection::Partitions(&[0, 1]);
        assert_eq!(plan(ResetTarget::Offset(7), selection), Ok(vec![(0, 7), (1, 7)]));
        let all = plan(ResetTarget::Earliest, Selection::All).expect("a plan");
        assert_eq!(all.len(), stored().len());
        let selection = Selection::Partitions(&[0, 7]);
        assert_eq!(
            plan(ResetTarget::Earliest, selection),
            Err(ResetError::NoPosition(7))
        );
    }

    #[test]
    fn a_time_after_the_last_record_is_the_end_of_the_log() {
        let time = ResetTarget::Time(Timestamp::UNIX_EPOCH);
        let selection = Selection::Partitions(&[0, 1]);
        assert_eq!(plan(time, selection), Ok(vec![(0, 25), (1, 50)]));
    }

    #[test]
    fn an_offset_must_be_in_the_log() {
        let selection = Selection::Partitions(&[0]);
        for offset in [4, 51] {
            let error = plan(ResetTarget::Offset(offset), selection).expect_err("not in the log");
            assert!(error.to_string().contains("5 to 50"), "{error}");
        }
        for offset in [5, 50] {
            assert_eq!(
                plan(ResetTarget::Offset(offset), selection),
                Ok(vec![(0, offset)])
            );
        }
    }
}
