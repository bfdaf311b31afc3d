#![expect(clippy::disallowed_types, reason = "edge: connects to Redis")]
//! The connection to Redis. It opens at the first request, and again after an error or a timeout.
//!
//! The library's connection manager connects again after an error only: it would wait forever for a connection that went
//! silent.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig};
use redis::{Client, Cmd, Pipeline, RedisFuture, RedisResult, Value};

/// Timeout of a request, and of a connection attempt.
pub const REDIS_TIMEOUT: Duration = Duration::from_secs(5);

/// Connection to Redis; clones share it.
#[derive(Clone)]
pub struct RedisConnection {
    client: Client,
    current: Arc<Mutex<ConnectionManager>>,
}

impl RedisConnection {
    /// Creates a connection, which opens at the first request.
    ///
    /// # Errors
    /// If the settings of the client are invalid.
    pub fn new(client: Client) -> RedisResult<Self> {
        let current = Arc::new(Mutex::new(create_manager(&client)?));
        Ok(Self { client, current })
    }

    /// Replaces the connection if there was no answer in time.
    fn replace_after_timeout<T>(&self, result: &RedisResult<T>) -> RedisResult<()> {
        if result.as_ref().is_err_and(redis::RedisError::is_timeout) {
            *self.lock() = create_manager(&self.client)?;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, ConnectionManager> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn create_manager(client: &Client) -> RedisResult<ConnectionManager> {
    let config = ConnectionManagerConfig::new()
        .set_number_of_retries(1)
        .set_response_timeout(Some(REDIS_TIMEOUT))
        .set_connection_timeout(Some(REDIS_TIMEOUT));
    ConnectionManager::new_lazy_with_config(client.clone(), config)
}

impl ConnectionLike for RedisConnection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move {
            let mut connection = self.lock().clone();
            let result = connection.req_packed_command(command).await;
            self.replace_after_timeout(&result)?;
            result
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        commands: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(async move {
            let mut connection = self.lock().clone();
            let result = connection.req_packed_commands(commands, offset, count).await;
            self.replace_after_timeout(&result)?;
            result
        })
    }

    fn get_db(&self) -> i64 {
        self.lock().get_db()
    }
}
