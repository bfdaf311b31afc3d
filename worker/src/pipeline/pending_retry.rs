#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "edge: retries pending orders"
)]
//! Retries pending orders: orders whose reference data was missing.
//!
//! One transaction, with the same steps as a batch. An order whose entries exist now is published. One that waited
//! longer than `maxWait` becomes a dead letter. The others stay pending, with twice the delay. If an order fails,
//! each order is retried in its own transaction, so that it does not delay the others. A transaction has the size of a
//! batch, in orders and in bytes, however many orders are due.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use sqlx::PgConnection;

use super::bisect;
use super::error::{PipelineError, panic_to_error};
use super::transaction::TransactionContext;
use crate::batch::{Batch, OffsetUpdates, Published, RejectedRecord, Written};
use crate::dead_letter::{self, ATTEMPTS_HEADER, RejectedFrom};
use crate::error_policy::ErrorPolicy;
use crate::layer::interface::{Effects, Layer as _};
use crate::layer::stg::pending::{self, PageLimits, PendingOrder};
use crate::layer::stg::{Enriched, Enrichment, Order, Stg};
use crate::metrics::Metrics;
use crate::panic_guard::{catch_panic, reject_panic};
use crate::position::OffsetRanges;
use crate::publish::{PublishError, TOO_LARGE_FOR_UNKNOWN_LIMIT};
use crate::record::{Header, Item};
use crate::rejection::{Code, Rejection};
use crate::session::with_deadline;
use crate::warehouse::TRANSACTION_TIMEOUT;

/// Results of the orders of one transaction.
#[derive(Default)]
struct RetryPlan {
    /// Orders that are no longer pending: id and version.
    resolved: Vec<(i64, Vec<u8>)>,
    /// Orders to publish.
    ready: Vec<Item<Enriched>>,
    /// Orders that stay pending: id, version and missing entries.
    postponed: Vec<(i64, Vec<u8>, Vec<String>)>,
    /// Orders to dead-letter.
    dead_letters: Vec<RejectedRecord>,
}

/// Retries a page of the orders that are due; returns their number, which is 0 if no order is due.
///
/// # Errors
/// An error of a dependency; the orders stay pending then.
pub(super) async fn retry_page(
    context: &TransactionContext<'_, Stg>,
    metrics: &Metrics,
    max_wait: Duration,
    limits: PageLimits,
) -> Result<usize, PipelineError> {
    let retry = async |limits| {
        let attempt = retry_batch(context, metrics, max_wait, limits);
        panic_to_error(Box::pin(with_deadline(TRANSACTION_TIMEOUT, attempt))).await
    };
    match retry(limits).await {
        Err(error) if is_record_error(&error) => {}
        result => return result,
    }
    let single = PageLimits {
        max_orders: 1,
        ..limits
    };
    let mut retried = 0;
    while retried < limits.max_orders && retry(single).await? > 0 {
        retried += 1;
    }
    Ok(retried)
}

/// Returns true if one of the orders causes the error, and not a dependency.
fn is_record_error(error: &PipelineError) -> bool {
    matches!(error.policy(), ErrorPolicy::DeadLetter | ErrorPolicy::Block)
}

/// Retries one page of orders in one transaction.
async fn retry_batch(
    context: &TransactionContext<'_, Stg>,
    metrics: &Metrics,
    max_wait: Duration,
    limits: PageLimits,
) -> Result<usize, PipelineError> {
    let started = Instant::now();
    let mut transaction = context.warehouse.begin_transaction(TRANSACTION_TIMEOUT).await?;
    let orders = pending::lock_due(transaction.connection(), context.origin, limits).await?;
    let count = orders.len();
    let single = match &orders[..] {
        [] => {
            transaction.rollback().await?;
            return Ok(0);
        }
        [single] => Some(single.clone()),
        _ => None,
    };
    let plan = match (
        catch_panic(plan_retries(context, orders, max_wait)).await,
        &single,
    ) {
        (Ok(plan), _) => plan?,
        (Err(rejection), Some(failed)) => {
            plan_for_failed_order(failed.clone(), &PipelineError::Panic(rejection))
        }
        (Err(rejection), None) => return Err(PipelineError::Panic(rejection)),
    };
    let connection = transaction.connection();
    sqlx::raw_sql("SAVEPOINT plan").execute(&mut *connection).await?;
    let published = match (apply_plan(context, &mut *connection, plan).await, single) {
        (Err(error), Some(failed)) if is_record_error(&error) => {
            if let PipelineError::Publish(PublishError::TooLarge(_)) = error
                && context.publisher.refresh_limit().await
            {
                // The next retry rejects the order by the new limit.
                return Err(error);
            }
            sqlx::raw_sql("ROLLBACK TO SAVEPOINT plan")
                .execute(&mut *connection)
                .await?;
            apply_plan(context, &mut *connection, plan_for_failed_order(failed, &error)).await?
        }
        (published, _) => published?,
    };
    context.commit(transaction, &published).await?;
    metrics.record_batch(
        &context.origin.stage,
        &published.state,
        started.elapsed().as_secs_f64(),
    );
    Ok(count)
}

