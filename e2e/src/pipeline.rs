//! One isolated pipeline on shared services: its own database, topics, consumer groups and Redis database.
//!
//! It runs the real worker binary with a stage file derived from `examples/local.yaml`. It must neither link the worker
//! nor simulate a part of it. Tests of the whole pipeline start here.

use anyhow::Result;

use crate::services::{Options, Services};

mod drain;
mod inputs;
mod instance;
mod redis_database;
mod rows;
mod topics;
mod worker;

pub use drain::wait_until;
pub use instance::{Pipeline, STAGES, TEST_APPLICATION_NAME};
pub use redis_database::RedisDatabase;
pub use topics::Record;
pub use worker::{Worker, find_worker_binary};

/// Connects to the services that the environment names, and starts the others for this test.
///
/// # Errors
/// As [`Services::start`].
pub async fn start_services() -> Result<Services> {
    Services::from_env_or_start(Options::default()).await
}
