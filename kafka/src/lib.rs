#![expect(clippy::disallowed_types, reason = "edge: this crate is a client of Kafka")]
//! A small Kafka client: connections with TLS and SASL, requests with deadlines, and the leaders of a topic.
//!
//! It has no producer and no consumer group; librdkafka does both. It exists for what librdkafka cannot do: a response is
//! refused by its size before memory is allocated for it, and its bytes reach the caller as the broker sent them.
//! The worker fetches records with it. Never panics on the bytes of a broker, and never reports a secret.

mod assignment;
mod cluster;
mod connection;
mod error;
mod layout;
mod scram;
mod security;
mod socket;

pub use assignment::assigned_partitions;
pub use cluster::{Cluster, MAX_BROKERS, Metadata, TopicMetadata};
pub use connection::{Announced, Connection, Restrictions, Settings};
pub use error::{Cause, RequestError};
pub use kafka_protocol as protocol;
pub use layout::{ClientRequest, Layout};
pub use security::{Pem, Sasl, Security, Tls};
pub use socket::AddressPolicy;
