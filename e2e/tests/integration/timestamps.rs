//! Timestamps mean the same in every layer: the time zone of `stg` decides, and no layer rounds.
#![expect(clippy::disallowed_methods, reason = "edge: compares a gauge with the clock")]

use std::time::Duration;

use anyhow::{Context as _, Result};
use e2e::orders::{Generator, Settings};
use e2e::pipeline::{Pipeline, Record, start_services};
use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_mins(1);
/// Kafka timestamp in the year 9999, in milliseconds.
const FAR_FUTURE_MILLIS: i64 = 253_402_300_799_000;

/// `sent_dttm`, `date` and `update_ts` of an order, and the same as instants.
type Case = ([&'static str; 3], [&'static str; 3]);

/// Orders of a source in Berlin.
const STORED: [Case; 4] = [
    (
        [
            "2024-07-01 12:00:02",
            "2024-07-01 12:00:00",
            "2024-07-01 12:00:01.000001",
        ],
        [
            "2024-07-01 10:00:02",
            "2024-07-01 10:00:00",
            "2024-07-01 10:00:01.000001",
        ],
    ),
    // Of the two times in a night whose clocks are set back, the first.
    (
        [
            "2024-10-27 02:30:00.999999",
            "2024-10-27 02:30:00",
            "2024-10-27 02:30:00.5",
        ],
        [
            "2024-10-27 00:30:00.999999",
            "2024-10-27 00:30:00",
            "2024-10-27 00:30:00.5",
        ],
    ),
    (
        [
            "9999-12-31 23:59:59.123457",
            "9999-12-31 23:59:59.999999",
            "2024-02-24 12:00:05",
        ],
        [
            "9999-12-31 22:59:59.123457",
            "9999-12-31 22:59:59.999999",
            "2024-02-24 11:00:05",
        ],
    ),
    // The local mean time of Berlin was +00:53:28.
    (
        [
            "0001-01-01 00:00:00.000001",
            "0001-01-01 00:53:28.000003",
            "1500-01-01 00:53:28.000001",
        ],
        [
            "0001-12-31 23:06:32.000001 BC",
            "0001-01-01 00:00:00.000003",
            "1500-01-01 00:00:00.000001",
        ],
    ),
];

/// A time that clocks skip, and forms that are no timestamp.
const REJECTED: [(&str, &str); 5] = [
    ("/payload/update_ts", "2024-03-31 02:30:00"),
    ("/payload/date", "2024-03-31 02:00:00"),
    ("/sent_dttm", "2024-03-31 02:59:59.999999"),
    ("/payload/update_ts", "9999-12-31 23:59:59"),
    ("/payload/update_ts", "2024-02-24 12:00:05.0000001"),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_layer_stores_the_instant_that_the_time_zone_of_stg_gives() -> Result<()> {
    let services = start_services().await?;
    let mut pipeline = Pipeline::create(&services, "timestamps", 1).await?;
    pipeline.edit("layer: stg\n", "layer: stg\n  timezone: Europe/Berlin\n")?;
    pipeline.edit("layer: dds\n", "layer: dds\n  timezone: Asia/Tokyo\n")?;
    pipeline
        .set_topic_config(
            pipeline.source_topic(),
            "message.timestamp.after.max.ms",
            "9223372036854775807",
        )
        .await?;
    let mut generator = Generator::new(&Settings {
        bad: 0.0,
        ..Settings::default()
    });
    pipeline.load_reference_data(&generator, 0).await?;
    let mut orders = Vec::new();
    for message in generator.live().take(STORED.len() + REJECTED.len()) {
        orders.push(serde_json::from_slice::<Value>(
            message.value.as_deref().unwrap_or_default(),
        )?);
    }
    for (order, ([sent, date, update_ts], _)) in orders.iter_mut().zip(STORED) {
        order["sent_dttm"] = json!(sent);
        order["payload"]["date"] = json!(date);
        order["payload"]["update_ts"] = json!(update_ts);
    }
    for (order, (pointer, text)) in orders[STORED.len()..].iter_mut().zip(REJECTED) {
        *order.pointer_mut(pointer).context("a field")? = json!(text);
    }
    let before = jiff::Timestamp::now().as_second();
    let mut records: Vec<Record> = orders
        .iter()
        .map(|order| Record {
            value: Some(order.to_string().into_bytes()),
            ..Record::default()
        })
        .collect();
    records[0].timestamp = Some(FAR_FUTURE_MILLIS);
    pipeline.send(pipeline.source_topic(), &records).await?;
    let worker = pipeline.start_worker(&[])?;
    pipeline.wait_drained(DEADLINE).await?;

    for (order, (_, expected)) in orders.iter().zip(STORED) {
        let row: Vec<String> = pipeline
            .query_scalar(&format!(
                "SELECT ARRAY[(event.sent_dttm AT TIME ZONE 'UTC')::text, (cost.order_dt AT TIME ZONE 'UTC')::text, (event.update_ts AT TIME ZONE 'UTC')::text,
                     (status.update_ts AT TIME ZONE 'UTC')::text, (event.version = status.version)::text,
                     (event.version = ledger.version)::text]
                 FROM stg.order_events AS event
                 JOIN dds.h_order AS hub ON hub.order_id = event.object_id
                 JOIN dds.s_order_cost AS cost USING (h_order_pk)
                 JOIN dds.s_order_status AS status USING (h_order_pk)
                 JOIN cdm.order_contribution AS ledger ON ledger.order_id = event.object_id
                 WHERE event.object_id = {}",
                order["object_id"]
            ))
            .await?;
        let [sent, date, update_ts] = expected;
        assert_eq!(row, [sent, date, update_ts, update_ts, "true", "true"], "{order}");
    }
    let dead_letters: Vec<String> = sqlx::query_scalar(
        "SELECT code || ' ' || detail FROM streamstage.dead_letter WHERE stage = 'stg' ORDER BY \"offset\"",
    )
    .fetch_all(pipeline.pool())
    .await?;
    assert_eq!(dead_letters.len(), REJECTED.len(), "{dead_letters:#?}");
    for (dead_letter, (pointer, _)) in dead_letters.iter().zip(REJECTED) {
        let expected = format!("InvalidTimestamp {pointer}: ");
        assert!(dead_letter.starts_with(&expected), "{dead_letter}");
    }

    // One record of the far future does not make the stage look fresh until then.
    let (_, metrics) = worker.http_get("/metrics").await?;
    let name = "streamstage_worker_newest_record_timestamp_seconds{stage=\"stg\"} ";
    let newest = metrics
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .context("no gauge")?;
    let newest: i64 = newest.parse()?;
    let now = jiff::Timestamp::now().as_second();
    assert!(
        (before - 1..=now).contains(&newest),
        "{newest} is not in {before}..={now}"
    );
    Ok(())
}
