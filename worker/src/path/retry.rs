#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "edge: tries pending orders again"
)]
//! Tries the orders that wait for the dictionary again.
//!
//! One transaction, on the road of a batch: what the dictionary knows by now is published, what has waited for too
//! long goes to the dead letters, the rest waits twice as long as before. When one of the orders is refused, each is
//! tried alone, so that it keeps no other waiting.

use std::time::{Duration, Instant};

use sqlx::PgConnection;

use super::{Path, PathError, bisect, now_micros};
use crate::batch::{Batch, Moves, Published, Rejected, Written};
use crate::dead_letter::{self, ATTEMPTS_HEADER, Way};
use crate::layer::stg::pending::{self, Waiting};
use crate::layer::stg::{Enriched, Order, Outcome, Stg};
use crate::layer::{Effects, Layer as _};
use crate::policy::Policy;
use crate::position::Spans;
use crate::publish::PublishError;
use crate::record::{Header, Item};
use crate::rejection::{Code, Rejection};

/// Orders that one pass takes.
const AT_ONCE: i64 = 500;

/// What becomes of the orders of one pass.
#[derive(Default)]
struct Sorted {
    done: Vec<(i64, Vec<u8>)>,
    ready: Vec<Item<Enriched>>,
    again: Vec<(i64, Vec<u8>, Vec<String>)>,
    dead: Vec<Rejected>,
}

/// Tries the orders that are due; returns how many there were.
///
/// # Errors
/// Whatever a service refuses; the orders stay as they are then.
pub async fn retry_pending(path: &Path<Stg>, max_wait: Duration) -> Result<usize, PathError> {
    match pass(path, max_wait, AT_ONCE).await {
        Err(error) if is_at_fault(&error) => {}
        tried => return tried,
    }
    let mut tried = 0;
    while tried < AT_ONCE && pass(path, max_wait, 1).await? > 0 {
        tried += 1;
    }
    Ok(usize::try_from(tried).unwrap_or_default())
}

/// Whether one of the orders is at fault, and not a service.
fn is_at_fault(error: &PathError) -> bool {
    matches!(error.policy(), Policy::DeadLetter | Policy::Hold)
}

/// One pass over so many orders at most.
async fn pass(path: &Path<Stg>, max_wait: Duration, at_once: i64) -> Result<usize, PathError> {
    let begun = Instant::now();
    let mut transaction = path.warehouse.begin().await?;
    let waiting = pending::due(transaction.connection(), &path.origin, at_once).await?;
    let due = waiting.len();
    let alone = match &waiting[..] {
        [] => return Ok(0),
        [alone] => Some(alone.clone()),
        _ => None,
    };
    let sorted = sort(&path.layer, waiting, max_wait).await?;
    let connection = transaction.connection();
    sqlx::raw_sql("SAVEPOINT alone").execute(&mut *connection).await?;
    let published = match (settle(path, &mut *connection, &sorted).await, alone) {
        (Err(error), Some(culprit)) if is_at_fault(&error) => {
            if let PathError::Publish(PublishError::TooLarge(_)) = error
                && path.publisher.read_limit().await
            {
                // The next pass rejects what exceeds it.
                return Err(error);
            }
            sqlx::raw_sql("ROLLBACK TO SAVEPOINT alone")
                .execute(&mut *connection)
                .await?;
            settle(path, &mut *connection, &blame(culprit, &error)).await?
        }
        (published, _) => published?,
    };
    transaction.commit(&published).await?;
    path.metrics.committed(
        &path.origin.stage,
        &published.state,
        begun.elapsed().as_secs_f64(),
    );
    Ok(due)
}

async fn settle(
    path: &Path<Stg>,
    connection: &mut PgConnection,
    sorted: &Sorted,
) -> Result<Batch<Published>, PathError> {
    path.publish(write(path, connection, sorted).await?).await
}

/// What becomes of an order that is refused alone: a dead letter, or a longer wait when nobody knows why.
fn blame(culprit: Waiting, error: &PathError) -> Sorted {
    let mut sorted = Sorted::default();
    match error {
        PathError::Publish(_) => {
            let detail = "the output topic takes less, and does not let this stage read how much";
            bury(&mut sorted, culprit, Rejection::new(Code::OutputTooLarge, detail));
        }
        PathError::Warehouse(refusal) if error.policy() == Policy::DeadLetter => {
            bury(&mut sorted, culprit, bisect::refused(refusal));
        }
        _ => {
            tracing::error!(order = culprit.object_id, %error, "a pending order fails; it waits longer");
            sorted
                .again
                .push((culprit.object_id, culprit.version, culprit.missing));
        }
    }
    sorted
}

/// Writes what becomes of the orders: a batch that covers no offsets, for they were passed long ago.
async fn write<'s>(
    path: &Path<Stg>,
    connection: &mut PgConnection,
    sorted: &'s Sorted,
) -> Result<Batch<Written<'s, Enriched>>, PathError> {
    pending::delete(connection, &sorted.done).await?;
    pending::postpone(connection, &sorted.again).await?;
    let dead = dead_letter::insert(connection, &path.origin, sorted.dead.clone(), Way::Wait).await?;
    Ok(Batch {
        spans: Spans::new(),
        state: Written {
            items: sorted.ready.iter().collect(),
            effects: Effects {
                publish: (0..sorted.ready.len()).collect(),
                ..Effects::default()
            },
            dead,
            moves: Moves::default(),
        },
    })
}

/// Asks the dictionary again, and decides for each order.
async fn sort(stg: &Stg, waiting: Vec<Waiting>, max_wait: Duration) -> Result<Sorted, PathError> {
    let now = now_micros();
    let mut sorted = Sorted::default();
    let (mut orders, mut items): (Vec<Waiting>, Vec<Item<Order>>) = (Vec::new(), Vec::new());
    for one in waiting {
        match stg.decode(&one.record, now) {
            Ok(value) => {
                items.push(Item {
                    record: one.record.clone(),
                    value,
                });
                orders.push(one);
            }
            // It was accepted once: the stage's limits have changed since.
            Err(rejection) => bury(&mut sorted, one, rejection),
        }
    }
    let known = stg.look_up(&items).await?;
    for (one, item) in orders.into_iter().zip(items) {
        let Item { record, value } = item;
        let value = match stg.enrich(value, &known) {
            Ok(value) => value,
            Err(rejection) => {
                bury(&mut sorted, one, rejection);
                continue;
            }
        };
        match &value.outcome {
            Outcome::Ready(_) => {
                sorted.done.push((one.object_id, one.version));
                sorted.ready.push(Item { record, value });
            }
            Outcome::Missing(missing) if one.waited < max_wait.as_secs_f64() => {
                sorted.again.push((one.object_id, one.version, missing.clone()));
            }
            Outcome::Missing(missing) => {
                let detail = format!(
                    "{} unknown to the dictionary for {:.0} s",
                    missing.join(", "),
                    one.waited
                );
                bury(&mut sorted, one, Rejection::new(Code::DictionaryMissing, detail));
            }
        }
    }
    Ok(sorted)
}

/// Sends an order to the dead letters, with the number of its attempts.
fn bury(sorted: &mut Sorted, waiting: Waiting, rejection: Rejection) {
    let mut record = waiting.record;
    // A redriven order counts on.
    let attempts = dead_letter::attempts(&record) - 1 + waiting.attempts;
    record.headers.retain(|header| header.name != ATTEMPTS_HEADER);
    record
        .headers
        .push(Header::text(ATTEMPTS_HEADER, &attempts.to_string()));
    sorted.done.push((waiting.object_id, waiting.version));
    sorted.dead.push(Rejected { record, rejection });
}
