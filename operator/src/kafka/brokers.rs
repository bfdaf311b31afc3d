#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "edge: sends requests to brokers, until a deadline"
)]
//! Connections to the brokers of a cluster: a request uses one that is idle, or opens another one.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kafka::protocol::error::ResponseError;
use kafka::{Cause, ClientRequest, Connection, Metadata, RequestError, Settings};

use super::error;
use crate::lag::offsets::{LagError, LagErrorReason};

/// Maximum number of idle connections to a broker: two poll rounds of one client may run at a time.
const MAX_IDLE: usize = 2;

/// Brokers of a cluster.
pub(super) struct Brokers {
    settings: Settings,
    /// Connections that no request uses, by address.
    idle: Mutex<HashMap<String, Vec<Connection>>>,
}

impl Brokers {
    pub(super) fn new(settings: Settings) -> Self {
        let idle = Mutex::default();
        Self { settings, idle }
    }

    /// Sends requests to a broker, and returns the responses in their order. `requests` builds those of a version.
    pub(super) async fn request<R: ClientRequest>(
        &self,
        metadata: &Metadata,
        broker: i32,
        requests: impl Fn(i16) -> Vec<R>,
        deadline: Instant,
    ) -> Result<Vec<R::Response>, Failure> {
        match metadata.brokers.get(&broker) {
            Some(address) => self.request_from(address, requests, deadline).await,
            None => Err(Failure::Code(ResponseError::BrokerNotAvailable)),
        }
    }

    /// As [`Self::request`], by the address of the broker.
    pub(super) async fn request_from<R: ClientRequest>(
        &self,
        address: &str,
        requests: impl Fn(i16) -> Vec<R>,
        deadline: Instant,
    ) -> Result<Vec<R::Response>, Failure> {
        let idle = self.idle().get_mut(address).and_then(Vec::pop);
        if let Some(mut connection) = idle {
            match send_all(&mut connection, &requests, deadline).await {
                Ok(responses) => {
                    self.release(connection);
                    return Ok(responses);
                }
                // A broker closes a connection that was idle for long.
                Err(error) if matches!(error.cause, Cause::Connection(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let mut connection = Connection::open(address, &self.settings, remaining(deadline)).await?;
        let responses = send_all(&mut connection, &requests, deadline).await?;
        self.release(connection);
        Ok(responses)
    }

    /// Closes the idle connections to brokers that are gone: each counts as one of its namespace.
    pub(super) fn close_others(&self, metadata: &Metadata) {
        self.idle().retain(|address, _| {
            *address == metadata.answered_by || metadata.brokers.values().any(|broker| broker == address)
        });
    }

    fn release(&self, connection: Connection) {
        let mut idle = self.idle();
        let connections = idle.entry(connection.broker().to_owned()).or_default();
        if connections.len() < MAX_IDLE {
            connections.push(connection);
        }
    }

    fn idle(&self) -> MutexGuard<'_, HashMap<String, Vec<Connection>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Cause of a missing answer.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    /// The broker rejects the request.
    Code(ResponseError),
    /// The broker does not answer. The log has the cause: from the status of a stage its author must not learn which
    /// ports are open.
    NoAnswer,
}

impl Failure {
    /// Error of a group whose request needs this ACL operation.
    pub(super) fn group_error(&self, group: &str, acl_operation: &str) -> LagError {
        match self {
            Self::Code(code) => error::group_error(group, acl_operation, *code),
            Self::NoAnswer => LagError::new(
                LagErrorReason::PartialOffsets,
                format!("no response in time from the coordinator of group {group}; check the Kafka brokers"),
            ),
        }
    }
}

impl From<RequestError> for Failure {
    fn from(error: RequestError) -> Self {
        tracing::debug!(%error, "a request to Kafka failed");
        match error.cause {
            Cause::Broker(code) => Self::Code(code),
            _ => Self::NoAnswer,
        }
    }
}

async fn send_all<R: ClientRequest>(
    connection: &mut Connection,
    requests: &impl Fn(i16) -> Vec<R>,
    deadline: Instant,
) -> Result<Vec<R::Response>, RequestError> {
    let mut responses = Vec::new();
    for request in requests(connection.version::<R>()?) {
        responses.push(connection.request(&request, remaining(deadline)).await?);
    }
    Ok(responses)
}

/// Time until the deadline.
pub(super) fn remaining(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::future::join_all;
    use kafka::{Restrictions, Security};
    use rdkafka::mocking::MockCluster;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::kafka::requests::find_coordinators;

    #[tokio::test]
    async fn idle_connections_are_few_and_end_with_their_broker() {
        let cluster = MockCluster::new(1).expect("start a broker");
        let address = cluster.bootstrap_servers();
        let permits = Arc::new(Semaphore::new(10));
        let brokers = Brokers::new(Settings {
            client_id: "test".to_owned(),
            security: Security::default(),
            max_response_bytes: 1 << 20,
            restrictions: Restrictions {
                connections: vec![Arc::clone(&permits)],
                ..Restrictions::default()
            },
        });
        let deadline = Instant::now() + Duration::from_secs(30);
        let ask = async || {
            let request = |version| find_coordinators(&["group"], version);
            brokers.request_from(&address, request, deadline).await.is_ok()
        };
        assert_eq!(join_all((0..5).map(|_| ask())).await, [true; 5]);
        assert_eq!(permits.available_permits(), 10 - MAX_IDLE);
        assert!(ask().await, "with an idle connection");
        assert_eq!(permits.available_permits(), 10 - MAX_IDLE);
        let metadata = Metadata {
            answered_by: address.clone(),
            ..Metadata::default()
        };
        brokers.close_others(&metadata);
        assert_eq!(permits.available_permits(), 10 - MAX_IDLE);
        brokers.close_others(&Metadata::default());
        assert_eq!(permits.available_permits(), 10);
    }
}
