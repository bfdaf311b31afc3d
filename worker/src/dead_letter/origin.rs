//! Owner of the rows that a stage writes: its consumer group, its topic and its name.

/// Consumer group and topic that a stage reads, and its name: the owner of positions, dead letters and pending orders.
#[derive(Clone, Debug)]
pub struct Origin {
    /// Name of the stage.
    pub stage: String,
    /// Consumer group of the stage.
    pub consumer_group: String,
    /// Source topic of the stage.
    pub topic: String,
}

impl Origin {
    /// Record source of the stage's rows, for the column `load_src`: `kafka:<topic>`.
    #[must_use]
    pub fn record_source(&self) -> String {
        format!("kafka:{}", self.topic)
    }
}
