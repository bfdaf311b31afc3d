//! Values that a record supplies: none of them prevents its own row, the rows of other records, or the start of a worker.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::orders::{Generator, Message, Settings};
use e2e::pipeline::{Pipeline, Record, start_services, wait_until};
use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_mins(2);
const PARTITIONS: i32 = 2;
/// Kafka timestamps: of now in seconds, microseconds and nanoseconds, before the epoch, before the year 1, after the
/// year 9999, and the extremes.
const TIMESTAMPS: [i64; 9] = [
    1_700_000_000,
    1_700_000_000_000_000,
    1_700_000_000_000_000_000,
    -86_400_000,
    -62_135_596_800_001,
    -300_000_000_000_000,
    253_402_300_800_000,
    i64::MIN,
    i64::MAX,
];

/// Records with every timestamp, whose value is `value`, in partition 0.
fn with_timestamps(value: &[u8]) -> Vec<Record> {
    let record = |timestamp| Record {
        timestamp: Some(timestamp),
        value: Some(value.to_vec()),
        ..Record::default()
    };
    TIMESTAMPS.into_iter().map(record).collect()
}

/// Values of the next orders.
fn orders(generator: &mut Generator, count: usize) -> Vec<Vec<u8>> {
    generator
        .live()
        .filter_map(|message: Message| message.value)
        .take(count)
        .collect()
}

fn record(partition: i32, value: Vec<u8>) -> Record {
    Record {
        partition,
        value: Some(value),
        ..Record::default()
    }
}

