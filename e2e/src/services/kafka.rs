//! Kafka: one `KRaft` node, broker and controller in one JVM, from jars that Maven brings once.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer};
use tokio::process::Command;

use super::install;
use super::process::{self, Launch};

/// The version of Kafka that is run.
pub const VERSION: &str = "4.1.1";

/// How long a new topic may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// slf4j's 1.7 line is what this Kafka is built against; the images of a cluster take their jars by the same file.
const POM: &str = include_str!("kafka/pom.xml");

/// Java and Kafka's jars.
#[derive(Debug)]
pub(super) struct Programs {
    java: PathBuf,
    jars: PathBuf,
}

/// Finds Java and the cached jars; installs and downloads what is missing.
///
/// # Errors
/// When Java, Maven or the jars cannot be had.
pub(super) async fn programs() -> Result<Programs> {
    let java = install::program("java", "openjdk-17-jre-headless").await?;
    let jars = cache()?.join(format!("kafka-{VERSION}"));
    if !jars.exists() {
        let maven = install::program("mvn", "maven").await?;
        download(&maven, &jars).await?;
    }
    Ok(Programs { java, jars })
}

/// `$XDG_CACHE_HOME/streamstage`, or `~/.cache/streamstage`.
fn cache() -> Result<PathBuf> {
    let named = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute());
    let base = named.or_else(|| Some(std::env::home_dir()?.join(".cache")));
    Ok(base
        .context("no home folder for the cache: set XDG_CACHE_HOME")?
        .join("streamstage"))
}

/// Downloads beside `jars` and renames at the end, so that an interrupted download does not count.
async fn download(maven: &Path, jars: &Path) -> Result<()> {
    tracing::info!(version = VERSION, "downloading Kafka with Maven");
    let cache = jars.parent().context("the cache has no parent folder")?;
    fs::create_dir_all(cache).with_context(|| format!("cannot make {}", cache.display()))?;
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
        let said = String::from_utf8_lossy(&output.stdout);
        bail!(
            "Maven cannot download Kafka {VERSION}; is its repository reachable?\n{}",
            said.trim()
        );
    }
    match fs::rename(work.path().join("jars"), jars) {
        // Another process may have been faster, with the same jars.
        Err(_) if jars.exists() => Ok(()),
        renamed => renamed.with_context(|| format!("cannot make {}", jars.display())),
    }
}

/// Formats the log folder and says how to start.
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
        "-Xmx512m",
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
        properties(port, controller_port),
    )?;
    format(programs, &launch).await?;
    Ok(launch)
}

async fn format(programs: &Programs, launch: &Launch) -> Result<()> {
    let mut format = Command::new(&programs.java);
    // It runs for a second: compiling and collecting well would take longer than the work.
    format
        .args(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"])
        .args(class_path(programs));
    format.arg("kafka.tools.StorageTool");
    // Any 16 bytes in base64 will do; a fixed value makes one cluster like another.
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

/// Nothing is deleted by its age: a record may carry any timestamp, and retention would take old ones now and then.
fn properties(port: u16, controller_port: u16) -> String {
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

/// Succeeds when a broker answers a metadata request and counts itself in.
///
/// # Errors
/// While none does.
pub(super) async fn probe(bootstrap_servers: &str) -> Result<()> {
    let config = client(bootstrap_servers);
    let asked = tokio::task::spawn_blocking(move || -> Result<usize> {
        let consumer: BaseConsumer = config.create()?;
        Ok(consumer
            .fetch_metadata(None, Duration::from_secs(2))?
            .brokers()
            .len())
    });
    if asked.await?? == 0 {
        bail!("no broker is registered yet");
    }
    Ok(())
}

/// Creates a topic with one replica, and waits until every partition of it answers: the broker names the leaders of a
/// new topic a moment before it leads.
///
/// # Errors
/// When it exists already or the broker refuses.
pub async fn create_topic(bootstrap_servers: &str, name: &str, partitions: i32) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> = client(bootstrap_servers).create()?;
    let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
    let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
    let results = admin.create_topics([&topic], &options).await?;
    for result in results {
        result.map_err(|(topic, code)| anyhow::anyhow!("cannot create the topic {topic}: {code}"))?;
    }
    let (config, name) = (client(bootstrap_servers), name.to_owned());
    tokio::task::spawn_blocking(move || led(&config, &name, partitions)).await?
}

/// Waits until every partition of a topic has a leader that answers.
fn led(config: &ClientConfig, topic: &str, partitions: i32) -> Result<()> {
    let consumer: BaseConsumer = config.create()?;
    let deadline = Instant::now() + PATIENCE;
    for partition in 0..partitions {
        while let Err(error) = consumer.fetch_watermarks(topic, partition, PATIENCE) {
            ensure!(
                Instant::now() < deadline,
                "the topic {topic} is created, and its partition {partition} does not answer: {error}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    Ok(())
}

fn client(bootstrap_servers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", bootstrap_servers)
        .set_log_level(RDKafkaLogLevel::Emerg);
    config
        .set("reconnect.backoff.ms", "20")
        .set("reconnect.backoff.max.ms", "200");
    config
}
