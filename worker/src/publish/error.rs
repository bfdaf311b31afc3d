//! Error of a message that the brokers did not acknowledge, with its policy. Pure.

use std::time::Duration;

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::error_policy::ErrorPolicy;

/// Error of a publish. Nothing of the batch is committed then.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The topic's limit was lowered since it was read.
    #[error("topic {0} rejects a message as too large; raise its max.message.bytes")]
    TooLarge(String),
    /// A message was not acknowledged: rejected, or not confirmed in time.
    #[error("topic {topic}: {source}; check that the topic exists and that the stage may write to it")]
    Unacknowledged {
        /// Topic of the message.
        topic: String,
        /// Error of the client.
        source: KafkaError,
    },
    /// The brokers did not acknowledge the batch in time. Its messages are still in flight, and a retry waits for them.
    #[error("topic {topic}: not acknowledged within {timeout:?}; check that the brokers are reachable")]
    TimedOut {
        /// Topic of the messages.
        topic: String,
        /// Time that a batch has.
        timeout: Duration,
    },
    /// The client cannot recover.
    #[error("fatal Kafka client error: {0}; restart the worker")]
    Fatal(KafkaError),
}

impl PublishError {
    /// Error of a message to this topic.
    #[must_use]
    pub fn new(topic: &str, source: KafkaError) -> Self {
        match source.rdkafka_error_code() {
            Some(RDKafkaErrorCode::MessageSizeTooLarge) => Self::TooLarge(topic.to_owned()),
            Some(RDKafkaErrorCode::Fatal | RDKafkaErrorCode::OutOfOrderSequenceNumber) => Self::Fatal(source),
            _ => Self::Unacknowledged {
                topic: topic.to_owned(),
                source,
            },
        }
    }

    /// Returns true if the client's queue has no room for the message at present.
    #[must_use]
    pub fn is_queue_full(&self) -> bool {
        self.client_code() == Some(RDKafkaErrorCode::QueueFull)
    }

    /// Returns true if the topic rejects this message, and possibly no other one: it is too large, or has no key for a
    /// compacted topic.
    #[must_use]
    pub fn is_rejection(&self) -> bool {
        matches!(self, Self::TooLarge(_))
            || matches!(
                self.client_code(),
                Some(
                    RDKafkaErrorCode::InvalidRecord
                        | RDKafkaErrorCode::InvalidMessage
                        | RDKafkaErrorCode::InvalidTimestamp
                        | RDKafkaErrorCode::InvalidMessageSize
                )
            )
    }

    fn client_code(&self) -> Option<RDKafkaErrorCode> {
        match self {
            Self::Unacknowledged { source, .. } => source.rdkafka_error_code(),
            Self::TooLarge(_) | Self::TimedOut { .. } | Self::Fatal(_) => None,
        }
    }

    /// Policy by the table in [`crate::error_policy`].
    #[must_use]
    pub fn policy(&self) -> ErrorPolicy {
        match self {
            Self::TooLarge(_) => ErrorPolicy::DeadLetter,
            Self::Unacknowledged { .. } | Self::TimedOut { .. } => ErrorPolicy::Retry,
            Self::Fatal(_) => ErrorPolicy::Stop,
        }
    }
}
