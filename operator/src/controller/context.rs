#![expect(clippy::disallowed_types, reason = "edge: has the client of the API server")]
//! State that all reconciles share.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kube::Client;
use kube::runtime::events::Recorder;
use tokio::sync::Semaphore;

use crate::defaults::WorkerDefaults;
use crate::hosts::HostPattern;
use crate::lag::store::LagStore;
use crate::metrics::Metrics;
use crate::report::PublishedEvents;
use crate::stage_summary::StageStore;

/// State that all reconciles share.
pub struct Context {
    /// Client of the API server.
    pub client: Client,
    /// Cached part of every watched stage.
    pub stages: StageStore,
    /// Defaults of the workers.
    pub defaults: WorkerDefaults,
    /// Hosts that stages may connect to; empty for all hosts.
    pub allowed_hosts: Vec<HostPattern>,
    /// One permit per reconcile at a time: each has the objects that it read in memory.
    pub permits: Semaphore,
    /// Metrics of the operator.
    pub metrics: Metrics,
    /// Recorder that publishes events to the API server.
    pub recorder: Recorder,
    /// Recently published events, which are not repeated.
    pub published_events: PublishedEvents,
    /// Lag of every stage.
    pub lag_store: Arc<LagStore>,
    /// Failures in a row by stage, as `namespace/name`.
    pub failures: Mutex<HashMap<String, u32>>,
    /// Timeout of the API server for one timed step of a reconcile.
    pub api_timeout: Duration,
}

impl Context {
    pub(super) fn count_failure(&self, key: &str) -> u32 {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let count = failures.entry(key.to_owned()).or_default();
        *count += 1;
        *count
    }

    pub(super) fn failure_count(&self, key: &str) -> u32 {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.get(key).copied().unwrap_or_default()
    }

    pub(super) fn reset_failures(&self, key: &str) {
        self.failures
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(key);
    }
}
