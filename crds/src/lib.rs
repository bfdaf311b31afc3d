//! The contract of StreamStage: the resource that a user writes, and the messages that stages exchange.
//!
//! Everything here is a function of its arguments.
//! This crate must never read a file, a socket, the environment or the clock: the operator and the worker do
//! that at their edges and pass the text in.
//!
//! - [`stage`]: the custom resource `StreamStage`, its bounds and CEL rules, and the same checks in Rust
//! - [`status`]: what the operator reports about a stage: lag, decisions, conditions
//! - [`document`]: one or several `StreamStage` resources as YAML text, the form that the worker reads
//! - [`kafka_security`]: which settings of a Kafka client follow from a Secret
//! - [`contract`]: the JSON messages between the source, the stages and the dictionary

pub mod contract;
pub mod document;
pub mod kafka_security;
pub mod stage;
pub mod status;

pub use stage::{StreamStage, StreamStageSpec};
pub use status::StreamStageStatus;