/// Writes and publishes the plan as a batch without offset ranges: the positions are past these orders already.
async fn apply_plan(
    context: &TransactionContext<'_, Stg>,
    connection: &mut PgConnection,
    plan: RetryPlan,
) -> Result<Batch<Published>, PipelineError> {
    let applied = panic_to_error(async {
        let written = write(context, connection, &plan).await?;
        context.publish(written).await
    });
    applied.await
}

/// Plan for an order that failed in its own transaction: a dead letter, or a longer delay if the reason is unknown.
fn plan_for_failed_order(order: PendingOrder, error: &PipelineError) -> RetryPlan {
    let mut plan = RetryPlan::default();
    match error {
        PipelineError::Publish(_) => {
            let rejection = Rejection::new(Code::OutputTooLarge, TOO_LARGE_FOR_UNKNOWN_LIMIT);
            add_dead_letter(&mut plan, order, rejection);
        }
        PipelineError::Warehouse(cause) if error.policy() == ErrorPolicy::DeadLetter => {
            add_dead_letter(&mut plan, order, bisect::rejection_for(cause));
        }
        PipelineError::Panic(rejection) => add_dead_letter(&mut plan, order, rejection.clone()),
        _ => {
            tracing::error!(order = order.object_id, %error, "pending order failed, postponed");
            plan.postponed
                .push((order.object_id, order.version, order.missing_entries));
        }
    }
    plan
}

/// Writes the plan as a batch without offset ranges: the positions are past these orders already.
async fn write<'p>(
    context: &TransactionContext<'_, Stg>,
    connection: &mut PgConnection,
    plan: &'p RetryPlan,
) -> Result<Batch<Written<'p, Enriched>>, PipelineError> {
    pending::delete(connection, &plan.resolved).await?;
    pending::postpone(connection, &plan.postponed).await?;
    let rejected: Vec<&RejectedRecord> = plan.dead_letters.iter().collect();
    let dead_letters =
        dead_letter::insert(connection, context.origin, &rejected, RejectedFrom::Pending).await?;
    Ok(Batch {
        ranges: OffsetRanges::new(),
        state: Written {
            items: plan.ready.iter().collect(),
            effects: Effects {
                publish: (0..plan.ready.len()).collect(),
                ..Effects::default()
            },
            dead_letters,
            offset_updates: OffsetUpdates::default(),
        },
    })
}

/// Looks up the reference data again and plans the result of each order.
async fn plan_retries(
    context: &TransactionContext<'_, Stg>,
    pending_orders: Vec<PendingOrder>,
    max_wait: Duration,
) -> Result<RetryPlan, PipelineError> {
    let stg = context.layer;
    let now = Timestamp::now().as_microsecond();
    let mut plan = RetryPlan::default();
    let (mut orders, mut items): (Vec<PendingOrder>, Vec<Item<Order>>) = (Vec::new(), Vec::new());
    for mut order in pending_orders {
        match reject_panic(|| stg.decode(&order.record, now)) {
            Ok(value) => {
                items.push(Item {
                    record: std::mem::take(&mut order.record),
                    value,
                });
                orders.push(order);
            }
            // The record was valid when it was stored, but the limits of the stage have changed since.
            Err(rejection) => add_dead_letter(&mut plan, order, rejection),
        }
    }
    let lookup = stg.look_up(&items).await?;
    let has_expired = |order: &PendingOrder| order.waited_seconds() >= max_wait.as_secs_f64();
    if orders.iter().any(has_expired) {
        stg.reference_data.check_not_empty().await?;
    }
    for (mut order, Item { record, value }) in orders.into_iter().zip(items) {
        let value = match reject_panic(|| stg.enrich(value, &lookup)) {
            Ok(value) => value,
            Err(rejection) => {
                order.record = record;
                add_dead_letter(&mut plan, order, rejection);
                continue;
            }
        };
        match value.enrichment {
            Enrichment::Ready(ref output) => {
                let limit = context.publisher.exceeded_limit(output.payload.len()).await;
                if let Some(rejection) = limit.and_then(|limit| output.find_rejection(limit)) {
                    order.record = record;
                    add_dead_letter(&mut plan, order, rejection);
                    continue;
                }
                plan.resolved.push((order.object_id, order.version));
                plan.ready.push(Item { record, value });
            }
            Enrichment::Missing(missing) if !has_expired(&order) => {
                plan.postponed
                    .push((order.object_id, order.version, missing.entries));
            }
            Enrichment::Missing(missing) => {
                let rejection = missing.into_rejection(order.waited_seconds());
                order.record = record;
                add_dead_letter(&mut plan, order, rejection);
            }
        }
    }
    Ok(plan)
}

/// Dead-letters an order, with the number of its attempts.
fn add_dead_letter(plan: &mut RetryPlan, order: PendingOrder, rejection: Rejection) {
    let mut record = order.record;
    // A redriven order continues its count.
    let attempts = (dead_letter::count_attempts(&record) - 1).saturating_add(order.attempts);
    record.headers.retain(|header| header.name != ATTEMPTS_HEADER);
    record
        .headers
        .push(Header::text(ATTEMPTS_HEADER, &attempts.to_string()));
    plan.resolved.push((order.object_id, order.version));
    plan.dead_letters.push(RejectedRecord { record, rejection });
}
