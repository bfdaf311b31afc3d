//! The operator's log: structured lines on standard error, with ids and counts, never payloads or secrets.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

/// Starts the log: text for a terminal, JSON for everything else. `RUST_LOG` sets what is shown.
pub fn start() {
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,kube_lease_manager=warn"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        builder.with_target(false).init();
    } else {
        builder.json().flatten_event(true).with_target(false).init();
    }
}
