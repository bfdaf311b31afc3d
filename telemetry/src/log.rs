//! Structured log lines on standard error. They carry IDs and counts, never payloads or secrets. A line that cannot be
//! written, because the reader has closed the pipe, is dropped.

use std::io::IsTerminal as _;

use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Initializes logging: text on a terminal, otherwise one JSON object per line. `RUST_LOG` replaces `default_filter`.
///
/// # Panics
/// If logging was initialized before.
pub fn init(default_filter: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default_filter));
    if std::io::stderr().is_terminal() {
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .with_target(false)
            .log_internal_errors(false)
            .init();
    } else {
        json_subscriber(filter, std::io::stderr).init();
    }
}

/// Returns the subscriber behind [`init`] that writes JSON to `writer`.
///
/// The field `spans` of a line lists the enclosing spans with their fields, the outermost first.
/// The field `span`, which would repeat the innermost, is omitted.
pub fn json_subscriber(
    filter: EnvFilter,
    writer: impl for<'w> MakeWriter<'w> + Send + Sync + 'static,
) -> impl Subscriber + Send + Sync {
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        // It would report a failed write on standard error too, and panic.
        .log_internal_errors(false)
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_target(false)
        .finish()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::Value;

    use super::*;

    #[test]
    fn a_line_contains_the_fields_of_its_spans() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let writer = Arc::new(file.reopen().expect("a writable file"));
        tracing::subscriber::with_default(json_subscriber(EnvFilter::new("warn"), writer), || {
            let span = tracing::error_span!("reconcile", stage = "cdm", reconcile_id = 7);
            span.in_scope(|| tracing::warn!(failures = 1, "reconcile failed, requeued"));
        });
        let line = std::fs::read_to_string(file.path()).expect("a line");
        let line: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(line["failures"], 1);
        assert_eq!(
            line["spans"],
            serde_json::json!([{"name": "reconcile", "stage": "cdm", "reconcile_id": 7}])
        );
    }
}
