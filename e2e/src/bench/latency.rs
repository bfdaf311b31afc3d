//! Time from the produced order to the visible row of each layer, with default settings.
#![expect(
    clippy::disallowed_methods,
    reason = "edge: produces at a rate, and reads the clock"
)]

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tokio::time::{Instant, sleep_until};

use super::report::{Goal, Report};
use super::throughput::create_pipeline;
use crate::orders::Message;
use crate::orders::send::Sender;
use crate::pipeline::{Pipeline, STAGES};
use crate::services::Services;

/// Seconds for which orders are produced; the first of them do not count.
const SECONDS: usize = 14;
const WARM_UP_SECONDS: usize = 4;
/// Interval between two sends.
const SEND_INTERVAL: Duration = Duration::from_millis(10);
const DEADLINE: Duration = Duration::from_mins(1);

/// Rate in orders per second, and goal of the 99th percentile until the marts, in milliseconds.
const RATES: [(usize, f64); 3] = [(10, 250.0), (1000, 250.0), (2000, 500.0)];

/// Time at which the row of each order became visible, in microseconds since the Unix epoch.
const VISIBLE: &str = "\
SELECT object_id, micros(stg.xmin), micros(hub.xmin), micros(ledger.xmin)
FROM stg.order_events AS stg
JOIN dds.h_order AS hub ON hub.order_id = stg.object_id
JOIN cdm.order_contribution AS ledger ON ledger.order_id = stg.object_id";
const MICROS: &str = "\
CREATE FUNCTION public.micros(xid) RETURNS bigint LANGUAGE sql AS
$$ SELECT (extract(epoch FROM pg_xact_commit_timestamp($1)) * 1000000)::bigint $$";

/// Measures the latency at each rate.
///
/// # Errors
/// When the orders do not reach the marts.
pub(super) async fn measure(services: &Services, report: &mut Report) -> Result<()> {
    for (rate, goal) in RATES {
        let latencies = measure_rate(services, rate).await?;
        for (layer, mut micros) in STAGES.into_iter().zip(latencies) {
            micros.sort_unstable();
            let percentile = |share: usize| {
                let index = (micros.len() * share / 100).min(micros.len() - 1);
                f64::from(u32::try_from(micros[index] / 100).unwrap_or(u32::MAX)) / 10.0
            };
            let row = |percent: usize| format!("order -> {layer} at {rate}/s, p{percent}, ms");
            let goal = if layer == "cdm" {
                Goal::at_most(goal)
            } else {
                Goal::default()
            };
            report.add_row(&row(50), percentile(50), Goal::default());
            report.add_row(&row(99), percentile(99), goal);
        }
    }
    Ok(())
}

/// Latencies of each layer, in microseconds.
async fn measure_rate(services: &Services, rate: usize) -> Result<[Vec<i64>; 3]> {
    let orders = rate * SECONDS;
    let (pipeline, messages) = create_pipeline(services, "bench_latency", orders).await?;
    let orders = first_versions(messages)?;
    let mut workers = Vec::new();
    for stage in STAGES {
        workers.push(pipeline.start_worker(&[stage])?);
    }
    let sent = produce(&pipeline, &orders, rate).await?;
    pipeline.wait_drained(DEADLINE).await?;
    for worker in workers {
        worker.stop().await?;
    }
    sqlx::raw_sql(MICROS).execute(pipeline.pool()).await?;
    let visible: Vec<(i64, i64, i64, i64)> = sqlx::query_as(VISIBLE).fetch_all(pipeline.pool()).await?;
    ensure!(
        visible.len() == sent.len(),
        "{} of {} orders",
        visible.len(),
        sent.len()
    );
    let warm_up = rate * WARM_UP_SECONDS;
    let mut latencies: [Vec<i64>; 3] = Default::default();
    for (order, stg, dds, cdm) in visible {
        let (number, sent_at) = sent.get(&order).context("an order that was not sent")?;
        if *number >= warm_up {
            for (layer, at) in latencies.iter_mut().zip([stg, dds, cdm]) {
                layer.push(at - sent_at);
            }
        }
    }
    Ok(latencies)
}

/// One message of each order, with its number.
fn first_versions(messages: Vec<Message>) -> Result<Vec<(i64, Message)>> {
    let mut orders = HashMap::new();
    for message in messages {
        let value: Value = serde_json::from_slice(message.value.as_deref().context("a value")?)?;
        let id = value["object_id"].as_i64().context("an order number")?;
        orders.entry(id).or_insert(message);
    }
    let mut orders: Vec<_> = orders.into_iter().collect();
    orders.sort_by_key(|(id, _)| *id);
    Ok(orders)
}

/// Produces the orders at a rate; returns the number and the time of each, in microseconds since the Unix epoch.
async fn produce(
    pipeline: &Pipeline,
    orders: &[(i64, Message)],
    rate: usize,
) -> Result<HashMap<i64, (usize, i64)>> {
    let mut sender = Sender::connect(pipeline.bootstrap_servers(), pipeline.source_topic(), 1).await?;
    let mut sent = HashMap::with_capacity(orders.len());
    let start = Instant::now();
    while sent.len() < orders.len() {
        let elapsed = start.elapsed().as_secs_f64();
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a number of orders"
        )]
        let due = ((elapsed * rate as f64) as usize).min(orders.len());
        for (id, message) in &orders[sent.len().min(due)..due] {
            let number = sent.len();
            sent.insert(*id, (number, now_micros()?));
            sender.send(message).await?;
        }
        sleep_until(Instant::now() + SEND_INTERVAL).await;
    }
    sender.flush().await?;
    Ok(sent)
}

fn now_micros() -> Result<i64> {
    Ok(SystemTime::now()
        .duration_since(UNIX_EPOCH)?
        .as_micros()
        .try_into()?)
}
