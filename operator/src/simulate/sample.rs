//! State of a simulation over time.

/// State of the simulation at the end of one second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Lag of all partitions, in records.
    pub lag: u64,
    /// Desired replicas.
    pub replicas: u32,
}
