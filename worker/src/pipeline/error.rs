//! Error of one attempt to commit a batch, with its policy and the dependency that caused it.

use crate::error_policy::ErrorPolicy;
use crate::health::Dependency;
use crate::layer::interface::LookupError;
use crate::panic_guard::catch_panic;
use crate::position::Stop;
use crate::publish::PublishError;
use crate::rejection::Rejection;
use crate::session;
use crate::warehouse;

/// Runs an attempt, or a step of one. A panic is the error [`PipelineError::Panic`].
pub(super) async fn panic_to_error<T, E: Into<PipelineError>>(
    attempt: impl Future<Output = Result<T, E>>,
) -> Result<T, PipelineError> {
    let result = catch_panic(attempt).await.map_err(PipelineError::Panic)?;
    result.map_err(Into::into)
}

/// Error of an attempt; nothing of the attempt is committed.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// PostgreSQL rejected a statement, or is unreachable.
    #[error(
        "{0}; check that PostgreSQL runs, the keys of spec.warehouse.authSecretName, and that `worker migrate` was run"
    )]
    Warehouse(#[from] sqlx::Error),
    /// Kafka did not acknowledge an output.
    #[error("{0}")]
    Publish(#[from] PublishError),
    /// Redis did not answer a lookup.
    #[error("{0}")]
    Lookup(#[from] LookupError),
    /// The worker panicked; a bisection finds the record.
    #[error("{0}")]
    Panic(Rejection),
    /// The positions may not be used: another worker of the stage stopped, or they were reset to another log.
    #[error("{0}")]
    Stopped(Stop),
    /// PostgreSQL rejects most records of the batch.
    #[error("{0}")]
    MostRejected(String),
    /// The stored position of this assigned partition was deleted.
    #[error(
        "the position of partition {0} is missing from streamstage.position; restart the worker to read the partition \
         from its beginning"
    )]
    PositionMissing(i32),
}

impl PipelineError {
    /// Policy by the table in [`crate::error_policy`].
    #[must_use]
    pub fn policy(&self) -> ErrorPolicy {
        match self {
            Self::Warehouse(error) => warehouse::error_policy(error),
            Self::Publish(error) => error.policy(),
            Self::Lookup(_) | Self::MostRejected(_) => ErrorPolicy::Retry,
            Self::Panic(_) => ErrorPolicy::DeadLetter,
            Self::PositionMissing(_) | Self::Stopped(_) => ErrorPolicy::Stop,
        }
    }

    /// Returns true if a deadline of PostgreSQL ended the attempt.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::Warehouse(error) if session::is_timeout(error))
    }

    /// Dependency that caused the error.
    #[must_use]
    pub fn dependency(&self) -> Dependency {
        match self {
            Self::Warehouse(_)
            | Self::Panic(_)
            | Self::MostRejected(_)
            | Self::PositionMissing(_)
            | Self::Stopped(_) => Dependency::Warehouse,
            Self::Publish(_) => Dependency::Output,
            Self::Lookup(_) => Dependency::ReferenceData,
        }
    }
}
