//! The generator's messages arrive as they were made: in a topic, in Redis and in a file.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "edge: reads back what was sent"
)]

use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use e2e::orders::manifest::Manifest;
use e2e::orders::{Generator, Settings, dictionary, send};
use e2e::pipeline::empty_redis;
use e2e::services::{Options, Services};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Message, Offset, TopicPartitionList};

const PARTITIONS: i32 = 3;

/// Every record of the topic: key, partition and value.
type Stored = (Option<Vec<u8>>, i32, Option<Vec<u8>>);

fn stored(bootstrap_servers: &str, topic: &str, count: usize) -> Result<Vec<Stored>> {
    let mut config = ClientConfig::new();
    let consumer: BaseConsumer = config
        .set("bootstrap.servers", bootstrap_servers)
        .set("group.id", "reader")
        .create()?;
    let mut from = TopicPartitionList::new();
    from.add_partition_range(topic, 0, PARTITIONS - 1);
    from.set_all_offsets(Offset::Beginning)?;
    consumer.assign(&from)?;
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut found = Vec::new();
    while found.len() < count {
        if Instant::now() > deadline {
            bail!("{} of {count} records within 30 s", found.len());
        }
        if let Some(record) = consumer.poll(Duration::from_millis(100)) {
            let record = record?;
            found.push((
                record.key().map(<[u8]>::to_vec),
                record.partition(),
                record.payload().map(<[u8]>::to_vec),
            ));
        }
    }
    Ok(found)
}

#[tokio::test]
async fn what_is_sent_arrives_byte_by_byte_without_keys_on_all_partitions() -> Result<()> {
    let services = Services::from_env_or_start(Options::default()).await?;
    let topic = format!("orders-{}", std::process::id());
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

    let found = stored(services.bootstrap_servers(), &topic, sent.len())?;
    assert!(found.iter().all(|(key, ..)| key.is_none()));
    assert_eq!(
        found
            .iter()
            .map(|(_, partition, _)| partition)
            .collect::<BTreeSet<_>>()
            .len(),
        3
    );
    let mut expected: Vec<_> = sent.into_iter().map(|message| message.value).collect();
    let mut values: Vec<_> = found.into_iter().map(|(.., value)| value).collect();
    expected.sort();
    values.sort();
    assert!(expected == values, "the same values, tombstones among them");

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
async fn the_dictionary_is_loaded_by_id() -> Result<()> {
    let mut options = Options::default();
    options.named.kafka = Some("unused".to_owned());
    let services = Services::from_env_or_start(options).await;
    assert!(
        services.is_err(),
        "a named service that does not answer is an error"
    );

    let services = Services::from_env_or_start(Options::default()).await?;
    let generator = Generator::new(&Settings {
        guests: 1200,
        ..Settings::default()
    });
    let url = services.redis_url(empty_redis(&services).await?);
    assert_eq!(
        dictionary::load(&url, generator.catalogue().entries(200)).await?,
        1008
    );
    let mut connection = redis::Client::open(url.as_str())?
        .get_multiplexed_async_connection()
        .await?;
    let guest = &generator.catalogue().guests[999];
    let json: String = redis::cmd("GET")
        .arg(&guest.id)
        .query_async(&mut connection)
        .await?;
    assert!(json.contains(&guest.login));
    let withheld: Option<String> = redis::cmd("GET")
        .arg(&generator.catalogue().guests[1000].id)
        .query_async(&mut connection)
        .await?;
    assert_eq!(withheld, None);
    dictionary::empty(&url)
}

#[test]
fn the_file_holds_a_line_for_each_message_and_the_manifest_counts_them() -> Result<()> {
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
            "--for=0.2s",
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

/// Whoever waits for the history, as a demo does, need not wait for the end of a live part that has none.
#[test]
fn the_manifest_is_there_after_the_history_and_sigterm_ends_the_live_part() -> Result<()> {
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
    let manifest = || -> Option<Manifest> { serde_json::from_slice(&std::fs::read(&path).ok()?).ok() };
    let deadline = Instant::now() + Duration::from_secs(10);
    let history = loop {
        if let Some(manifest) = manifest() {
            break manifest;
        }
        assert!(Instant::now() < deadline, "no manifest within 10 s");
        std::thread::sleep(Duration::from_millis(10));
    };
    assert_eq!(history.orders, 20);
    assert!(orders.try_wait()?.is_none(), "the live part goes on");
    let kill = Command::new("kill").arg(orders.id().to_string()).status()?;
    assert!(kill.success() && orders.wait()?.success());
    assert!(manifest().is_some_and(|all| all.messages >= history.messages));
    Ok(())
}
