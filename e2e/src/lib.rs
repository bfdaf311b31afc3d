//! What the tests and the demo of the whole pipeline stand on: local services and a generator of orders.
//!
//! [`services`] starts real Kafka, PostgreSQL and Redis as local processes and stops them for certain.
//! [`orders`] makes the dictionaries and the messages of the source system, good and bad, from a seed.
//! [`cluster`] is a Kubernetes cluster with the operator in it, and a story's place there.
//! [`pipeline`] is one isolated pipeline on these services: its topics, its database, its stage file, its workers.

pub mod cluster;
pub mod demo;
pub mod orders;
pub mod pipeline;
pub mod recount;
pub mod services;
