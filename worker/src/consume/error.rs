//! Errors of the consumer, and their remedies.

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::position::Stop;

/// Terminal error of a consumer.
#[derive(Debug, thiserror::Error)]
pub enum ConsumeError {
    /// The client rejects its settings.
    #[error("cannot consume topic {topic}: {source}; check spec.source and the keys of its secret")]
    Setup {
        /// Source topic.
        topic: String,
        /// Error of the client.
        source: KafkaError,
    },
    /// The start offsets of assigned partitions are unknown or out of range.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The client cannot recover.
    #[error("fatal Kafka client error: {0}; restart the worker")]
    Fatal(String),
    /// The polling thread panicked.
    #[error("the polling thread panicked; see its log lines")]
    ThreadPanicked,
}

/// Error while the start offsets of assigned partitions are resolved.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A stored position is outside of the log, or belongs to another one.
    #[error("{0}")]
    Stopped(Stop),
    /// PostgreSQL is unreachable.
    #[error(
        "cannot read positions: {0}; check that PostgreSQL runs, and the keys of spec.warehouse.authSecretName"
    )]
    Warehouse(#[from] sqlx::Error),
    /// Kafka is unreachable.
    #[error("cannot read the log range: {0}")]
    Source(#[from] KafkaError),
}

/// Remedy for a client error, to append to its message; empty for an error without a specific remedy.
pub(super) fn remedy(error: &KafkaError) -> &'static str {
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::Authentication) => {
            "; check the keys username, password and mechanism of spec.source.authSecretName"
        }
        Some(RDKafkaErrorCode::SSL) => {
            "; check the keys security.protocol and ca.crt of spec.source.authSecretName"
        }
        _ => "",
    }
}
