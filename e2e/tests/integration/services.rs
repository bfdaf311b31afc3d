//! The local services answer, keep their data at a restart, and are always stopped.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "edge: connects to the services as a client"
)]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use e2e::services::{self, Options, RecordedProcess, Services};
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
    let delivery = producer.send(record, Duration::from_secs(10)).await;
    delivery.map(|_| ()).map_err(|(error, _)| error.into())
}

fn consume(services: &Services, topic: &str) -> Result<String> {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", services.bootstrap_servers())
        .set("group.id", "test");
    let consumer: BaseConsumer = config.create()?;
    let mut assignment = TopicPartitionList::new();
    assignment.add_partition_offset(topic, 0, Offset::Beginning)?;
    consumer.assign(&assignment)?;
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut last_error = String::new();
    while Instant::now() < deadline {
        // A restarted broker may return errors for a moment.
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(record)) => {
                return Ok(String::from_utf8(record.payload().context("no value")?.to_vec())?);
            }
            Some(Err(error)) => last_error = error.to_string(),
            None => {}
        }
    }
    bail!("no record within 20 s: {last_error}")
}

async fn execute_sql(services: &Services, database: &str, statement: &'static str) -> Result<Option<i32>> {
    let mut connection = PgConnection::connect(&services.postgres_url(database)).await?;
    Ok(sqlx::query_scalar(statement)
        .fetch_optional(&mut connection)
        .await?)
}

async fn set_key(services: &Services, value: u32) -> Result<()> {
    let mut connection = redis::Client::open(services.redis_url(3))?
        .get_multiplexed_async_connection()
        .await?;
    Ok(redis::cmd("SET")
        .arg("key")
        .arg(value)
        .query_async(&mut connection)
        .await?)
}

async fn get_key(services: &Services, database: u32) -> Result<Option<u32>> {
    let mut connection = redis::Client::open(services.redis_url(database))?
        .get_multiplexed_async_connection()
        .await?;
    Ok(redis::cmd("GET").arg("key").query_async(&mut connection).await?)
}

/// Polls a condition until it is true, for at most 30 s.
fn eventually(description: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "not within 30 s: {description}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[tokio::test]
async fn each_service_keeps_its_data_when_it_is_restarted_alone() -> Result<()> {
    let mut services = Services::start(&Options::default()).await?;
    services.create_topic("orders", 3).await?;
    services.create_database("dwh").await?;
    produce(&services, "orders", "a record").await?;
    execute_sql(&services, "dwh", "CREATE TABLE numbers AS SELECT 17 AS n").await?;
    set_key(&services, 42).await?;
    assert_eq!(get_key(&services, 4).await?, None, "Redis databases are separate");

    services.kafka.stop().await?;
    services.kafka.start().await?;
    services.postgres.stop().await?;
    services.postgres.start().await?;
    services.redis.stop().await?;
    services.redis.start().await?;
    assert_eq!(
        execute_sql(&services, "dwh", "SELECT n FROM numbers").await?,
        Some(17)
    );
    assert_eq!(get_key(&services, 3).await?, Some(42));

    services.postgres.kill().await?;
    services.kafka.kill().await?;
    services.kafka.start().await?;
    services.postgres.start().await?;
    assert_eq!(
        execute_sql(&services, "dwh", "SELECT n FROM numbers").await?,
        Some(17),
        "a crash loses no committed row"
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
    let folder = services.folder().context("no local service")?.to_owned();
    let processes = services::status(&folder)?;
    assert_eq!(
        processes
            .iter()
            .map(|service| service.name.as_str())
            .collect::<Vec<_>>(),
        ["kafka", "postgres", "redis"]
    );
    assert!(processes.iter().all(RecordedProcess::is_running));
    drop(services);
    assert!(
        !processes.iter().any(RecordedProcess::is_running),
        "a process still runs after the drop"
    );
    assert!(!folder.exists());
    Ok(())
}

#[tokio::test]
async fn external_services_are_used_and_neither_started_nor_stopped() -> Result<()> {
    let owner = Services::start(&Options::default()).await?;
    let mut options = Options::default();
    options.external.kafka = Some(owner.bootstrap_servers().to_owned());
    options.external.postgres = Some(owner.postgres_url("postgres"));
    options.external.redis = Some(owner.redis_url(0));
    let mut client = Services::from_env_or_start(options).await?;
    assert_eq!(client.folder(), None);
    assert!(
        client
            .redis
            .stop()
            .await
            .is_err_and(|error| error.to_string().contains("is an external service"))
    );
    assert!(
        client.summary().contains("postgresql 15 127.0.0.1:"),
        "{}",
        client.summary()
    );
    drop(client);
    assert_eq!(get_key(&owner, 0).await?, None, "Redis still answers");
    Ok(())
}

#[tokio::test]
async fn a_failed_start_reports_the_cause_and_removes_the_folder() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let folder = scratch.path().join("services");
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let options = Options {
        folder: Some(folder.clone()),
        redis_port: listener.local_addr()?.port(),
        ..Options::default()
    };
    // PostgreSQL runs as another user, which must be able to enter the folder.
    std::fs::set_permissions(
        scratch.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )?;
    let error = Services::start(&options)
        .await
        .err()
        .context("the services started on a port that is in use")?;
    assert!(error.to_string().contains("--redis-port"), "{error:#}");
    assert!(!folder.exists());
    Ok(())
}

#[tokio::test]
async fn a_foreign_folder_is_neither_used_nor_removed() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let foreign_file = folder.path().join("file");
    std::fs::write(&foreign_file, "content")?;
    let options = Options {
        folder: Some(folder.path().to_owned()),
        ..Options::default()
    };
    assert!(Services::start(&options).await.is_err());
    assert!(services::remove(folder.path()).is_err());
    assert!(foreign_file.exists());
    Ok(())
}

