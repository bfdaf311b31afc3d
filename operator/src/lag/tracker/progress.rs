//! Progress of the partitions with lag, and which of them are stuck.

use std::collections::{BTreeMap, BTreeSet};

use crds::status::PartitionLag;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::lag::offsets::OffsetSnapshot;

/// Progress of the partitions with lag, by partition id.
#[derive(Clone, Debug, Default)]
pub(super) struct ProgressTracker(BTreeMap<u32, PartitionProgress>);

/// Position of a partition, and the time since which it is unchanged.
#[derive(Clone, Copy, Debug)]
struct PartitionProgress {
    position: u64,
    /// `Timestamp::MIN` if a predecessor reported the partition as stuck.
    unchanged_since: Timestamp,
}

impl ProgressTracker {
    /// Restores the partitions that the previous leader reported as stuck.
    pub(super) fn from_stuck<'p>(partitions: impl Iterator<Item = &'p PartitionLag>) -> Self {
        let progress = partitions.map(|partition| {
            let progress = PartitionProgress {
                position: partition.committed_offset,
                unchanged_since: Timestamp::MIN,
            };
            (partition.partition, progress)
        });
        Self(progress.collect())
    }

    /// Updates the progress of the partitions with lag and returns the stuck ones.
    ///
    /// Without ready workers no partition can make progress, so the time does not count.
    pub(super) fn update(
        &mut self,
        snapshot: &OffsetSnapshot,
        now: Timestamp,
        (ready_replicas, stuck_after): (u32, SignedDuration),
    ) -> BTreeSet<u32> {
        let previous = std::mem::take(&mut self.0);
        for partition in snapshot.partitions.iter().filter(|partition| partition.lag() > 0) {
            let position = partition.position();
            let unchanged = previous
                .get(&partition.partition)
                .filter(|previous| previous.position == position);
            // A partition that a predecessor reported as stuck stays stuck without workers too.
            let counts = ready_replicas > 0
                || unchanged.is_some_and(|progress| progress.unchanged_since == Timestamp::MIN);
            let unchanged_since = unchanged
                .filter(|_| counts)
                .map_or(now, |progress| progress.unchanged_since.min(now));
            let progress = PartitionProgress {
                position,
                unchanged_since,
            };
            self.0.insert(partition.partition, progress);
        }
        let stuck = self
            .0
            .iter()
            .filter(|(_, progress)| now.duration_since(progress.unchanged_since) >= stuck_after);
        stuck.map(|(partition, _)| *partition).collect()
    }
}
