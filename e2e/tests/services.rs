//! The local services keep what they promise: they answer, keep their data over a restart, and end for certain.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "edge: talks to the services as a client would"
)]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use e2e::services::{self, Options, Recorded, Services};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{Message, Offset, TopicPartitionList};
use sqlx::{Connection, PgConnection};

async fn produce(services: &Services, topic: &str, value: &str) -> Result<()> {
    let mut config = ClientConfig::new();
    let producer: FutureProducer = config
        .set("bootstrap.servers", services.bootstrap_servers())
        .create()?;
    let record = FutureRecord::<(), str>::to(topic).partition(0).payload(value);
    let sent = producer.send(record, Duration::from_secs(10)).await;
    sent.map(|_delivery| ()).map_err(|(error, _)| error.into())
}

fn consume(services: &Services, topic: &str) -> Result<String> {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", services.bootstrap_servers())
        .set("group.id", "test");
    let consumer: BaseConsumer = config.create()?;
    let mut from = TopicPartitionList::new();
    from.add_partition_offset(topic, 0, Offset::Beginning)?;
    consumer.assign(&from)?;
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut refused = String::new();
    while Instant::now() < deadline {
        // A broker that has just come back may refuse for a moment.
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(record)) => {
                return Ok(String::from_utf8(record.payload().context("no value")?.to_vec())?);
            }
            Some(Err(error)) => refused = error.to_string(),
            None => {}
        }
    }
    bail!("no record within 20 s: {refused}")
}

async fn sql(services: &Services, database: &str, statement: &'static str) -> Result<Option<i32>> {
    let mut connection = PgConnection::connect(&services.postgres_url(database)).await?;
    Ok(sqlx::query_scalar(statement)
        .fetch_optional(&mut connection)
        .await?)
}

async fn set(services: &Services, value: u32) -> Result<()> {
    let mut connection = redis::Client::open(services.redis_url(3))?
        .get_multiplexed_async_connection()
        .await?;
    Ok(redis::cmd("SET")
        .arg("key")
        .arg(value)
        .query_async(&mut connection)
        .await?)
}

async fn get(services: &Services, database: u32) -> Result<Option<u32>> {
    let mut connection = redis::Client::open(services.redis_url(database))?
        .get_multiplexed_async_connection()
        .await?;
    Ok(redis::cmd("GET").arg("key").query_async(&mut connection).await?)
}

/// Polls until the condition holds, for at most 30 s.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "not within 30 s: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[tokio::test]
async fn services_answer_and_each_keeps_its_data_over_a_restart_alone() -> Result<()> {
    let mut services = Services::start(&Options::default()).await?;
    services.create_topic("orders", 3).await?;
    services.create_database("dwh").await?;
    produce(&services, "orders", "a record").await?;
    sql(&services, "dwh", "CREATE TABLE kept AS SELECT 17 AS n").await?;
    set(&services, 42).await?;
    assert_eq!(get(&services, 4).await?, None, "databases of Redis are apart");

    services.kafka.stop().await?;
    services.kafka.start().await?;
    services.postgres.stop().await?;
    services.postgres.start().await?;
    services.redis.stop().await?;
    services.redis.start().await?;
    assert_eq!(sql(&services, "dwh", "SELECT n FROM kept").await?, Some(17));
    assert_eq!(get(&services, 3).await?, Some(42));

    services.postgres.kill().await?;
    services.kafka.kill().await?;
    services.kafka.start().await?;
    services.postgres.start().await?;
    assert_eq!(
        sql(&services, "dwh", "SELECT n FROM kept").await?,
        Some(17),
        "a crash loses nothing committed"
    );
    if consume(&services, "orders")? != "a record" {
        bail!("the record changed");
    }

    let summary = services.summary();
    assert!(
        summary.starts_with("kafka 4.1.1 :") && summary.contains("   redis 7 :"),
        "{summary}"
    );
    Ok(())
}

#[tokio::test]
async fn dropped_services_leave_no_process_and_no_folder() -> Result<()> {
    let services = Services::start(&Options::default()).await?;
    let folder = services.folder().context("nothing started")?.to_owned();
    let running = services::status(&folder)?;
    assert_eq!(
        running
            .iter()
            .map(|service| service.name.as_str())
            .collect::<Vec<_>>(),
        ["kafka", "postgres", "redis"]
    );
    assert!(running.iter().all(Recorded::runs));
    drop(services);
    assert!(
        !running.iter().any(Recorded::runs),
        "all are gone when the drop returns"
    );
    assert!(!folder.exists());
    Ok(())
}

