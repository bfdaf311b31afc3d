//! Kafka: one `KRaft` node, broker and controller in one JVM, from jars that Maven downloads once.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::types::RDKafkaErrorCode;
use tokio::process::Command;

use super::install;
use super::process::{self, Launch};

/// Version of the local Kafka.
pub const VERSION: &str = "4.1.1";

/// Timeout for the creation of a topic.
const CREATE_TIMEOUT: Duration = Duration::from_secs(30);

/// Jars to download. This Kafka is built against slf4j 1.7. The images for the cluster use the same file.
const POM: &str = include_str!("kafka/pom.xml");

/// Paths of Java and of the folder with Kafka's jars.
#[derive(Debug)]
pub(super) struct Programs {
    java: PathBuf,
    jars: PathBuf,
}

/// Finds Java and the cached jars; installs and downloads missing ones.
///
/// # Errors
/// When Java or Maven cannot be installed, or the jars cannot be downloaded.
pub(super) async fn find_programs() -> Result<Programs> {
    let java = install::find_or_install_program("java", "openjdk-17-jre-headless").await?;
    let jars = cache_folder()?.join(format!("kafka-{VERSION}"));
    if !jars.exists() {
        let maven = install::find_or_install_program("mvn", "maven").await?;
        download_jars(&maven, &jars).await?;
    }
    Ok(Programs { java, jars })
}

/// `$XDG_CACHE_HOME/streamstage`, or `~/.cache/streamstage`.
///
/// # Errors
/// When neither is known.
pub(crate) fn cache_folder() -> Result<PathBuf> {
    let configured = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute());
    let base = configured.or_else(|| Some(std::env::home_dir()?.join(".cache")));
    Ok(base
        .context("no home folder for the cache: set XDG_CACHE_HOME")?
        .join("streamstage"))
}

/// Downloads to a temporary folder and renames it at the end, so that an interrupted download leaves no jars.
async fn download_jars(maven: &Path, jars: &Path) -> Result<()> {
    tracing::info!(version = VERSION, "downloading Kafka with Maven");
    let cache = jars.parent().context("the cache has no parent folder")?;
    fs::create_dir_all(cache).with_context(|| format!("cannot create {}", cache.display()))?;
    let work = tempfile::Builder::new().prefix("kafka-").tempdir_in(cache)?;
    fs::write(work.path().join("pom.xml"), POM)?;
    let mut command = Command::new(maven);
    command.args([
        "-B",
        "-q",
        "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies",
    ]);
    command.args(["-DoutputDirectory=jars", "-DincludeScope=runtime"]);
    command
        .current_dir(work.path())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = command.output().await.context("cannot run mvn")?;
    if !output.status.success() {
        let maven_output = String::from_utf8_lossy(&output.stdout);
        bail!(
            "Maven cannot download Kafka {VERSION}; is its repository reachable?\n{}",
            maven_output.trim()
        );
    }
    match fs::rename(work.path().join("jars"), jars) {
        // Another process may have downloaded the same jars meanwhile.
        Err(_) if jars.exists() => Ok(()),
        renamed => renamed.with_context(|| format!("cannot create {}", jars.display())),
    }
}

/// Formats the storage and returns the launch settings.
///
/// # Errors
/// When Kafka's storage tool fails.
pub(super) async fn prepare(
    programs: &Programs,
    scratch: &Path,
    port: u16,
    controller_port: u16,
) -> Result<Launch> {
    let flags = [
        // The broker holds a batch uncompressed if its producer compressed it with Snappy: 300 MB in the tests of large records.
        "-Xmx1g",
        "-Dorg.slf4j.simpleLogger.showDateTime=true",
        "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
    ];
    let mut arguments: Vec<String> = flags.map(str::to_owned).to_vec();
    arguments.extend(class_path(programs));
    arguments.extend(["kafka.Kafka", "server.properties"].map(str::to_owned));
    let launch = Launch {
        name: "kafka",
        address: format!("127.0.0.1:{port}"),
        program: programs.java.clone(),
        arguments,
        user: None,
        stop_signal: "TERM",
        scratch: scratch.to_owned(),
    };
    let folder = launch.folder();
    fs::create_dir_all(&folder)?;
    fs::write(
        folder.join("server.properties"),
        broker_properties(port, controller_port),
    )?;
    format_storage(programs, &launch).await?;
    Ok(launch)
}