/// Runs a subcommand of `services` on free ports, and waits until it reports that all services are ready.
fn run_services(arguments: &[&str], folder: &Path) -> Result<Child> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_services"));
    // External services would be used instead of local ones.
    for variable in ["STREAMSTAGE_KAFKA", "STREAMSTAGE_POSTGRES", "STREAMSTAGE_REDIS"] {
        command.env_remove(variable);
    }
    command
        .args(arguments)
        .args(["--kafka-port=0", "--postgres-port=0", "--redis-port=0", "--dir"])
        .arg(folder);
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().context("no output")?).read_line(&mut line)?;
    if !line.contains("ready in") {
        bail!("not ready: {line}");
    }
    Ok(child)
}

/// Path of a scratch folder that does not exist, below a folder that every user can enter.
fn unused_path() -> Result<std::path::PathBuf> {
    let folder = tempfile::Builder::new().prefix("streamstage-test-").tempdir()?;
    Ok(folder.path().to_owned())
}

#[test]
fn a_killed_owner_leaves_no_process_and_no_folder() -> Result<()> {
    let folder = unused_path()?;
    let mut owner = run_services(&["run"], &folder)?;
    let processes = services::status(&folder)?;
    assert_eq!(processes.len(), 3);
    owner.kill()?;
    owner.wait()?;
    eventually("no process", || {
        !processes.iter().any(RecordedProcess::is_running)
    });
    eventually("no folder", || !folder.exists());
    Ok(())
}

#[test]
fn services_up_leaves_the_services_running_until_services_down() -> Result<()> {
    let folder = unused_path()?;
    let mut up = run_services(&["up"], &folder)?;
    assert!(up.wait()?.success());
    let processes = services::status(&folder)?;
    assert!(processes.len() == 3 && processes.iter().all(RecordedProcess::is_running));
    let names: Vec<String> = services::remove(&folder)?
        .into_iter()
        .map(|service| service.name)
        .collect();
    assert_eq!(names, ["kafka", "postgres", "redis"]);
    assert!(!processes.iter().any(RecordedProcess::is_running));
    assert!(!folder.exists());
    assert_eq!(services::remove(&folder)?, [], "the second removal has no effect");
    Ok(())
}

#[tokio::test]
async fn services_up_with_example_creates_topics_and_database_once() -> Result<()> {
    let folder = unused_path()?;
    for attempt in ["start", "already running"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_services"));
        for variable in ["STREAMSTAGE_KAFKA", "STREAMSTAGE_POSTGRES", "STREAMSTAGE_REDIS"] {
            command.env_remove(variable);
        }
        let ports = ["--kafka-port=0", "--postgres-port=0", "--redis-port=0"];
        let command = command.args(["up", "--example"]).args(ports);
        let output = command.arg("--dir").arg(&folder).output()?;
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && stdout.contains("database streamstage, 6 topics"),
            "{attempt}: {stdout}{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let processes = services::status(&folder)?;
    let address = |name| {
        let service = processes.iter().find(|service| service.name == name);
        service
            .map(|service| service.address.clone())
            .context("no address")
    };
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", address("kafka")?)
        .create()?;
    let metadata = consumer.fetch_metadata(None, Duration::from_secs(10))?;
    let topics = metadata.topics().iter();
    let partitions = topics.filter(|topic| topic.name().contains("orders"));
    let partitions: Vec<usize> = partitions.map(|topic| topic.partitions().len()).collect();
    assert_eq!(partitions, [6; 6]);
    let url = services::local_postgres_url(&address("postgres")?);
    let mut connection = PgConnection::connect(&url).await?;
    let databases: i64 = sqlx::query_scalar("SELECT count(*) FROM pg_database WHERE datname = 'streamstage'")
        .fetch_one(&mut connection)
        .await?;
    assert_eq!(databases, 1);
    connection.close().await?;
    services::remove(&folder)?;
    Ok(())
}
