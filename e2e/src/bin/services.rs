//! `services`: real Kafka, PostgreSQL and Redis on this machine, without Docker.
#![expect(clippy::print_stdout, reason = "a command line's own output")]

use std::io::IsTerminal;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use e2e::services::{self, Named, Options, Recorded, Services};
use tokio::signal::unix::{SignalKind, signal};

/// Real Kafka, PostgreSQL and Redis as local processes, with their data in a scratch folder
///
/// What is missing is installed with apt-get when run as root; Kafka comes through Maven, once, into ~/.cache/streamstage.
#[derive(Parser)]
#[command(after_help = "Examples:
  services up                        start all three on their usual ports; until `services down`
  services up --kafka-port 0         the same, with Kafka on a free port
  services run                       the same, until Ctrl-C
  services up --redis redis://cache:6379      start Kafka and PostgreSQL, use that Redis
  services status                    what runs, and where
  services topic orders              create a topic of six partitions
  services down                      stop them and remove their data")]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Scratch folder [default: streamstage-services in the system's temporary folder]
    #[arg(long, env = "STREAMSTAGE_SERVICES_DIR", global = true, value_name = "FOLDER")]
    dir: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Start the services and leave them running
    Up(Ports),
    /// Start the services and stop them at Ctrl-C
    Run(Ports),
    /// Tell what runs, and where
    Status,
    /// Create a topic in the Kafka that runs here
    Topic {
        /// Its name
        name: String,
        /// How many partitions it gets
        #[arg(long, default_value_t = 6)]
        partitions: i32,
    },
    /// Stop the services and remove their data
    Down,
}

#[derive(Args)]
struct Ports {
    /// Port of Kafka; 0 takes a free one
    #[arg(
        long,
        env = "STREAMSTAGE_SERVICES_KAFKA_PORT",
        default_value_t = 29092,
        value_name = "PORT"
    )]
    kafka_port: u16,
    /// Port of PostgreSQL (user postgres, password streamstage); 0 takes a free one
    #[arg(
        long,
        env = "STREAMSTAGE_SERVICES_POSTGRES_PORT",
        default_value_t = 25432,
        value_name = "PORT"
    )]
    postgres_port: u16,
    /// Port of Redis; 0 takes a free one
    #[arg(
        long,
        env = "STREAMSTAGE_SERVICES_REDIS_PORT",
        default_value_t = 26379,
        value_name = "PORT"
    )]
    redis_port: u16,
    #[command(flatten)]
    named: Named,
}

impl Ports {
    fn options(self, folder: PathBuf) -> Options {
        let Self {
            kafka_port,
            postgres_port,
            redis_port,
            named,
        } = self;
        Options {
            folder: Some(folder),
            kafka_port,
            postgres_port,
            redis_port,
            named,
        }
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let ansi = std::io::stderr().is_terminal();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(ansi)
        .without_time()
        .with_target(false)
        .init();
    let Cli { command, dir } = Cli::parse();
    let folder = dir.unwrap_or_else(|| std::env::temp_dir().join("streamstage-services"));
    match command {
        Command::Up(ports) => up(ports.options(folder)).await,
        Command::Run(ports) => run(ports.options(folder)).await,
        Command::Status => {
            tell(&services::status(&folder)?);
            Ok(())
        }
        Command::Topic { name, partitions } => {
            let known = services::status(&folder)?;
            let kafka = known
                .iter()
                .find(|service| service.name == "kafka" && service.runs());
            let kafka = kafka.context("no Kafka runs here; start it with `services up`")?;
            services::create_topic(&kafka.address, &name, partitions).await
        }
        Command::Down => {
            let stopped = services::remove(&folder)?;
            let names: Vec<&str> = stopped.iter().map(|service| service.name.as_str()).collect();
            println!(
                "stopped    {}",
                if names.is_empty() {
                    "nothing was running".into()
                } else {
                    names.join(", ")
                }
            );
            Ok(())
        }
    }
}

/// Starts what does not run yet; what an earlier run left dead is cleared away first.
async fn up(options: Options) -> Result<()> {
    let folder = options.folder.clone().context("no folder")?;
    let known = services::status(&folder)?;
    if !known.is_empty() && known.iter().all(Recorded::runs) {
        tell(&known);
        return Ok(());
    }
    if !known.is_empty() {
        services::remove(&folder)?;
    }
    let services = Services::start(&options).await?;
    let text = format!(
        "services   {}\nkafka      {}\npostgres   {}\nredis      {}",
        services.summary(),
        services.bootstrap_servers(),
        services.postgres_url("postgres"),
        services.redis_url(0)
    );
    // First: whatever becomes of the output, they stay.
    services.detach()?;
    println!("{text}");
    Ok(())
}

async fn run(options: Options) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let services = tokio::select! {
        services = Services::start(&options) => services?,
        _ = terminate.recv() => return Ok(()),
        _ = tokio::signal::ctrl_c() => return Ok(()),
    };
    println!("services   {}", services.summary());
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    drop(services);
    println!("stopped    services down, scratch folder removed");
    Ok(())
}

fn tell(services: &[Recorded]) {
    if services.is_empty() {
        println!("nothing runs; start with `services up`");
    }
    for service in services {
        let state = if service.runs() { "running" } else { "ended" };
        println!(
            "{:<10} {:<22} {state:<8} pid {}",
            service.name, service.address, service.pid
        );
    }
}