#[tokio::test]
async fn named_services_are_used_and_neither_started_nor_stopped() -> Result<()> {
    let owner = Services::start(&Options::default()).await?;
    let mut options = Options::default();
    options.named.kafka = Some(owner.bootstrap_servers().to_owned());
    options.named.postgres = Some(owner.postgres_url("postgres"));
    options.named.redis = Some(owner.redis_url(0));
    let mut guest = Services::from_env_or_start(options).await?;
    assert_eq!(guest.folder(), None);
    assert!(
        guest
            .redis
            .stop()
            .await
            .is_err_and(|error| error.to_string().contains("was not started here"))
    );
    assert!(
        guest.summary().contains("postgresql 15 127.0.0.1:"),
        "{}",
        guest.summary()
    );
    drop(guest);
    assert_eq!(get(&owner, 0).await?, None, "still answers");
    Ok(())
}

#[tokio::test]
async fn a_service_that_fails_to_start_says_why_and_leaves_nothing() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let folder = scratch.path().join("services");
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let options = Options {
        folder: Some(folder.clone()),
        redis_port: taken.local_addr()?.port(),
        ..Options::default()
    };
    // PostgreSQL runs as another user, which must be able to enter.
    std::fs::set_permissions(
        scratch.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )?;
    let error = Services::start(&options)
        .await
        .err()
        .context("the port is taken")?;
    assert!(error.to_string().contains("--redis-port"), "{error:#}");
    assert!(!folder.exists());
    Ok(())
}

#[tokio::test]
async fn a_folder_that_was_not_made_here_is_neither_used_nor_removed() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let precious = folder.path().join("precious");
    std::fs::write(&precious, "mine")?;
    let options = Options {
        folder: Some(folder.path().to_owned()),
        ..Options::default()
    };
    assert!(Services::start(&options).await.is_err());
    assert!(services::remove(folder.path()).is_err());
    assert!(precious.exists());
    Ok(())
}

/// Runs the command line on free ports and waits until it says that all are ready.
fn command(verb: &str, folder: &Path) -> Result<Child> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_services"));
    // Services that the environment names would be used instead of the ones under test.
    for named in ["STREAMSTAGE_KAFKA", "STREAMSTAGE_POSTGRES", "STREAMSTAGE_REDIS"] {
        command.env_remove(named);
    }
    command
        .args([
            verb,
            "--kafka-port=0",
            "--postgres-port=0",
            "--redis-port=0",
            "--dir",
        ])
        .arg(folder);
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().context("no output")?).read_line(&mut line)?;
    if !line.contains("ready in") {
        bail!("not ready: {line}");
    }
    Ok(child)
}

/// A path that does not exist yet, for a scratch folder that any user can enter.
fn fresh() -> Result<std::path::PathBuf> {
    let folder = tempfile::Builder::new().prefix("streamstage-test-").tempdir()?;
    Ok(folder.path().to_owned())
}

#[test]
fn an_owner_that_is_killed_leaves_no_process_and_no_folder() -> Result<()> {
    let folder = fresh()?;
    let mut owner = command("run", &folder)?;
    let running = services::status(&folder)?;
    assert_eq!(running.len(), 3);
    owner.kill()?;
    owner.wait()?;
    eventually("no process", || !running.iter().any(Recorded::runs));
    eventually("no folder", || !folder.exists());
    Ok(())
}

#[test]
fn services_brought_up_outlive_the_command_until_they_are_taken_down() -> Result<()> {
    let folder = fresh()?;
    let mut up = command("up", &folder)?;
    assert!(up.wait()?.success());
    let running = services::status(&folder)?;
    assert!(running.len() == 3 && running.iter().all(Recorded::runs));
    let names: Vec<String> = services::remove(&folder)?
        .into_iter()
        .map(|service| service.name)
        .collect();
    assert_eq!(names, ["kafka", "postgres", "redis"]);
    assert!(!running.iter().any(Recorded::runs));
    assert!(!folder.exists());
    assert_eq!(services::remove(&folder)?, [], "taking down twice is no error");
    Ok(())
}