async fn format_storage(programs: &Programs, launch: &Launch) -> Result<()> {
    let mut format = Command::new(&programs.java);
    // The JVM runs for a second: a better compiler or collector would cost more than it saves.
    format
        .args(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"])
        .args(class_path(programs));
    format.arg("kafka.tools.StorageTool");
    // Any 16 bytes in base64; a fixed value gives every local cluster the same id.
    format.args([
        "format",
        "--config",
        "server.properties",
        "--cluster-id",
        "StreamStageLocalKafkaA",
    ]);
    format
        .current_dir(launch.folder())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = format.output().await.context("cannot run java")?;
    if !output.status.success() {
        fs::write(launch.log(), [output.stdout, output.stderr].concat())?;
        bail!("Kafka's storage tool failed:\n{}", process::tail(&launch.log()));
    }
    Ok(())
}

fn class_path(programs: &Programs) -> [String; 2] {
    [
        "-cp".to_owned(),
        programs.jars.join("*").to_string_lossy().into_owned(),
    ]
}

/// Retention is off: tests produce records with any timestamp, and retention would delete old ones.
fn broker_properties(port: u16, controller_port: u16) -> String {
    format!(
        "process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
log.dirs=logs
auto.create.topics.enable=false
num.partitions=1
offsets.topic.num.partitions=4
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
log.retention.ms=-1
log.cleaner.dedupe.buffer.size=16777216
"
    )
}

/// Succeeds if a broker answers a metadata request and the answer lists a broker.
///
/// # Errors
/// When no broker answers, or the answer lists no broker.
pub(super) async fn probe(bootstrap_servers: &str) -> Result<()> {
    let config = client_config(bootstrap_servers);
    let broker_count = tokio::task::spawn_blocking(move || -> Result<usize> {
        let consumer: BaseConsumer = config.create()?;
        Ok(consumer
            .fetch_metadata(None, Duration::from_secs(2))?
            .brokers()
            .len())
    });
    if broker_count.await?? == 0 {
        bail!("no broker is registered yet");
    }
    Ok(())
}

/// Creates a topic with one replica, and waits until the leader of every partition answers: the broker announces the
/// leaders of a new topic a moment before they serve requests.
///
/// # Errors
/// When it exists or the broker rejects the request.
pub async fn create_topic(bootstrap_servers: &str, name: &str, partitions: i32) -> Result<()> {
    if !create_topic_if_missing(bootstrap_servers, name, partitions).await? {
        bail!("cannot create the topic {name}: it already exists");
    }
    Ok(())
}

/// As [`create_topic`], but returns false if the topic exists.
///
/// # Errors
/// When the broker rejects the request.
pub(super) async fn create_topic_if_missing(
    bootstrap_servers: &str,
    name: &str,
    partitions: i32,
) -> Result<bool> {
    let admin: AdminClient<DefaultClientContext> = client_config(bootstrap_servers).create()?;
    let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
    let options = AdminOptions::new().operation_timeout(Some(CREATE_TIMEOUT));
    for result in admin.create_topics([&topic], &options).await? {
        match result {
            Ok(_) => {}
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => return Ok(false),
            Err((topic, code)) => bail!("cannot create the topic {topic}: {code}"),
        }
    }
    let (config, name) = (client_config(bootstrap_servers), name.to_owned());
    tokio::task::spawn_blocking(move || wait_for_leaders(&config, &name, partitions)).await??;
    Ok(true)
}

/// Waits until every partition of a topic has a leader that answers.
fn wait_for_leaders(config: &ClientConfig, topic: &str, partitions: i32) -> Result<()> {
    let consumer: BaseConsumer = config.create()?;
    let deadline = Instant::now() + CREATE_TIMEOUT;
    for partition in 0..partitions {
        while let Err(error) = consumer.fetch_watermarks(topic, partition, CREATE_TIMEOUT) {
            ensure!(
                Instant::now() < deadline,
                "the topic {topic} was created, but its partition {partition} does not answer: {error}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    Ok(())
}

fn client_config(bootstrap_servers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", bootstrap_servers)
        .set_log_level(RDKafkaLogLevel::Emerg);
    config
        .set("reconnect.backoff.ms", "20")
        .set("reconnect.backoff.max.ms", "200");
    config
}
