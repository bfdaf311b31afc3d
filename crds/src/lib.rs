//! API types of StreamStage: the custom resource that users write, and the messages that stages exchange.
//!
//! Every function depends on its arguments only.
//! This crate never reads a file, a socket, the environment or the clock: the operator and the worker read them and
//! pass the text in.
//!
//! - [`stage`]: spec of the custom resource `StreamStage`, with its bounds, its CEL rules and the same checks in Rust
//! - [`status`]: its status, written by the operator: lag, scaling decisions, conditions
//! - [`model`]: spec of the custom resource `StreamModel`: records, versions, lookups and the Data Vault, and its check
//! - [`document`]: YAML files with `StreamStage` or `StreamModel` resources, the input of the worker
//! - [`kafka`]: settings of a Kafka client, derived from a Secret
//! - [`secret`]: text of the keys of a Secret
//! - [`contract`]: JSON messages of the source, between the stages, and of the reference data
//! - [`timestamp`]: timestamps in both, with the patterns of their schemas

pub mod contract;
pub mod document;
pub mod kafka;
pub mod model;
mod schema;
pub mod secret;
pub mod stage;
pub mod status;
pub mod timestamp;

pub use model::{StreamModel, StreamModelSpec};
pub use stage::{StreamStage, StreamStageSpec};
pub use status::StreamStageStatus;
