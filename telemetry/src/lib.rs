//! Telemetry of a StreamStage binary: the log, the output of commands, the HTTP endpoints for probes and Prometheus, and
//! process metrics.
//!
//! Must never know a stage: each binary adds its own readiness and metrics.
//!
//! - [`log`]: structured log lines on standard error
//! - [`http`]: `/livez` and `/metrics`; the binary adds `/readyz`
//! - [`progress`]: the steps in progress, for `/livez`
//! - [`process`]: CPU, memory and file descriptors of this process
//! - [`stdout`]: output of a command, also to a pipe that its reader closes

pub mod http;
pub mod log;
#[cfg(target_os = "linux")]
pub mod process;
pub mod progress;
pub mod stdout;
