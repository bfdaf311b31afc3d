//! `services`: real Kafka, PostgreSQL and Redis on this machine, without Docker.

use std::io::IsTerminal;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use e2e::services::{self, ExternalServices, Options, RecordedProcess, Services};
use telemetry::stdout::print_line;
use tokio::signal::unix::{SignalKind, signal};

/// Run Kafka, PostgreSQL and Redis as local processes, with their data in a scratch folder
///
/// As root, missing programs are installed with apt-get. Maven downloads Kafka once, into ~/.cache/streamstage.
#[derive(Parser)]
#[command(after_help = "Examples:
  services up --example              start all three on the ports of examples/local.yaml, create its topics and database
  PGUSER=postgres PGPASSWORD=streamstage worker migrate --file examples/local.yaml
                                     create the tables; then `worker run` with the same variables and file
  services up                        start all three on the same ports, until `services down`
  services up --kafka-port 0         start Kafka on a free port
  services run                       start all three until Ctrl-C
  services up --redis redis://cache:6379      start Kafka and PostgreSQL, use this Redis
  services status                    list processes and addresses
  services topic orders              create a topic with six partitions
  services down                      stop them and remove their data

With Docker, `docker compose up --wait` does the same as `services up --example`.")]
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
    Up(StartFlags),
    /// Start the services and stop them at Ctrl-C
    Run(StartFlags),
    /// List the processes and their addresses
    Status,
    /// Create a topic in the local Kafka
    Topic {
        /// Name of the topic
        name: String,
        /// Number of partitions
        #[arg(long, default_value_t = 6)]
        partitions: i32,
    },
    /// Stop the services and remove their data
    Down,
}

#[derive(Args)]
struct StartFlags {
    /// Also create the topics and the database of examples/local.yaml, if they are missing
    #[arg(long)]
    example: bool,
    /// Port of Kafka; 0 picks a free port
    #[arg(
        long,
        env = "STREAMSTAGE_SERVICES_KAFKA_PORT",
        default_value_t = 29092,
        value_name = "PORT"
    )]
    kafka_port: u16,
    /// Port of PostgreSQL (user postgres, password streamstage); 0 picks a free port
    #[arg(
        long,
        env = "STREAMSTAGE_SERVICES_POSTGRES_PORT",
        default_value_t = 25432,
        value_name = "PORT"
    )]
    postgres_port: u16,
    /// Port of Redis; 0 picks a free port
    #[arg(
        long,
        env = "STREAMSTAGE_SERVICES_REDIS_PORT",
        default_value_t = 26379,
        value_name = "PORT"
    )]
    redis_port: u16,
    #[command(flatten)]
    external: ExternalServices,
}

impl StartFlags {
    fn options(&self, folder: PathBuf) -> Options {
        Options {
            folder: Some(folder),
            kafka_port: self.kafka_port,
            postgres_port: self.postgres_port,
            redis_port: self.redis_port,
            external: self.external.clone(),
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
        // It would report a failed write to a closed pipe on the same pipe, and panic.
        .log_internal_errors(false)
        .init();
    let Cli { command, dir } = Cli::parse();
    let folder = dir.unwrap_or_else(|| std::env::temp_dir().join("streamstage-services"));
    match command {
        Command::Up(flags) => up(&flags, folder).await,
        Command::Run(flags) => run(&flags, folder).await,
        Command::Status => Ok(print_processes(&services::status(&folder)?)?),
        Command::Topic { name, partitions } => {
            let processes = services::status(&folder)?;
            let kafka = find_running(&processes, "kafka")
                .context("no local Kafka is running: start it with `services up`")?;
            services::create_topic(&kafka.address, &name, partitions).await
        }
        Command::Down => {
            let stopped = services::remove(&folder)?;
            let names: Vec<&str> = stopped.iter().map(|service| service.name.as_str()).collect();
            print_line(format_args!(
                "stopped    {}",
                if names.is_empty() {
                    "nothing was running".into()
                } else {
                    names.join(", ")
                }
            ))?;
            Ok(())
        }
    }
}

/// Starts the services unless they run, and removes the remains of an earlier run.
async fn up(flags: &StartFlags, folder: PathBuf) -> Result<()> {
    let processes = services::status(&folder)?;
    if !processes.is_empty() && processes.iter().all(RecordedProcess::is_running) {
        print_processes(&processes)?;
        return create_example_in_running(flags, &processes).await;
    }
    if !processes.is_empty() {
        services::remove(&folder)?;
    }
    let services = Services::start(&flags.options(folder)).await?;
    let (kafka, postgres) = (
        services.bootstrap_servers().to_owned(),
        services.postgres_url("postgres"),
    );
    let text = format!(
        "services   {}\nkafka      {kafka}\npostgres   {postgres}\nredis      {}",
        services.summary(),
        services.redis_url(0)
    );
    // Before the output, which may fail: the services must stay.
    services.detach()?;
    print_line(text)?;
    create_example(flags, &kafka, &postgres).await
}

async fn run(flags: &StartFlags, folder: PathBuf) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let options = flags.options(folder);
    let start = async {
        let services = Services::start(&options).await?;
        let postgres = services.postgres_url("postgres");
        create_example(flags, services.bootstrap_servers(), &postgres).await?;
        print_line(format_args!("services   {}", services.summary()))?;
        anyhow::Ok(services)
    };
    let services = tokio::select! {
        services = start => services?,
        _ = terminate.recv() => return Ok(()),
        _ = tokio::signal::ctrl_c() => return Ok(()),
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    drop(services);
    print_line("stopped    services stopped, scratch folder removed")?;
    Ok(())
}

/// As [`create_example`], for services that an earlier `services up` started.
async fn create_example_in_running(flags: &StartFlags, processes: &[RecordedProcess]) -> Result<()> {
    let external = &flags.external;
    let address = |name| find_running(processes, name).map(|service| service.address.clone());
    let kafka = address("kafka").or_else(|| external.kafka.clone());
    let postgres = address("postgres").map(|address| services::local_postgres_url(&address));
    let postgres = postgres.or_else(|| external.postgres.clone());
    match (kafka, postgres) {
        (Some(kafka), Some(postgres)) => create_example(flags, &kafka, &postgres).await,
        _ if flags.example => {
            anyhow::bail!(
                "--example needs Kafka and PostgreSQL: name external ones with --kafka and --postgres"
            )
        }
        _ => Ok(()),
    }
}

/// Creates the topics and the database of `examples/local.yaml` if the flags ask for it.
async fn create_example(flags: &StartFlags, kafka: &str, postgres: &str) -> Result<()> {
    if !flags.example {
        return Ok(());
    }
    let resources = services::create_example_resources(kafka, postgres).await?;
    print_line(format_args!(
        "example    database {}, {} topics",
        resources.database,
        resources.topics.len()
    ))?;
    Ok(())
}

fn find_running<'p>(processes: &'p [RecordedProcess], name: &str) -> Option<&'p RecordedProcess> {
    processes
        .iter()
        .find(|service| service.name == name && service.is_running())
}

fn print_processes(processes: &[RecordedProcess]) -> std::io::Result<()> {
    if processes.is_empty() {
        print_line("nothing is running: start with `services up`")?;
    }
    for service in processes {
        let state = if service.is_running() { "running" } else { "exited" };
        print_line(format_args!(
            "{:<10} {:<22} {state:<8} pid {}",
            service.name, service.address, service.pid
        ))?;
    }
    Ok(())
}
