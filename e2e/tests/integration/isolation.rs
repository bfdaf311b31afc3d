//! An outage or a misconfigured installation is never a record's fault: it is reported, and no record is dead-lettered.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::orders::{Expected, Generator, Message, Settings};
use e2e::pipeline::{Pipeline, Worker, start_services, wait_until};
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;

const DEADLINE: Duration = Duration::from_mins(2);
/// Rules of a second stage: one of its own, and one that the first stage has as well.
const SECOND_TAGS: &str = "  tags:\n    - {category: \"*\", threshold: 1, tag: once}\n    - {category: Роллы, threshold: 5, tag: любит роллы}\n";
/// Encodings that cannot store every text, or that store bytes without checking them.
const OTHER_ENCODINGS: [&str; 3] = ["LATIN1", "WIN1251", "SQL_ASCII"];

fn new_generator(seed: u64) -> Generator {
    Generator::new(&Settings {
        seed,
        bad: 0.0,
        ..Settings::default()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_with_another_encoding_is_rejected_before_the_first_record() -> Result<()> {
    let services = start_services().await?;
    let mut pipeline = Pipeline::create(&services, "encoding", 1).await?;
    let mut database = pipeline.name().to_owned();
    for encoding in OTHER_ENCODINGS {
        let other = format!("{}_{encoding}", pipeline.name()).to_lowercase();
        let create = format!("CREATE DATABASE {other} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0");
        sqlx::raw_sql(AssertSqlSafe(create))
            .execute(pipeline.pool())
            .await?;
        pipeline.edit(
            &format!("database: {database}\n"),
            &format!("database: {other}\n"),
        )?;
        database = other;
        for command in ["migrate", "check"] {
            let Err(error) = pipeline.run_command(command, &[], &[]) else {
                panic!("worker {command} accepts {encoding}");
            };
            let output = error.to_string();
            ensure!(
                output.contains(&format!("the encoding of the database is {encoding}")),
                "{output}"
            );
        }
        let (status, log) = pipeline.start_worker(&["stg"])?.wait_exit().await?;
        ensure!(
            !status.success() && log.contains(encoding),
            "{encoding}: {status}:\n{log}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tag_rules_of_two_stages_apply_side_by_side() -> Result<()> {
    let services = start_services().await?;
    let pipeline = Pipeline::create(&services, "two_marts", 1).await?;
    let file = std::fs::read_to_string(pipeline.stage_file())?;
    let (_, first) = file.rsplit_once("---\n").unwrap_or_default();
    let (second, _) = first.split_once("  tags:\n").unwrap_or_default();
    let second = second.replace("name: cdm\n", "name: cdm-second\n");
    std::fs::write(pipeline.stage_file(), format!("{file}---\n{second}{SECOND_TAGS}"))?;
    // Rules from before the migration belong to no stage; the first stage that starts replaces them.
    sqlx::query("INSERT INTO cdm.category_thresholds (category, threshold, tag) VALUES ('Супы', 1, 'old')")
        .execute(pipeline.pool())
        .await?;
    let mut generator = new_generator(17);
    pipeline.load_reference_data(&generator, 0).await?;
    let messages: Vec<_> = generator.history(600).collect();
    pipeline.produce(1, messages.into_iter()).await?;
    let worker = pipeline.start_worker(&[])?;
    pipeline.wait_drained(DEADLINE).await?;
    ensure!(worker.stop().await?.success(), "the worker did not stop properly");

    // Every start installs rules, in any order.
    for stage in ["cdm", "cdm-second", "cdm"] {
        assert_tags_of_both_stages(&pipeline).await?;
        let worker = pipeline.start_worker(&[stage])?;
        worker
            .wait_for_log("tag rules of other consumer groups apply too")
            .await?;
        worker.wait_for_log("partitions assigned").await?;
        ensure!(worker.stop().await?.success(), "the worker did not stop properly");
    }
    assert_tags_of_both_stages(&pipeline).await
}

async fn assert_tags_of_both_stages(pipeline: &Pipeline) -> Result<()> {
    let rules: Vec<(String, i64)> =
        sqlx::query_as("SELECT consumer_group, count(*) FROM cdm.category_thresholds GROUP BY 1 ORDER BY 1")
            .fetch_all(pipeline.pool())
            .await?;
    let group = |stage: &str| format!("{}.{stage}", pipeline.name());
    assert_eq!(rules, [(group("cdm"), 5), (group("cdm-second"), 2)]);
    // A user has a tag for each distinct rule that applies; for `*` that is a rule of the same stage only.
    let expected = "SELECT count(*) FROM (
        SELECT DISTINCT counter.user_id, counter.category_id, rule.tag, rule.threshold
        FROM cdm.user_category_counters AS counter CROSS JOIN cdm.category_thresholds AS rule
        WHERE counter.order_cnt >= rule.threshold AND (rule.category = counter.category_name
            OR (rule.category = '*' AND rule.consumer_group LIKE '%.cdm'
                AND counter.category_name NOT IN ('Роллы', 'Пицца', 'Супы', 'Десерты'))
            OR (rule.category = '*' AND rule.consumer_group LIKE '%.cdm-second'
                AND counter.category_name <> 'Роллы'))) AS tags";
    let tags: i64 = pipeline
        .query_scalar("SELECT count(*) FROM cdm.user_tags")
        .await?;
    assert_eq!(tags, pipeline.query_scalar::<i64>(expected).await?);
    for tag in ["once", "любит роллы", "сладкоежка"] {
        let count = format!("SELECT count(*) FROM cdm.user_tags WHERE tag = '{tag}'");
        ensure!(
            pipeline.query_scalar::<i64>(&count).await? > 0,
            "no user has the tag {tag}"
        );
    }
    Ok(())
}

/// Waits until a worker is not ready, and `/readyz` contains a text.
async fn wait_not_ready(worker: &Worker, text: &str) -> Result<()> {
    wait_until(&format!("not ready: {text}"), DEADLINE, || async {
        let (status, body) = worker.http_get("/readyz").await?;
        Ok(status == 503 && body.contains(text))
    })
    .await
}

async fn wait_ready(worker: &Worker) -> Result<()> {
    wait_until("ready", DEADLINE, || async {
        Ok(worker.http_get("/readyz").await?.0 == 200)
    })
    .await
}

async fn count_dead_letters(pipeline: &Pipeline) -> Result<i64> {
    pipeline
        .query_scalar("SELECT count(*) FROM streamstage.dead_letter")
        .await
}

async fn stop(worker: Worker) -> Result<()> {
    ensure!(worker.stop().await?.success(), "the worker did not stop properly");
    Ok(())
}

/// The next orders, each of a user of its own.
fn orders_of_users(generator: &mut Generator, users: &[String]) -> Result<Vec<Message>> {
    let orders = users.iter().zip(generator.live()).map(|(user, message)| {
        let mut order: Value = serde_json::from_slice(&message.value.context("no value")?)?;
        order["payload"]["user"]["id"] = json!(user);
        let value = Some(order.to_string().into_bytes());
        Ok(Message {
            value,
            expected: Expected::Good,
        })
    });
    orders.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_order_is_dead_lettered_while_the_reference_data_is_lost() -> Result<()> {
    let services = start_services().await?;
    let mut pipeline = Pipeline::create(&services, "lost", 1).await?;
    pipeline.edit("  referenceData:\n", "  referenceData:\n    maxWait: 5s\n")?;
    let mut generator = new_generator(18);
    pipeline.load_reference_data(&generator, 0).await?;
    let messages: Vec<Message> = generator.history(200).collect();
    pipeline.produce(1, messages.into_iter()).await?;
    let worker = pipeline.start_worker(&[])?;
    pipeline.wait_drained(DEADLINE).await?;
    let users: Vec<String> = (0..206).map(|number| format!("u{number}")).collect();
    let late = orders_of_users(&mut generator, &users[..1])?;
    pipeline.produce(1, late.into_iter()).await?;
    let pending = "SELECT count(*) FROM stg.pending_enrichment";
    wait_until("an order is pending", DEADLINE, || async {
        Ok(pipeline.query_scalar::<i64>(pending).await? == 1)
    })
    .await?;

    // A few orders are enough to notice that everything is lost.
    pipeline.run_redis("FLUSHDB", &[]).await?;
    let few = orders_of_users(&mut generator, &users[1..6])?;
    pipeline.produce(1, few.into_iter()).await?;
    wait_not_ready(&worker, "the reference data has vanished").await?;
    let (_, metrics) = worker.http_get("/metrics").await?;
    let down = "streamstage_worker_dependency_up{stage=\"stg\",dependency=\"reference_data\"} 0\n";
    ensure!(metrics.contains(down), "{metrics}");
    worker.wait_for_log("dependency unavailable").await?;
    let expired = "SELECT count(*) FROM stg.pending_enrichment WHERE now() - pending_since > interval '10 s'";
    wait_until("maxWait has passed twice", DEADLINE, || async {
        Ok(pipeline.query_scalar::<i64>(expired).await? > 0)
    })
    .await?;
    assert_eq!(count_dead_letters(&pipeline).await?, 0);
    stop(worker).await?;

    // A worker that starts now knows from the vault what existed before. One entry of another system changes nothing.
    pipeline.run_redis("SET", &[b"other", b"1"]).await?;
    let many = orders_of_users(&mut generator, &users[6..])?;
    pipeline.produce(1, many.into_iter()).await?;
    let worker = pipeline.start_worker(&[])?;
    wait_not_ready(&worker, "the reference data has vanished").await?;

    // The entries return in two steps; the time of the loss does not count for the orders that wait for the second.
    pipeline.load_reference_data(&generator, 0).await?;
    wait_until("the other orders are pending", DEADLINE, || async {
        Ok(pipeline.query_scalar::<i64>(pending).await? > 0)
    })
    .await?;
    let users = users
        .iter()
        .map(|id| (id.as_str(), r#"{"name": "A", "login": "a"}"#.to_owned()));
    pipeline.load_entries(users).await?;
    pipeline.wait_drained(DEADLINE).await?;
    wait_ready(&worker).await?;
    assert_eq!(count_dead_letters(&pipeline).await?, 0);
    let orders = "SELECT count(*) FROM dds.h_order JOIN stg.order_events ON order_id = object_id";
    let stored = "SELECT count(*) FROM stg.order_events";
    assert_eq!(
        pipeline.query_scalar::<i64>(orders).await?,
        pipeline.query_scalar::<i64>(stored).await?
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stage_waits_for_reference_data_of_which_most_is_missing() -> Result<()> {
    let services = start_services().await?;
    let mut pipeline = Pipeline::create(&services, "another_redis", 1).await?;
    pipeline.set_batch_settings("{maxRecords: 200, maxWait: 30s}")?;
    let mut generator = new_generator(19);
    // Users only: nothing was found before, so the batch alone shows the outage.
    let users = generator.catalogue().users.len();
    pipeline
        .load_entries(generator.catalogue().entries(0).take(users))
        .await?;
    let messages: Vec<Message> = generator.history(300).take(400).collect();
    pipeline.produce(1, messages.into_iter()).await?;
    let worker = pipeline.start_worker(&["stg"])?;
    wait_not_ready(&worker, "orders need are missing or malformed").await?;
    let stored: i64 = pipeline
        .query_scalar("SELECT count(*) FROM stg.order_events")
        .await?;
    assert_eq!(stored, 0);
    pipeline.load_reference_data(&generator, 0).await?;
    pipeline.wait_stages_drained(&["stg"], DEADLINE).await?;
    wait_ready(&worker).await?;
    assert_eq!(count_dead_letters(&pipeline).await?, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_faulty_records_is_held_for_a_bounded_time() -> Result<()> {
    let services = start_services().await?;
    let mut pipeline = Pipeline::create(&services, "held", 1).await?;
    pipeline.set_batch_settings("{maxHold: 20s}")?;
    let faulty = Message {
        value: Some(b"not an order".to_vec()),
        expected: Expected::Bad("ParseError"),
    };
    pipeline
        .produce(1, std::iter::repeat_n(faulty.clone(), 300))
        .await?;
    let worker = pipeline.start_worker(&["stg"])?;
    worker.wait_for_log("batch held").await?;
    wait_not_ready(
        &worker,
        "records would be dead-lettered, most of them as ParseError",
    )
    .await?;
    let (_, metrics) = worker.http_get("/metrics").await?;
    ensure!(
        metrics.contains("streamstage_worker_held{stage=\"stg\"} 1\n"),
        "{metrics}"
    );
    // The worker reports the hold before it stores it.
    wait_until("the hold is stored", DEADLINE, || async {
        let stored: i64 = pipeline
            .query_scalar("SELECT count(*) FROM streamstage.hold")
            .await?;
        Ok(stored == 1)
    })
    .await?;
    let started = "SELECT started_at::text FROM streamstage.hold";
    let started_at: String = pipeline.query_scalar(started).await?;
    stop(worker).await?;

    // A restart does not lengthen the hold, and later batches of the same kind are not held again.
    let worker = pipeline.start_worker(&["stg"])?;
    pipeline.wait_stages_drained(&["stg"], DEADLINE).await?;
    wait_ready(&worker).await?;
    assert_eq!(count_dead_letters(&pipeline).await?, 300);
    pipeline.produce(1, std::iter::repeat_n(faulty, 300)).await?;
    pipeline.wait_stages_drained(&["stg"], DEADLINE).await?;
    assert_eq!(count_dead_letters(&pipeline).await?, 600);
    assert_eq!(pipeline.query_scalar::<String>(started).await?, started_at);
    // The first worker may process up to 99 records before its sample decides; the second continues the hold.
    let held_for: i32 = pipeline
        .query_scalar(
            "SELECT extract(epoch FROM min(dead_lettered_at) FILTER (WHERE \"offset\" >= 99) - min(started_at))::integer
             FROM streamstage.dead_letter CROSS JOIN streamstage.hold",
        )
        .await?;
    ensure!(held_for >= 19, "held for {held_for} s only");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_starts_during_a_hold_holds_its_first_batch_however_small() -> Result<()> {
    let services = start_services().await?;
    let mut pipeline = Pipeline::create(&services, "resumed", 1).await?;
    pipeline.set_batch_settings("{maxHold: 1h}")?;
    let hold =
        "INSERT INTO streamstage.hold (consumer_group, topic, cause) VALUES ($1, $2, 'of another worker')";
    sqlx::query(hold)
        .bind(format!("{}.stg", pipeline.name()))
        .bind(pipeline.source_topic())
        .execute(pipeline.pool())
        .await?;
    let faulty = Message {
        value: Some(b"not an order".to_vec()),
        expected: Expected::Bad("ParseError"),
    };
    // Too few records to begin a hold.
    pipeline.produce(1, std::iter::repeat_n(faulty, 3)).await?;
    let worker = pipeline.start_worker(&["stg"])?;
    wait_not_ready(&worker, "3 of 3 records would be dead-lettered").await?;
    assert_eq!(count_dead_letters(&pipeline).await?, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stage_that_is_corrected_during_a_hold_dead_letters_nothing() -> Result<()> {
    let services = start_services().await?;
    let mut pipeline = Pipeline::create(&services, "corrected", 1).await?;
    let generator = &mut new_generator(20);
    pipeline.load_reference_data(generator, 0).await?;
    // One batch of all records, and a limit that most of them exceed.
    pipeline.set_batch_settings("{maxRecords: 200, maxWait: 30s}")?;
    pipeline.edit("layer: stg\n", "layer: stg\n  limits: {maxRecordBytes: 1Ki}\n")?;
    pipeline.produce(1, generator.history(200).take(400)).await?;
    let worker = pipeline.start_worker(&["stg"])?;
    wait_not_ready(&worker, "most of them as TooLarge").await?;
    stop(worker).await?;
    pipeline.edit("maxRecordBytes: 1Ki", "maxRecordBytes: 1Mi")?;
    let constraint = "ALTER TABLE stg.order_events ADD CONSTRAINT fault CHECK (false)";
    sqlx::raw_sql(constraint).execute(pipeline.pool()).await?;
    let worker = pipeline.start_worker(&["stg"])?;
    wait_not_ready(&worker, "most of them as WarehouseRejected").await?;
    let constraint = "ALTER TABLE stg.order_events DROP CONSTRAINT fault";
    sqlx::raw_sql(constraint).execute(pipeline.pool()).await?;
    pipeline.wait_stages_drained(&["stg"], DEADLINE).await?;
    wait_ready(&worker).await?;
    assert_eq!(count_dead_letters(&pipeline).await?, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_permission_or_table_is_an_outage_of_the_warehouse() -> Result<()> {
    let services = start_services().await?;
    let pipeline = Pipeline::create(&services, "not_installed", 1).await?;
    let mut generator = new_generator(21);
    pipeline.load_reference_data(&generator, 0).await?;
    let messages: Vec<Message> = generator.history(30).collect();
    let faults = [
        (
            "REVOKE INSERT ON stg.order_events FROM streamstage_worker",
            "permission denied for table order_events",
            "GRANT INSERT ON stg.order_events TO streamstage_worker",
        ),
        (
            "ALTER TABLE stg.order_event_history RENAME TO old_history",
            "order_event_history",
            "ALTER TABLE stg.old_history RENAME TO order_event_history",
        ),
    ];
    let worker = pipeline.start_worker(&["stg"])?;
    for (number, (fault, cause, repair)) in faults.into_iter().enumerate() {
        sqlx::raw_sql(fault).execute(pipeline.pool()).await?;
        let half = messages.iter().skip(number).step_by(2).cloned();
        pipeline.produce(1, half).await?;
        wait_not_ready(&worker, cause).await?;
        let (_, body) = worker.http_get("/readyz").await?;
        ensure!(body.contains("\"blocked\":{}"), "a record is blamed: {body}");
        sqlx::raw_sql(repair).execute(pipeline.pool()).await?;
        pipeline.wait_stages_drained(&["stg"], DEADLINE).await?;
        wait_ready(&worker).await?;
    }
    assert_eq!(count_dead_letters(&pipeline).await?, 0);
    Ok(())
}
