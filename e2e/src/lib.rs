//! Infrastructure for the demo and for tests of the whole pipeline: local services and an order generator.
//!
//! [`services`] starts real Kafka, PostgreSQL and Redis as local processes, and always stops them.
//! [`orders`] generates the reference data and the messages of the source system, valid and malformed, from a seed.
//! [`pipeline`] is one isolated pipeline on these services: its topics, database, stage file and workers.
//! [`mod@bench`] measures the pipeline beside its peers.
//! [`recount`] counts the marts a second time, from the messages alone.

pub mod bench;
pub mod demo;
pub mod orders;
pub mod pipeline;
pub mod recount;
pub mod services;
