//! Query for positions whose offsets are not accounted for. Pure.
//!
//! A worker adds the number of processed offsets whenever it advances a position, and `worker reset-offsets` adjusts the
//! base, so that the position is always their sum.

/// Positions that something else has changed.
pub(super) const UNACCOUNTED: &str = "\
SELECT 'streamstage.position',
    format('consumer_group %s, topic %s, partition %s', consumer_group, topic, partition),
    format('next_offset is %s, but the offsets up to %s are accounted for', next_offset, base_offset + processed_offsets)
FROM streamstage.position
WHERE next_offset <> base_offset + processed_offsets";
