//! Terminal error of a stage.

use crate::connect::ConnectError;
use crate::consume::ConsumeError;
use crate::encoding::UnsupportedEncoding;
use crate::layer::stg::REDIS_CLUSTER_UNSUPPORTED;
use crate::pipeline::PipelineError;

/// Terminal error of a stage.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// The settings of a connection are invalid.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The consumer failed.
    #[error(transparent)]
    Consume(#[from] ConsumeError),
    /// A batch failed.
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    /// A task of the stage panicked.
    #[error("a task of the stage panicked: {0}; see its log lines")]
    Task(#[from] tokio::task::JoinError),
    /// The Kafka client rejects its settings.
    #[error("the Kafka client rejects its settings: {0}; check the keys of spec.source.authSecretName")]
    Settings(#[from] rdkafka::error::KafkaError),
    /// The document was not validated: reference data is missing.
    #[error("spec.referenceData: required for the layer stg")]
    NoReferenceData,
    /// The warehouse cannot store every text.
    #[error("spec.warehouse: {0}")]
    Encoding(#[from] UnsupportedEncoding),
    /// The reference data is in a Redis Cluster.
    #[error("spec.referenceData.url: {REDIS_CLUSTER_UNSUPPORTED}")]
    RedisCluster,
    /// The time zone is unknown.
    #[error("spec.timezone: {0}")]
    Timezone(#[from] jiff::Error),
}
