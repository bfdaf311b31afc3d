//! Members of a stage's consumer group, as a poll sees them. Data only.

use std::collections::BTreeMap;

/// Members of a consumer group, with the partitions of the stage's topic that each one reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupMembers {
    /// The group is stable: partitions by the name of the member.
    Assigned(BTreeMap<String, Vec<u32>>),
    /// The group assigns its partitions.
    Assigning,
    /// The members may not be seen; the number of ready workers. The group then counts as one reader.
    Hidden(u32),
}
