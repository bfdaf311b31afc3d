//! Dead letters: the record stays as it was, byte for byte; it has one row, however often it is read; and a redrive
//! brings it back after a repair.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::orders::{Expected, Generator, Message, Settings, send};
use e2e::pipeline::{Pipeline, Record, services};
use e2e::recount::{marts, recount};

const WITHIN: Duration = Duration::from_mins(2);
const PARTITIONS: i32 = 3;
/// What is added to a record's headers, in this order.
const ADDED: [&str; 8] = [
    "streamstage-error-code",
    "streamstage-error-detail",
    "streamstage-error-stage",
    "streamstage-error-topic",
    "streamstage-error-partition",
    "streamstage-error-offset",
    "streamstage-error-timestamp",
    "streamstage-error-attempts",
];
/// Every row with every column: also what tells when and how often.
const EVERYTHING: &str = "SELECT coalesce(json_agg(letter ORDER BY topic, partition, \"offset\")::text, '') \
    FROM streamstage.dead_letter AS letter";

/// A dead letter, as the table has it: place, code, detail, attempts, whether it was redriven.
type Row = (i32, i64, String, String, i32, bool);
/// The record of a dead letter, as the table has it.
type Held = (
    Option<Vec<u8>>,
    Option<Vec<u8>>,
    Vec<String>,
    Vec<Option<Vec<u8>>>,
    Option<i64>,
);

async fn rows(pipeline: &Pipeline) -> Result<Vec<Row>> {
    let rows = sqlx::query_as(
        "SELECT partition, \"offset\", code, detail, attempts, redriven_at IS NOT NULL
         FROM streamstage.dead_letter ORDER BY partition, \"offset\"",
    );
    Ok(rows.fetch_all(pipeline.pool()).await?)
}

/// Reads a stage's topic again from offset 0.
async fn replay(pipeline: &Pipeline, stage: &str) -> Result<()> {
    let again = ["--to", "earliest", "--all", "--execute"];
    let moved = pipeline.command("reset-offsets", &[stage], &again)?;
    ensure!(moved.contains("-> 0"), "nothing to read again: {moved}");
    let worker = pipeline.worker(&[])?;
    pipeline.drained(WITHIN).await?;
    ensure!(worker.stop().await?.success(), "the worker did not stop properly");
    Ok(())
}

