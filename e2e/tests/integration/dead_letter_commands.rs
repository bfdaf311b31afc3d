//! The commands on dead letters: they list, show, redrive and discard what the filters select, and change nothing without
//! `--execute`.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::pipeline::{Pipeline, Record, Worker, start_services, wait_until};

const DEADLINE: Duration = Duration::from_mins(2);
/// Code, key and value of a dead letter.
type Letter = (&'static str, Option<&'static [u8]>, Option<&'static [u8]>);

/// Dead letters in the order of their offsets.
const LETTERS: [Letter; 5] = [
    ("ParseError", Some(b"a"), Some(b"{")),
    ("Tombstone", Some(b"b"), None),
    ("ParseError", Some(b"a"), Some(b"\xff\x1b[31m text")),
    (
        "ContractViolation",
        None,
        Some(b"{\"object_id\": 1, \"object_type\": \"order\"}"),
    ),
    ("ParseError", Some(b"c"), Some(b"[]")),
];

/// A pipeline with these dead letters in partition 0, and its worker.
async fn create_dead_letters(name: &str) -> Result<(e2e::services::Services, Pipeline, Worker)> {
    let services = start_services().await?;
    let pipeline = Pipeline::create(&services, name, 1).await?;
    let records = LETTERS.map(|(_, key, value)| Record {
        key: key.map(<[u8]>::to_vec),
        value: value.map(<[u8]>::to_vec),
        headers: vec![("trace".to_owned(), Some(b"secret".to_vec()))],
        ..Record::default()
    });
    pipeline.send(pipeline.source_topic(), &records).await?;
    let worker = pipeline.start_worker(&["stg"])?;
    pipeline.wait_caught_up("stg", DEADLINE).await?;
    pipeline.wait_dead_letters_copied(DEADLINE).await?;
    Ok((services, pipeline, worker))
}

/// Offsets of the listed dead letters, and the whole output.
fn list(pipeline: &Pipeline, flags: &[&str]) -> Result<(Vec<i64>, String)> {
    let output = pipeline.run_command("dead-letters list", &["stg"], flags)?;
    let rows = output.lines().filter_map(|line| {
        let mut columns = line.split_whitespace();
        columns.next()?.parse::<i32>().ok()?;
        columns.next()?.parse().ok()
    });
    Ok((rows.collect(), output.clone()))
}

/// All rows without the times of the copies.
async fn rows(pipeline: &Pipeline) -> Result<String> {
    pipeline
        .query_scalar(
            "SELECT json_agg(letter ORDER BY \"offset\")::text FROM streamstage.dead_letter AS letter",
        )
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn list_counts_by_code_and_every_filter_selects_its_dead_letters() -> Result<()> {
    let (_services, pipeline, _worker) = Box::pin(create_dead_letters("list")).await?;
    let (offsets, output) = list(&pipeline, &[])?;
    assert_eq!(offsets, [0, 1, 2, 3, 4], "{output}");
    for count in [
        "stg: 5 dead letters\n",
        "ContractViolation             1 ",
        "ParseError                    3 ",
    ] {
        ensure!(output.contains(count), "no {count:?} in {output}");
    }
    ensure!(
        !output.contains("secret") && !output.contains('\u{1b}'),
        "content of a record: {output}"
    );
    let cases: [(&[&str], &[i64]); 12] = [
        (&["--code", "Tombstone"], &[1]),
        (&["--code", "Tombstone,ContractViolation"], &[1, 3]),
        (&["--key", "a"], &[0, 2]),
        (&["--key", "a", "--code", "Tombstone"], &[]),
        (&["--offset", "2"], &[2]),
        (&["--offset", "1..3"], &[1, 2]),
        (&["--partition", "1"], &[]),
        (&["--partition", "0", "--offset", "4"], &[4]),
        (&["--since", "1h"], &[0, 1, 2, 3, 4]),
        (&["--until", "1h"], &[]),
        (&["--since", "2999-01-01T00:00:00Z"], &[]),
        (&["--limit", "2"], &[0, 1]),
    ];
    for (flags, expected) in cases {
        let (offsets, output) = list(&pipeline, flags)?;
        assert_eq!(offsets, expected, "{flags:?}: {output}");
    }
    ensure!(
        list(&pipeline, &["--limit", "2"])?.1.contains("3 more"),
        "no hint at the rest"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn show_prints_one_dead_letter_with_escaped_bytes() -> Result<()> {
    let (_services, pipeline, _worker) = Box::pin(create_dead_letters("show")).await?;
    let show = |flags: &[&str]| pipeline.run_command("dead-letters show", &["stg"], flags);
    let output = show(&["--offset", "2"])?;
    for line in [
        "offset       2",
        "code         ParseError",
        "header       trace: secret",
        "key          a",
    ] {
        ensure!(
            output.lines().any(|printed| printed == line),
            "no {line:?} in {output}"
        );
    }
    ensure!(output.contains(r"value        \xff\u{1b}[31m text"), "{output}");
    ensure!(
        show(&["--offset", "1"])?.contains("value        null"),
        "a tombstone"
    );
    for (flags, expected) in [
        (["--key", "a"], "2 dead letters are selected"),
        (["--offset", "99"], "no dead letter is selected"),
    ] {
        let error = show(&flags).expect_err("not one dead letter").to_string();
        ensure!(error.contains(expected), "{error}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn discard_and_redrive_change_nothing_without_execute() -> Result<()> {
    let (_services, pipeline, _worker) = Box::pin(create_dead_letters("discard")).await?;
    let before = rows(&pipeline).await?;
    let reason = ["--reason", "sent by mistake"];
    let preview = pipeline.run_command(
        "dead-letters discard",
        &["stg"],
        &[&reason[..], &["--key", "a"]].concat(),
    )?;
    ensure!(
        preview.contains("stg: 2 dead letters") && preview.contains("--execute"),
        "{preview}"
    );
    let preview = pipeline.run_command("dead-letters redrive", &["stg"], &["--code", "ParseError"])?;
    ensure!(
        preview.contains("stg: 3 dead letters") && preview.contains("--execute"),
        "{preview}"
    );
    assert_eq!(rows(&pipeline).await?, before);

    let flags = [&reason[..], &["--key", "a", "--limit", "1", "--execute"]].concat();
    let output = pipeline.run_command("dead-letters discard", &["stg"], &flags)?;
    ensure!(output.contains("stg: 1 dead letters discarded"), "{output}");
    assert_eq!(list(&pipeline, &[])?.0, [1, 2, 3, 4]);
    assert_eq!(list(&pipeline, &["--all"])?.0, [0, 1, 2, 3, 4]);
    let shown = pipeline.run_command("dead-letters show", &["stg"], &["--offset", "0"])?;
    ensure!(
        shown.contains("discarded") && shown.contains("sent by mistake"),
        "{shown}"
    );
    let waiting: i64 = pipeline
        .query_scalar("SELECT sum(waiting)::bigint FROM cdm_bi.dead_letters")
        .await?;
    let discarded: i64 = pipeline
        .query_scalar("SELECT sum(discarded)::bigint FROM cdm_bi.dead_letters")
        .await?;
    assert_eq!((waiting, discarded), (4, 1));

    // A discarded dead letter is not redriven; the others fail again, as new dead letters.
    let output = pipeline.run_command(
        "dead-letters redrive",
        &["stg"],
        &["--code", "ParseError", "--execute"],
    )?;
    ensure!(output.contains("stg: 2 dead letters redriven"), "{output}");
    wait_until("they fail again", DEADLINE, || async {
        Ok(list(&pipeline, &[])?.0 == [1, 3, 5, 6])
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_the_source_topic_rejects_does_not_prevent_the_redrive_of_others() -> Result<()> {
    let (_services, pipeline, worker) = Box::pin(create_dead_letters("rejected_redrive")).await?;
    worker.stop().await?;
    // Rejects the dead letter without a key.
    pipeline
        .set_topic_config(pipeline.source_topic(), "cleanup.policy", "compact")
        .await?;
    let error = pipeline
        .run_command("dead-letters redrive", &["stg"], &["--execute"])
        .expect_err("one is rejected")
        .to_string();
    ensure!(
        error.contains("stg: 4 dead letters redriven") && error.contains("1 dead letters not redriven"),
        "{error}"
    );
    assert_eq!(list(&pipeline, &[])?.0, [3]);
    Ok(())
}
