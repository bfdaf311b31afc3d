//! Worker of StreamStage: loads Kafka topics into the warehouse, in micro-batches.
//!
//! Read the batch pipeline from top to bottom: [`consume`], [`decode`], [`layer`] (enrich and write), [`publish`],
//! and [`pipeline`], which runs them. A module with I/O says so in its first line ("edge:"); all other modules are
//! pure functions of their arguments.

pub mod backoff;
pub mod batch;
pub mod chunks;
pub mod command;
pub mod connect;
pub mod consume;
pub mod copy_task;
pub mod dead_letter;
pub mod decode;
pub mod encode;
pub mod encoding;
pub mod error_policy;
pub mod health;
pub mod hold;
pub mod hold_state;
pub mod http;
pub mod layer;
pub mod metrics;
pub mod output;
pub mod output_size;
pub mod panic_guard;
pub mod pipeline;
pub mod plan;
pub mod position;
pub mod position_store;
pub mod postgres_host;
pub mod publish;
pub mod reader;
pub mod record;
pub mod record_columns;
pub mod redis_connection;
pub mod rejection;
pub mod session;
pub mod stage;
pub mod start_offsets;
pub mod statement;
pub mod strict;
pub mod topic_id;
pub mod vault;
pub mod version;
pub mod warehouse;