async fn create_pipeline(
    name: &str,
    withheld: usize,
) -> Result<(e2e::services::Services, Pipeline, Generator)> {
    let services = start_services().await?;
    let pipeline = Pipeline::create(&services, name, PARTITIONS).await?;
    let any = i64::MAX.to_string();
    pipeline
        .set_topic_config(pipeline.source_topic(), "message.timestamp.after.max.ms", &any)
        .await?;
    let generator = Generator::new(&Settings {
        seed: 17,
        bad: 0.0,
        ..Settings::default()
    });
    pipeline.load_reference_data(&generator, withheld).await?;
    Ok((services, pipeline, generator))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timestamp_that_no_column_holds_is_stored_as_received() -> Result<()> {
    let (_services, mut pipeline, mut generator) = create_pipeline("timestamps", usize::MAX).await?;
    pipeline.edit("  referenceData:\n", "  referenceData:\n    maxWait: 1h\n")?;
    let mut records = with_timestamps(b"{");
    // Orders that wait for reference data, with the same timestamps.
    let values = orders(&mut generator, TIMESTAMPS.len());
    records.extend(
        with_timestamps(b"")
            .into_iter()
            .zip(values)
            .map(|(mut record, value)| {
                record.value = Some(value);
                record
            }),
    );
    records.extend(
        orders(&mut generator, 5)
            .into_iter()
            .map(|value| record(1, value)),
    );
    pipeline.send(pipeline.source_topic(), &records).await?;
    let worker = pipeline.start_worker(&["stg"])?;
    pipeline.wait_caught_up("stg", DEADLINE).await?;

    let stored = "SELECT array_agg(record_timestamp_ms ORDER BY \"offset\") FROM ";
    for table in [
        "streamstage.dead_letter",
        "stg.pending_enrichment WHERE partition = 0",
    ] {
        let timestamps: Vec<i64> = pipeline.query_scalar(&format!("{stored}{table}")).await?;
        assert_eq!(timestamps, TIMESTAMPS, "{table}");
    }
    let without_timestamptz: i64 = pipeline
        .query_scalar("SELECT count(*) FROM streamstage.dead_letter WHERE record_timestamp IS NULL")
        .await?;
    assert_eq!(
        without_timestamptz, 7,
        "only those in the years 1 to 9999 have a timestamptz"
    );
    let events: i64 = pipeline
        .query_scalar("SELECT count(*) FROM stg.order_events")
        .await?;
    assert_eq!(events, i64::try_from(TIMESTAMPS.len())? + 5);

    // The copies have the timestamp as a header, and the pending orders can be published.
    pipeline.wait_dead_letters_copied(DEADLINE).await?;
    let mut copied: Vec<String> = pipeline
        .read_topic(&format!("{}.dlq", pipeline.source_topic()))?
        .iter()
        .map(|copy| copy.header("streamstage-error-timestamp"))
        .collect();
    copied.sort();
    let mut expected = TIMESTAMPS.map(|timestamp| timestamp.to_string()).to_vec();
    expected.sort();
    assert_eq!(copied, expected);
    pipeline.load_reference_data(&generator, 0).await?;
    pipeline.wait_stages_drained(&["stg"], DEADLINE).await?;
    ensure!(worker.stop().await?.success(), "the worker did not stop properly");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_count_that_a_record_supplies_saturates() -> Result<()> {
    let (_services, mut pipeline, mut generator) = create_pipeline("attempts", usize::MAX).await?;
    pipeline.edit("  referenceData:\n", "  referenceData:\n    maxWait: 1s\n")?;
    let counts = [
        "2147483647",
        "2147483646",
        "-2147483648",
        "9223372036854775808",
        "x",
    ];
    let values = orders(&mut generator, counts.len());
    let records = counts.iter().zip(values).map(|(count, value)| Record {
        headers: vec![(
            "streamstage-error-attempts".to_owned(),
            Some(count.as_bytes().to_vec()),
        )],
        ..record(0, value)
    });
    pipeline
        .send(pipeline.source_topic(), &records.collect::<Vec<_>>())
        .await?;
    let worker = pipeline.start_worker(&["stg"])?;
    wait_until("every order is a dead letter", DEADLINE, || async {
        let letters = "SELECT count(*) FROM streamstage.dead_letter";
        Ok(pipeline.query_scalar::<i64>(letters).await? == i64::try_from(counts.len())?)
    })
    .await?;
    let attempts: Vec<(String, i32)> =
        sqlx::query_as("SELECT code, attempts FROM streamstage.dead_letter ORDER BY \"offset\"")
            .fetch_all(pipeline.pool())
            .await?;
    ensure!(
        attempts.iter().all(|(code, _)| code == "ReferenceDataMissing"),
        "{attempts:?}"
    );
    let attempts: Vec<i32> = attempts.into_iter().map(|(_, attempts)| attempts).collect();
    assert_eq!(attempts[..2], [i32::MAX; 2]);
    ensure!(
        attempts[2..].iter().all(|attempts| (1..100).contains(attempts)),
        "{attempts:?}"
    );

    // Redriven, the largest count stays the largest.
    pipeline.run_command("dead-letters redrive", &["stg"], &["--offset", "0", "--execute"])?;
    wait_until("it is a dead letter again", DEADLINE, || async {
        let again = "SELECT count(*) FROM streamstage.dead_letter WHERE \"offset\" = 0 AND redriven_at IS NULL \
                     AND attempts = 2147483647";
        Ok(pipeline.query_scalar::<i64>(again).await? == 1)
    })
    .await?;
    ensure!(worker.stop().await?.success(), "the worker did not stop properly");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_record_of_any_shape_becomes_a_dead_letter_and_a_copy() -> Result<()> {
    let (_services, pipeline, mut generator) = create_pipeline("shapes", 0).await?;
    let header = |name: &str, value: Option<&[u8]>| (name.to_owned(), value.map(<[u8]>::to_vec));
    let many_headers = |value: Option<&[u8]>, count| Record {
        headers: vec![header("", value); count],
        ..record(0, b"{".to_vec())
    };
    let long_key = json!({"x".repeat(400_000): {"object_id": 1}, "object_id": "y".repeat(400_000)});
    let mut order: Value = serde_json::from_slice(&orders(&mut generator, 1)[0])?;
    let unknown_ids = (0..9000)
        .map(|id| json!({"id": format!("unknown{id:x>60}"), "name": "n", "price": 1, "quantity": 1}));
    order["payload"]["order_items"] = unknown_ids.collect();
    order["payload"]["order_items"][0]["price"] = json!(-1);
    let records = [
        many_headers(None, 50_000),
        many_headers(Some(b""), 50_000),
        Record {
            headers: vec![header(&"n".repeat(200_000), Some(&[0; 200_000]))],
            ..record(0, b"{".to_vec())
        },
        Record {
            key: Some(vec![0xff; 300_000]),
            ..record(0, vec![0; 600_000])
        },
        record(0, long_key.to_string().into_bytes()),
        record(0, order.to_string().into_bytes()),
        record(0, b"{\"object_type\": \"\\u0000\"}".to_vec()),
        record(0, "{\"\u{1}\u{7f}\u{2028}\": 1}".as_bytes().to_vec()),
    ];
    let good = orders(&mut generator, 4);
    let mut all = records.to_vec();
    all.extend(good.iter().map(|value| record(1, value.clone())));
    pipeline.send(pipeline.source_topic(), &all).await?;
    let _worker = pipeline.start_worker(&["stg"])?;
    pipeline.wait_caught_up("stg", DEADLINE).await?;
    let events: i64 = pipeline
        .query_scalar("SELECT count(*) FROM stg.order_events")
        .await?;
    assert_eq!(events, i64::try_from(good.len())?);
    let longest: i32 = pipeline
        .query_scalar("SELECT max(octet_length(detail)) FROM streamstage.dead_letter")
        .await?;
    ensure!(longest < 2000, "a detail of {longest} bytes");
    pipeline.wait_dead_letters_copied(DEADLINE).await?;

    let copies = pipeline.read_topic(&format!("{}.dlq", pipeline.source_topic()))?;
    let copies: BTreeMap<String, &Record> = copies
        .iter()
        .map(|copy| (copy.header("streamstage-error-offset"), copy))
        .collect();
    for (offset, record) in records.iter().enumerate() {
        let copy = copies
            .get(&offset.to_string())
            .with_context(|| format!("no copy of {offset}"))?;
        let is_same = (&copy.key, &copy.value) == (&record.key, &record.value);
        ensure!(
            is_same && copy.headers.starts_with(&record.headers),
            "record {offset} is changed"
        );
    }
    Ok(())
}
