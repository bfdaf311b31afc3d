//! The generator's output arrives unchanged: messages in a topic and in a file, reference data in Redis.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "edge: reads the output back"
)]

use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use e2e::orders::manifest::Manifest;
use e2e::orders::{Generator, Settings, reference_data, send};
use e2e::pipeline::RedisDatabase;
use e2e::services::{Options, Services};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Message, Offset, TopicPartitionList};

const PARTITIONS: i32 = 3;

/// Key, partition and value of a record.
type KeyPartitionValue = (Option<Vec<u8>>, i32, Option<Vec<u8>>);

/// Reads `count` records of a topic.
fn read_records(bootstrap_servers: &str, topic: &str, count: usize) -> Result<Vec<KeyPartitionValue>> {
    let mut config = ClientConfig::new();
    let consumer: BaseConsumer = config
        .set("bootstrap.servers", bootstrap_servers)
        .set("group.id", "reader")
        .create()?;
    let mut assignment = TopicPartitionList::new();
    assignment.add_partition_range(topic, 0, PARTITIONS - 1);
    assignment.set_all_offsets(Offset::Beginning)?;
    consumer.assign(&assignment)?;
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut records = Vec::new();
    while records.len() < count {
        if Instant::now() > deadline {
            bail!("{} of {count} records within 30 s", records.len());
        }
        if let Some(record) = consumer.poll(Duration::from_millis(100)) {
            let record = record?;
            records.push((
                record.key().map(<[u8]>::to_vec),
                record.partition(),
                record.payload().map(<[u8]>::to_vec),
            ));
        }
    }
    Ok(records)
}

#[tokio::test]
async fn messages_arrive_unchanged_without_keys_on_all_partitions() -> Result<()> {
    let services = Services::from_env_or_start(Options::default()).await?;
    let topic = format!("orders-{:08x}", rand::random::<u32>());
    services.create_topic(&topic, PARTITIONS).await?;
    let settings = Settings {
        bad: 0.1,
        ..Settings::default()
    };
    let sent: Vec<_> = Generator::new(&settings).history(500).collect();
    let manifest = send::to_kafka(
        services.bootstrap_servers(),
        &topic,
        1,
        sent.iter().cloned(),
        |_| {},
    )
    .await?;
    assert_eq!(manifest.messages, sent.len() as u64);
    assert_eq!(manifest.bad, manifest.bad_by_code.values().sum::<u64>());

    let records = read_records(services.bootstrap_servers(), &topic, sent.len())?;
    assert!(records.iter().all(|(key, ..)| key.is_none()));
    assert_eq!(
        records
            .iter()
            .map(|(_, partition, _)| partition)
            .collect::<BTreeSet<_>>()
            .len(),
        3
    );
    let mut expected: Vec<_> = sent.into_iter().map(|message| message.value).collect();
    let mut values: Vec<_> = records.into_iter().map(|(.., value)| value).collect();
    expected.sort();
    values.sort();
    assert!(expected == values, "the values differ");

    let missing = send::to_kafka(
        services.bootstrap_servers(),
        "nowhere",
        1,
        std::iter::empty(),
        |_| {},
    )
    .await;
    assert!(missing.is_err_and(|error| error.to_string().contains("no topic nowhere")));
    Ok(())
}

#[tokio::test]
async fn reference_data_is_stored_by_id() -> Result<()> {
    let mut options = Options::default();
    options.external.kafka = Some("unused".to_owned());
    let services = Services::from_env_or_start(options).await;
    assert!(
        services.is_err(),
        "an external service that does not answer is an error"
    );

    let services = Services::from_env_or_start(Options::default()).await?;
    let generator = Generator::new(&Settings {
        users: 1200,
        ..Settings::default()
    });
    let database = RedisDatabase::acquire(&services).await?;
    assert_eq!(
        reference_data::load(database.url(), generator.catalogue().entries(200)).await?,
        1008
    );
    let mut connection = redis::Client::open(database.url())?
        .get_multiplexed_async_connection()
        .await?;
    let user = &generator.catalogue().users[999];
    let json: String = redis::cmd("GET")
        .arg(&user.id)
        .query_async(&mut connection)
        .await?;
    assert!(json.contains(&user.login));
    let withheld: Option<String> = redis::cmd("GET")
        .arg(&generator.catalogue().users[1000].id)
        .query_async(&mut connection)
        .await?;
    assert_eq!(withheld, None);
    Ok(())
}

#[test]
fn the_file_has_a_line_per_message_and_the_manifest_counts_them() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (orders, manifest) = (
        folder.path().join("orders.ndjson"),
        folder.path().join("manifest.json"),
    );
    let mut command = Command::new(env!("CARGO_BIN_EXE_orders"));
    command
        .args([
            "--history=300",
            "--rate=6000",
            "--for=1s",
            "--bad=0.2",
            "--to-file",
        ])
        .arg(&orders);
    assert!(command.arg("--manifest").arg(&manifest).status()?.success());
    let manifest: Manifest = serde_json::from_slice(&std::fs::read(manifest)?)?;
    let text = std::fs::read_to_string(&orders)?;
    let rows = text
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<Vec<serde_json::Value>, _>>()?;
    let expected = |row: &serde_json::Value| row["expected"].as_str().map(str::to_owned);
    let good = rows
        .iter()
        .filter(|row| expected(row).as_deref() == Some("Good"))
        .count();
    assert_eq!(
        (rows.len() as u64, good as u64),
        (manifest.messages, manifest.good)
    );
    assert!(manifest.orders > 300, "the live part counts too: {manifest:?}");
    let not_text = rows
        .iter()
        .find(|row| row.get("base64").is_some())
        .context("a message that is not UTF-8")?;
    assert_eq!(expected(not_text).as_deref(), Some("ParseError"));
    assert!(
        not_text["base64"]
            .as_str()
            .is_some_and(|text| text.starts_with("eyJvYmplY3RfaWQiOiA5MDAwMDAw"))
    );
    Ok(())
}

/// A demo can wait for the history, although the live part never ends.
#[test]
fn the_manifest_is_written_after_the_history_and_sigterm_ends_the_live_part() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("manifest.json");
    let mut orders = Command::new(env!("CARGO_BIN_EXE_orders"))
        .args([
            "--history=20",
            "--rate=600",
            "--to-file",
            "/dev/null",
            "--manifest",
        ])
        .arg(&path)
        .spawn()?;
    let read_manifest = || -> Option<Manifest> { serde_json::from_slice(&std::fs::read(&path).ok()?).ok() };
    let deadline = Instant::now() + Duration::from_secs(30);
    let history = loop {
        if let Some(manifest) = read_manifest() {
            break manifest;
        }
        assert!(Instant::now() < deadline, "no manifest within 30 s");
        std::thread::sleep(Duration::from_millis(10));
    };
    assert_eq!(history.orders, 20);
    assert!(orders.try_wait()?.is_none(), "the live part has ended");
    let kill = Command::new("kill").arg(orders.id().to_string()).status()?;
    assert!(kill.success() && orders.wait()?.success());
    assert!(read_manifest().is_some_and(|all| all.messages >= history.messages));
    Ok(())
}
