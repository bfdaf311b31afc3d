//! Dead letters: the record is unchanged, byte for byte; it has one row, even if it is consumed again; a redrive
//! processes it after a repair.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::orders::{Expected, Generator, Message, Settings, send};
use e2e::pipeline::{Pipeline, Record, start_services};
use e2e::recount::{read_marts, recount};

const DEADLINE: Duration = Duration::from_mins(2);
const PARTITIONS: i32 = 3;
/// Headers that a dead letter has in addition to those of the record, in this order.
const ADDED_HEADERS: [&str; 8] = [
    "streamstage-error-code",
    "streamstage-error-detail",
    "streamstage-error-stage",
    "streamstage-error-topic",
    "streamstage-error-partition",
    "streamstage-error-offset",
    "streamstage-error-timestamp",
    "streamstage-error-attempts",
];
/// All rows with all columns, including times and attempts.
const ALL_ROWS: &str = "SELECT coalesce(json_agg(dead_letter ORDER BY topic, partition, \"offset\")::text, '') \
    FROM streamstage.dead_letter";

/// Columns of a dead letter: partition, offset, code, detail, attempts, and true if it was redriven.
type DeadLetterRow = (i32, i64, String, String, i32, bool);
/// Columns of a dead letter with its record: key, value, header names and values, timestamp.
type RecordColumns = (
    Option<Vec<u8>>,
    Option<Vec<u8>>,
    Vec<String>,
    Vec<Option<Vec<u8>>>,
    Option<i64>,
);

async fn dead_letter_rows(pipeline: &Pipeline) -> Result<Vec<DeadLetterRow>> {
    let rows = sqlx::query_as(
        "SELECT partition, \"offset\", code, detail, attempts, redriven_at IS NOT NULL
         FROM streamstage.dead_letter ORDER BY partition, \"offset\"",
    );
    Ok(rows.fetch_all(pipeline.pool()).await?)
}

/// Consumes the source topic of a stage again from offset 0.
async fn replay(pipeline: &Pipeline, stage: &str) -> Result<()> {
    let flags = ["--to", "earliest", "--all", "--execute"];
    let output = pipeline.run_command("reset-offsets", &[stage], &flags)?;
    ensure!(output.contains("-> 0"), "no position was reset: {output}");
    let worker = pipeline.start_worker(&[])?;
    pipeline.wait_drained(DEADLINE).await?;
    ensure!(worker.stop().await?.success(), "the worker did not stop properly");
    Ok(())
}