/// Records that no stage takes, each odd in its key, its value or its headers, with their codes.
fn odd_records() -> Vec<(&'static str, Record)> {
    let header = |name: &str, value: Option<&[u8]>| (name.to_owned(), value.map(<[u8]>::to_vec));
    let every_byte: Vec<u8> = (0..=255).collect();
    let odd = [
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
    let numbered = odd.into_iter().zip(0..);
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
async fn a_dead_letter_is_its_record_byte_for_byte_and_there_is_one_of_it() -> Result<()> {
    let services = services().await?;
    let pipeline = Pipeline::create(&services, "untouched", PARTITIONS).await?;
    let odd = odd_records();
    let sent: Vec<Record> = odd.iter().map(|(_, record)| record.clone()).collect();
    pipeline.send(pipeline.source_topic(), &sent).await?;
    let worker = pipeline.worker(&[])?;
    pipeline.drained(WITHIN).await?;
    worker.stop().await?;

    let rows = rows(&pipeline).await?;
    let dead_letters = format!("{}.dlq", pipeline.source_topic());
    let copies = pipeline.read(&dead_letters)?;
    assert_eq!((rows.len(), copies.len()), (odd.len(), odd.len()));
    let copies: BTreeMap<String, Record> = copies
        .into_iter()
        .map(|copy| (copy.header("streamstage-error-offset"), copy))
        .collect();
    for ((code, record), row) in odd.iter().zip(&rows) {
        let (partition, offset, held_code, detail, attempts, redriven) = row;
        assert_eq!((*partition, *offset), (record.partition, record.offset));
        assert_eq!((held_code.as_str(), *attempts, *redriven), (*code, 1, false));
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
        let added = ADDED
            .iter()
            .zip(added)
            .map(|(name, value)| ((*name).to_owned(), Some(value.as_bytes().to_vec())));
        let copy = &copies[&offset.to_string()];
        let headers: Vec<_> = record.headers.iter().cloned().chain(added).collect();
        assert_eq!((&copy.key, &copy.value), (&record.key, &record.value), "{offset}");
        assert_eq!(copy.headers, headers, "{offset}");
        assert_eq!(held(&pipeline, *offset).await?, as_held(record), "{offset}");
    }

    let before: String = pipeline.query(EVERYTHING).await?;
    replay(&pipeline, "stg").await?;
    assert_eq!(pipeline.query::<String>(EVERYTHING).await?, before);
    assert_eq!(pipeline.read(&dead_letters)?.len(), odd.len(), "copied twice");
    Ok(())
}

/// The record that the table keeps at an offset.
async fn held(pipeline: &Pipeline, offset: i64) -> Result<Held> {
    let held = sqlx::query_as(
        "SELECT key, value, header_names, header_values,
             (extract(epoch FROM record_timestamp) * 1000)::bigint
         FROM streamstage.dead_letter WHERE \"offset\" = $1",
    );
    Ok(held.bind(offset).fetch_one(pipeline.pool()).await?)
}

fn as_held(record: &Record) -> Held {
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
async fn a_redrive_brings_back_what_was_repaired_and_nothing_twice() -> Result<()> {
    let services = services().await?;
    let mut pipeline = Pipeline::create(&services, "redriven", PARTITIONS).await?;
    pipeline.edit("  dictionary:\n", "  dictionary:\n    maxWait: 1s\n")?;
    let mut generator = Generator::new(&Settings {
        seed: 6,
        bad: 0.0,
        ..Settings::default()
    });
    // The first guests order most: without the last hundred, many orders lack theirs.
    pipeline.load_dictionary(&generator, 100).await?;
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
    let mut written = std::fs::File::create(&file)?;
    messages
        .iter()
        .try_for_each(|message| send::write_line(&mut written, message))?;
    pipeline.produce(1, messages.iter().cloned()).await?;
    let worker = pipeline.worker(&[])?;
    pipeline.drained(WITHIN).await?;
    let dead = rows(&pipeline).await?;
    let lacking = dead.iter().filter(|row| row.2 == "DictionaryMissing").count();
    ensure!(lacking > 20 && dead.len() == lacking + 1, "{dead:?}");
    assert!(
        dead.iter()
            .all(|row| row.2 == "ParseError" || row.3.contains("user ")),
        "{dead:?}"
    );
    let (dictionary, tags) = pipeline.write_recount_inputs(&generator)?;
    let expected = recount(&file, &dictionary, &tags)?;
    assert_ne!(
        marts(pipeline.pool()).await?,
        expected,
        "no closed order is missing"
    );

    // Without a repair it fails again: in its own row, its attempts counted on.
    redrive(&pipeline, "DictionaryMissing", lacking)?;
    pipeline.drained(WITHIN).await?;
    let again = rows(&pipeline).await?;
    assert_eq!(again.len(), dead.len());
    for (first, second) in dead.iter().zip(&again) {
        assert!(!second.5, "{second:?} is dead, and not said to be redriven");
        let counted_on = second.4 > first.4 || second.2 == "ParseError";
        assert!(counted_on, "{first:?} and then {second:?}");
    }

    pipeline.load_dictionary(&generator, 0).await?;
    redrive(&pipeline, "DictionaryMissing", lacking)?;
    pipeline.drained(WITHIN).await?;
    assert_eq!(marts(pipeline.pool()).await?, expected);
    let left = rows(&pipeline).await?;
    let not_redriven: Vec<&Row> = left.iter().filter(|row| !row.5).collect();
    assert!(
        matches!(not_redriven[..], [row] if row.2 == "ParseError"),
        "{not_redriven:?}"
    );

    let (everything, digests) = (
        pipeline.query::<String>(EVERYTHING).await?,
        pipeline.rows().await?,
    );
    redrive(&pipeline, "DictionaryMissing", 0)?;
    pipeline.drained(WITHIN).await?;
    assert_eq!(pipeline.query::<String>(EVERYTHING).await?, everything);
    assert_eq!(pipeline.rows().await?, digests);

    let parse_error = parse_errors(&pipeline, 1).await?[0].clone();
    redrive(&pipeline, "ParseError", 1)?;
    pipeline.drained(WITHIN).await?;
    let both = parse_errors(&pipeline, 2).await?;
    let (first, second) = (&both[0], &both[1]);
    assert_eq!((first.0, first.1, first.4), (parse_error.0, parse_error.1, 1));
    assert!(first.5, "not marked as redriven: {first:?}");
    assert_eq!((second.4, second.5), (2, false), "{second:?}");
    let copies = pipeline.read(&format!("{}.dlq", pipeline.source_topic()))?;
    let copy = copies
        .iter()
        .find(|copy| copy.header("streamstage-error-attempts") == "2" && copy.value.as_deref() == Some(b"{"));
    let copy = copy.context("no copy of the second attempt")?;
    let names: Vec<&str> = copy.headers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ADDED, "a redriven record carries old headers along");
    worker.stop().await?;

    // Read again, what was redriven stays so.
    let everything: String = pipeline.query(EVERYTHING).await?;
    replay(&pipeline, "stg").await?;
    assert_eq!(pipeline.query::<String>(EVERYTHING).await?, everything);
    assert_eq!(pipeline.rows().await?.len(), digests.len());
    assert_eq!(marts(pipeline.pool()).await?, expected);
    Ok(())
}

/// Runs `worker redrive` for one code, and checks how many it sends back.
fn redrive(pipeline: &Pipeline, code: &str, expected: usize) -> Result<()> {
    let said = pipeline.command("redrive", &["stg"], &["--code", code])?;
    assert_eq!(said, format!("stg: {expected} dead letters sent back\n"));
    Ok(())
}

/// The dead letters with that code, by their attempts.
async fn parse_errors(pipeline: &Pipeline, count: usize) -> Result<Vec<Row>> {
    let mut found = rows(pipeline).await?;
    found.retain(|row| row.2 == "ParseError");
    found.sort_by_key(|row| row.4);
    ensure!(found.len() == count, "{found:?}");
    Ok(found)
}
