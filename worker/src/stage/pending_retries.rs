//! Retries the pending orders of a stage beside its batches, and reports their number and age.

use std::sync::Arc;
use std::time::Duration;

use crate::consume::BatchLimits;
use crate::error_policy::ErrorPolicy;
use crate::health::Dependency;
use crate::layer::stg::Stg;
use crate::layer::stg::pending::PageLimits;
use crate::pipeline::{Pipeline, PipelineError};

/// Interval between two queries for pending orders that are due.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// Number of these intervals between two updates of the metrics, whose query counts all pending orders.
const INTERVALS_PER_REPORT: u32 = 10;
/// Maximum bytes of the orders in one transaction, if a batch may be larger: the two are in memory at the same time.
const MAX_PAGE_BYTES: usize = 4 << 20;

/// Retries pending orders until a shutdown. A terminal error, or a panic, stops the stage.
pub(super) async fn run(
    pipeline: Arc<Pipeline<Stg>>,
    max_wait: Duration,
    batch: BatchLimits,
) -> Result<(), PipelineError> {
    let _stop_stage = pipeline.stop.clone().drop_guard();
    let limits = PageLimits {
        max_orders: batch.max_records,
        max_bytes: batch.max_bytes.min(MAX_PAGE_BYTES),
    };
    let mut interval = tokio::time::interval(RETRY_INTERVAL);
    let mut unavailable: Option<Dependency> = None;
    for is_report_due in (0..INTERVALS_PER_REPORT).map(|number| number == 0).cycle() {
        tokio::select! {
            () = pipeline.stop.cancelled() => break,
            _ = interval.tick() => {}
        }
        match retry_and_report(&pipeline, max_wait, limits, is_report_due).await {
            Ok(()) => {
                // Only an outage that this task has reported: the pipeline ends its own.
                if let Some(dependency) = unavailable.take() {
                    pipeline.health.mark_available(dependency);
                }
            }
            Err(error) if error.policy() == ErrorPolicy::Stop => return Err(error),
            Err(error) => {
                let dependency = error.dependency();
                let cause = format!("retry of pending orders failed: {error}");
                pipeline.health.mark_unavailable(dependency, &cause);
                let previous = unavailable.replace(dependency);
                if let Some(previous) = previous.filter(|&previous| previous != dependency) {
                    pipeline.health.mark_available(previous);
                }
            }
        }
    }
    Ok(())
}

async fn retry_and_report(
    pipeline: &Pipeline<Stg>,
    max_wait: Duration,
    limits: PageLimits,
    is_report_due: bool,
) -> Result<(), PipelineError> {
    let orders = pipeline.retry_pending(max_wait, limits).await?;
    if orders > 0 {
        tracing::info!(orders, "retried pending orders");
    }
    if orders > 0 || is_report_due {
        pipeline.report_pending().await?;
    }
    Ok(())
}