/// Records that are dead-lettered, each with an unusual key, value or headers, and their codes.
fn unusual_records() -> Vec<(&'static str, Record)> {
    let header = |name: &str, value: Option<&[u8]>| (name.to_owned(), value.map(<[u8]>::to_vec));
    let every_byte: Vec<u8> = (0..=255).collect();
    let unusual = [
        ("ParseError", None, Some(b"no key, no header".to_vec()), vec![]),
        ("ParseError", Some(every_byte.clone()), Some(every_byte), vec![]),
        ("ParseError", Some(vec![]), Some(vec![]), vec![]),
        (
            "Tombstone",
            Some(b"322519".to_vec()),
            None,
            vec![header("why", Some(b"compaction"))],
        ),
        ("Tombstone", None, None, vec![]),
        (
            "ParseError",
            Some(vec![0xff, 0x00]),
            Some(b"repeated headers".to_vec()),
            vec![
                header("trace", Some(b"first")),
                header("other", None),
                header("trace", Some(b"\x00\xff second")),
                header("trace", Some(b"")),
            ],
        ),
        (
            "ParseError",
            None,
            Some(b"names of headers".to_vec()),
            vec![
                header("", Some(b"no name")),
                header(r#"a "quoted", {braced} \ name"#, Some(b"NULL")),
                header("NULL", Some(br#"{"a,b"}\"#)),
                header("ключ", Some("значение".as_bytes())),
                header("streamstage-digest", Some(b"of another producer")),
            ],
        ),
        (
            "ContractViolation",
            None,
            Some(br#"{"object_id": 1, "object_type": "order"}"#.to_vec()),
            vec![],
        ),
    ];
    let numbered = unusual.into_iter().zip(0..);
    numbered
        .map(|((code, key, value, headers), number)| {
            let record = Record {
                partition: 1,
                offset: number,
                timestamp: Some(1_700_000_000_123 + number),
                key,
                value,
                headers,
            };
            (code, record)
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_equals_its_record_byte_for_byte_and_is_stored_once() -> Result<()> {
    let services = start_services().await?;
    let pipeline = Pipeline::create(&services, "unchanged", PARTITIONS).await?;
    let unusual = unusual_records();
    let records: Vec<Record> = unusual.iter().map(|(_, record)| record.clone()).collect();
    pipeline.send(pipeline.source_topic(), &records).await?;
    let worker = pipeline.start_worker(&[])?;
    pipeline.wait_drained(DEADLINE).await?;
    pipeline.wait_dead_letters_copied(DEADLINE).await?;
    worker.stop().await?;

    let rows = dead_letter_rows(&pipeline).await?;
    let dead_letter_topic = format!("{}.dlq", pipeline.source_topic());
    let published = pipeline.read_topic(&dead_letter_topic)?;
    assert_eq!((rows.len(), published.len()), (unusual.len(), unusual.len()));
    let published: BTreeMap<String, Record> = published
        .into_iter()
        .map(|dead_letter| (dead_letter.header("streamstage-error-offset"), dead_letter))
        .collect();
    for ((code, record), row) in unusual.iter().zip(&rows) {
        let (partition, offset, row_code, detail, attempts, redriven) = row;
        assert_eq!((*partition, *offset), (record.partition, record.offset));
        assert_eq!((row_code.as_str(), *attempts, *redriven), (*code, 1, false));
        let added = [
            *code,
            detail,
            "stg",
            pipeline.source_topic(),
            "1",
            &offset.to_string(),
            &(1_700_000_000_123 + offset).to_string(),
            "1",
        ];
        let added = ADDED_HEADERS
            .iter()
            .zip(added)
            .map(|(name, value)| ((*name).to_owned(), Some(value.as_bytes().to_vec())));
        let dead_letter = &published[&offset.to_string()];
        let headers: Vec<_> = record.headers.iter().cloned().chain(added).collect();
        assert_eq!(
            (&dead_letter.key, &dead_letter.value),
            (&record.key, &record.value),
            "{offset}"
        );
        assert_eq!(dead_letter.headers, headers, "{offset}");
        assert_eq!(
            stored_record(&pipeline, *offset).await?,
            record_columns(record),
            "{offset}"
        );
    }

    let before: String = pipeline.query_scalar(ALL_ROWS).await?;
    replay(&pipeline, "stg").await?;
    assert_eq!(pipeline.query_scalar::<String>(ALL_ROWS).await?, before);
    assert_eq!(
        pipeline.read_topic(&dead_letter_topic)?.len(),
        unusual.len(),
        "published twice"
    );
    Ok(())
}

/// Reads the record of a dead letter from the table, by its offset.
async fn stored_record(pipeline: &Pipeline, offset: i64) -> Result<RecordColumns> {
    let query = sqlx::query_as(
        "SELECT key, value, header_names, header_values,
             (extract(epoch FROM record_timestamp) * 1000)::bigint
         FROM streamstage.dead_letter WHERE \"offset\" = $1",
    );
    Ok(query.bind(offset).fetch_one(pipeline.pool()).await?)
}

/// Columns that the table should have for a record.
fn record_columns(record: &Record) -> RecordColumns {
    let (names, values) = record.headers.iter().cloned().unzip();
    let Record {
        key,
        value,
        timestamp,
        ..
    } = record.clone();
    (key, value, names, values, timestamp)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redrive_processes_repaired_records_exactly_once() -> Result<()> {
    let services = start_services().await?;
    let mut pipeline = Pipeline::create(&services, "redriven", PARTITIONS).await?;
    pipeline.edit("  referenceData:\n", "  referenceData:\n    maxWait: 1s\n")?;
    let mut generator = Generator::new(&Settings {
        seed: 6,
        bad: 0.0,
        ..Settings::default()
    });
    // The first users order most, so a hundred of them must be missing to make enough orders pending.
    pipeline.load_reference_data(&generator, 100).await?;
    let mut messages: Vec<Message> = generator.history(150).collect();
    messages.push(Message {
        value: Some(b"{".to_vec()),
        expected: Expected::Bad("ParseError"),
    });
    let file = pipeline.folder().join("orders.ndjson");
    #[expect(
        clippy::disallowed_types,
        reason = "edge: writes the messages for the recount"
    )]
    let mut writer = std::fs::File::create(&file)?;
    messages
        .iter()
        .try_for_each(|message| send::write_line(&mut writer, message))?;
    pipeline.produce(1, messages.iter().cloned()).await?;
    let worker = pipeline.start_worker(&[])?;
    pipeline.wait_drained(DEADLINE).await?;
    let before = dead_letter_rows(&pipeline).await?;
    let missing = before
        .iter()
        .filter(|row| row.2 == "ReferenceDataMissing")
        .count();
    ensure!(missing > 20 && before.len() == missing + 1, "{before:?}");
    assert!(
        before
            .iter()
            .all(|row| row.2 == "ParseError" || row.3.contains("user ")),
        "{before:?}"
    );
    let (reference_data, tags) = pipeline.write_recount_inputs(&generator)?;
    let expected = recount(&file, &reference_data, &tags)?;
    assert_ne!(
        read_marts(pipeline.pool()).await?,
        expected,
        "no closed order is missing"
    );

    // Without a repair it fails again: in the same row, with a higher number of attempts.
    redrive(&pipeline, "ReferenceDataMissing", missing)?;
    pipeline.wait_drained(DEADLINE).await?;
    let after = dead_letter_rows(&pipeline).await?;
    assert_eq!(after.len(), before.len());
    for (first, second) in before.iter().zip(&after) {
        assert!(!second.5, "{second:?} failed again, but is marked as redriven");
        let has_more_attempts = second.4 > first.4 || second.2 == "ParseError";
        assert!(has_more_attempts, "{first:?}, then {second:?}");
    }

    pipeline.load_reference_data(&generator, 0).await?;
    redrive(&pipeline, "ReferenceDataMissing", missing)?;
    pipeline.wait_drained(DEADLINE).await?;
    assert_eq!(read_marts(pipeline.pool()).await?, expected);
    let rows = dead_letter_rows(&pipeline).await?;
    let not_redriven: Vec<&DeadLetterRow> = rows.iter().filter(|row| !row.5).collect();
    assert!(
        matches!(not_redriven[..], [row] if row.2 == "ParseError"),
        "{not_redriven:?}"
    );

    pipeline.wait_dead_letters_copied(DEADLINE).await?;
    let (all_rows, digests) = (
        pipeline.query_scalar::<String>(ALL_ROWS).await?,
        pipeline.row_digests().await?,
    );
    redrive(&pipeline, "ReferenceDataMissing", 0)?;
    pipeline.wait_drained(DEADLINE).await?;
    assert_eq!(pipeline.query_scalar::<String>(ALL_ROWS).await?, all_rows);
    assert_eq!(pipeline.row_digests().await?, digests);

    let parse_error = parse_errors(&pipeline, 1).await?[0].clone();
    redrive(&pipeline, "ParseError", 1)?;
    pipeline.wait_drained(DEADLINE).await?;
    let both = parse_errors(&pipeline, 2).await?;
    let (first, second) = (&both[0], &both[1]);
    assert_eq!((first.0, first.1, first.4), (parse_error.0, parse_error.1, 1));
    assert!(first.5, "not marked as redriven: {first:?}");
    assert_eq!((second.4, second.5), (2, false), "{second:?}");
    pipeline.wait_dead_letters_copied(DEADLINE).await?;
    assert_eq!(
        second_attempt_headers(&pipeline)?,
        ADDED_HEADERS,
        "a redriven record has headers of the first attempt"
    );
    worker.stop().await?;

    // A replay does not change the rows of redriven records.
    let all_rows: String = pipeline.query_scalar(ALL_ROWS).await?;
    replay(&pipeline, "stg").await?;
    assert_eq!(pipeline.query_scalar::<String>(ALL_ROWS).await?, all_rows);
    assert_eq!(pipeline.row_digests().await?.len(), digests.len());
    assert_eq!(read_marts(pipeline.pool()).await?, expected);
    Ok(())
}

/// Runs `worker dead-letters redrive` for one code, and checks the number of redriven dead letters.
fn redrive(pipeline: &Pipeline, code: &str, expected: usize) -> Result<()> {
    let output = pipeline.run_command("dead-letters redrive", &["stg"], &["--code", code, "--execute"])?;
    assert_eq!(output, format!("stg: {expected} dead letters redriven\n"));
    Ok(())
}

/// Header names of the malformed record in the dead letter topic, at its second attempt.
fn second_attempt_headers(pipeline: &Pipeline) -> Result<Vec<String>> {
    let published = pipeline.read_topic(&format!("{}.dlq", pipeline.source_topic()))?;
    let second_attempt = published.into_iter().find(|dead_letter| {
        dead_letter.header("streamstage-error-attempts") == "2" && dead_letter.value.as_deref() == Some(b"{")
    });
    let second_attempt = second_attempt.context("the second attempt was not published")?;
    Ok(second_attempt.headers.into_iter().map(|(name, _)| name).collect())
}

/// Dead letters with the code `ParseError`, by their attempts.
async fn parse_errors(pipeline: &Pipeline, count: usize) -> Result<Vec<DeadLetterRow>> {
    let mut rows = dead_letter_rows(pipeline).await?;
    rows.retain(|row| row.2 == "ParseError");
    rows.sort_by_key(|row| row.4);
    ensure!(rows.len() == count, "{rows:?}");
    Ok(rows)
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_of_two_incarnations_of_a_topic_are_both_stored() -> Result<()> {
    let services = start_services().await?;
    let pipeline = Pipeline::create(&services, "incarnations", 1).await?;
    let send = async |value: &str| {
        let record = Record {
            value: Some(value.as_bytes().to_vec()),
            ..Record::default()
        };
        pipeline.send(pipeline.source_topic(), &[record]).await
    };
    send("first").await?;
    let worker = pipeline.start_worker(&["stg"])?;
    pipeline.wait_caught_up("stg", DEADLINE).await?;
    worker.stop().await?;
    pipeline.recreate_topic(pipeline.source_topic(), 1).await?;
    send("second").await?;
    // The stage stops, because the topic was recreated.
    pipeline.start_worker(&["stg"])?.wait_exit().await?;
    pipeline.run_command("reset-offsets", &["stg"], &["--to", "earliest", "--execute"])?;
    let _worker = pipeline.start_worker(&["stg"])?;
    pipeline.wait_caught_up("stg", DEADLINE).await?;
    pipeline.wait_dead_letters_copied(DEADLINE).await?;

    let stored: Vec<(i64, Vec<u8>)> =
        sqlx::query_as("SELECT \"offset\", value FROM streamstage.dead_letter ORDER BY dead_lettered_at")
            .fetch_all(pipeline.pool())
            .await?;
    assert_eq!(stored, [(0, b"first".to_vec()), (0, b"second".to_vec())]);
    // Each of them can be selected by the ID of its topic.
    let topic_id: String = pipeline
        .query_scalar("SELECT topic_id::text FROM streamstage.dead_letter WHERE value = 'first'")
        .await?;
    let flags = ["--offset", "0", "--topic-id", &topic_id];
    let shown = pipeline.run_command("dead-letters show", &["stg"], &flags)?;
    ensure!(shown.contains("value        first"), "{shown}");
    Ok(())
}
