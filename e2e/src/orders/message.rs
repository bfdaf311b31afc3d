//! Messages of the source topic, with their expected outcome.

/// Expected outcome of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Expected {
    /// The message is stored.
    Good,
    /// The message is dead-lettered with this code.
    Bad(&'static str),
}

/// One message of the source topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Value; `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    /// Expected outcome in the pipeline.
    pub expected: Expected,
}
