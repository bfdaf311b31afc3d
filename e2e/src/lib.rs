//! What the tests and the demo of the whole pipeline stand on: local services and a generator of orders.
//!
//! [`services`] starts real Kafka, PostgreSQL and Redis as local processes and stops them for certain.
//! [`orders`] makes the dictionaries and the messages of the source system, good and bad, from a seed.

pub mod orders;
pub mod services;
