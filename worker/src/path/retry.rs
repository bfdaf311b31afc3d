#![expect(clippy::disallowed_methods, reason = "edge: tries pending orders again")]
//! Tries the orders that wait for the dictionary again.
//!
//! One transaction, like a batch: what the dictionary knows by now is published, what has waited for too long
//! goes to the dead letters, the rest waits twice as long as before.

use std::time::{Duration, Instant};

use super::{Path, PathError, now_micros};
use crate::batch::{Published, Rejected};
use crate::dead_letter::{self, ATTEMPTS_HEADER};
use crate::layer::stg::pending::{self, Waiting};
use crate::layer::stg::{Order, Outcome, Stg};
use crate::layer::{Effects, Layer as _, Output};
use crate::record::{Header, Item};
use crate::rejection::{Code, Rejection};

/// Orders that one pass takes.
const AT_ONCE: i64 = 500;

/// What becomes of the orders of one pass.
#[derive(Default)]
struct Sorted {
    done: Vec<(i64, Vec<u8>)>,
    outputs: Vec<Output>,
    again: Vec<(i64, Vec<u8>, Vec<String>)>,
    dead: Vec<Rejected>,
}

/// One pass; returns how many orders were due.
///
/// # Errors
/// Whatever a service refuses; the orders stay as they are then.
pub async fn retry_pending(path: &Path<Stg>, max_wait: Duration) -> Result<usize, PathError> {
    let begun = Instant::now();
    let mut transaction = path.warehouse.begin().await?;
    let waiting = pending::due(&mut transaction, &path.layer, AT_ONCE).await?;
    if waiting.is_empty() {
        return Ok(0);
    }
    let due = waiting.len();
    let sorted = sort(&path.layer, waiting, max_wait).await?;
    pending::delete(&mut transaction, &sorted.done).await?;
    pending::postpone(&mut transaction, &sorted.again).await?;
    let dead = dead_letter::insert(&mut transaction, &path.origin, sorted.dead).await?;
    path.publisher.publish(sorted.outputs.iter(), &dead).await?;
    transaction.commit().await?;

    let effects = Effects {
        publish: (0..sorted.outputs.len()).collect(),
        ..Effects::default()
    };
    let dead = dead.iter().map(|letter| letter.rejection.code).collect();
    let published = Published {
        effects,
        dead,
        ..Published::default()
    };
    path.metrics
        .committed(&path.origin.stage, &published, begun.elapsed().as_secs_f64());
    Ok(due)
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
        match stg.enrich(item.value, &known).map(|enriched| enriched.outcome) {
            Ok(Outcome::Ready(output)) => {
                sorted.done.push((one.object_id, one.version));
                sorted.outputs.push(output);
            }
            Ok(Outcome::Missing(missing)) if one.waited < max_wait.as_secs_f64() => {
                sorted.again.push((one.object_id, one.version, missing));
            }
            Ok(Outcome::Missing(missing)) => {
                let detail = format!(
                    "{} unknown to the dictionary for {:.0} s",
                    missing.join(", "),
                    one.waited
                );
                bury(&mut sorted, one, Rejection::new(Code::DictionaryMissing, detail));
            }
            Err(rejection) => bury(&mut sorted, one, rejection),
        }
    }
    Ok(sorted)
}

/// Sends an order to the dead letters, with the number of its attempts.
fn bury(sorted: &mut Sorted, waiting: Waiting, rejection: Rejection) {
    let mut record = waiting.record;
    record.headers.retain(|header| header.name != ATTEMPTS_HEADER);
    record
        .headers
        .push(Header::text(ATTEMPTS_HEADER, &waiting.attempts.to_string()));
    sorted.done.push((waiting.object_id, waiting.version));
    sorted.dead.push(Rejected { record, rejection });
}
