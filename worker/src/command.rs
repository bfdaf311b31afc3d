//! The commands of the worker, and the flags that they share.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use crds::StreamStage;

pub mod check;
pub mod migrate;
pub mod redrive;
pub mod reset_offsets;
pub mod run;

/// Turns a Kafka stream of orders into a PostgreSQL warehouse, stage by stage.
///
/// A stage is a StreamStage document: the same file that a cluster gets by `kubectl apply -f`.
/// First `migrate` creates the schemas, `check` shows whether every service answers, then `run` drains the topics
/// until it is stopped.
#[derive(Debug, Parser)]
#[command(
    name = "worker",
    version,
    after_help = "\
Examples:
  worker migrate -f examples/local.yaml
  worker check -f examples/local.yaml
  worker run -f examples/local.yaml
  worker run -f examples/local.yaml --stage stg
  worker redrive -f examples/local.yaml --stage stg --code DictionaryMissing

Secrets that a document names are folders below --secrets-dir, one file per key. A stage that names none takes
PGUSER, PGPASSWORD, PGSSLROOTCERT, KAFKA_USERNAME, KAFKA_PASSWORD, KAFKA_SASL_MECHANISM, KAFKA_SECURITY_PROTOCOL,
KAFKA_CA_FILE, REDIS_USERNAME, REDIS_PASSWORD and REDIS_CA_FILE from the environment.

Exit codes: 0 done, or stopped by SIGTERM or SIGINT; 1 a stage cannot go on, or a check failed; 2 wrong usage."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the worker can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Drain the source topics of the stages until SIGTERM or SIGINT
    Run(run::Run),
    /// Create or upgrade the schemas in every warehouse that the file names
    Migrate(migrate::Migrate),
    /// Validate the file, and reach every service that it names: one line each
    Check(check::Check),
    /// Send dead letters back to where they came from, after a repair
    Redrive(redrive::Redrive),
    /// Say where a stage starts reading, when its position is no longer in the log
    ResetOffsets(reset_offsets::ResetOffsets),
}

/// Which stages to work on.
#[derive(Debug, Args)]
pub struct Documents {
    /// File with one or several StreamStage documents
    #[arg(short, long = "file", env = "STREAMSTAGE_FILE", value_name = "FILE")]
    pub file: PathBuf,
    /// Only the stages of these names
    #[arg(
        long = "stage",
        env = "STREAMSTAGE_STAGE",
        value_name = "NAME",
        value_delimiter = ','
    )]
    pub stages: Vec<String>,
    /// Folder of the secrets: one folder per secret, one file per key
    #[arg(
        long,
        env = "STREAMSTAGE_SECRETS_DIR",
        value_name = "DIR",
        default_value = "/etc/streamstage/secrets"
    )]
    pub secrets_dir: PathBuf,
}

impl Documents {
    /// The stages of the file that were asked for.
    ///
    /// # Errors
    /// When the file cannot be read, a document is not valid, or a name is not in the file.
    pub fn read(&self) -> anyhow::Result<Vec<StreamStage>> {
        let stages = parse(&self.file)?;
        if let Some(unknown) = self
            .stages
            .iter()
            .find(|name| !stages.iter().any(|stage| stage.name() == **name))
        {
            let known: Vec<&str> = stages.iter().map(StreamStage::name).collect();
            anyhow::bail!(
                "{} has no stage {unknown:?}; it has {}",
                self.file.display(),
                known.join(", ")
            );
        }
        let asked = |stage: &StreamStage| {
            self.stages.is_empty() || self.stages.iter().any(|name| name == stage.name())
        };
        Ok(stages.into_iter().filter(asked).collect())
    }
}

fn parse(file: &Path) -> anyhow::Result<Vec<StreamStage>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    crds::document::parse(&text).with_context(|| format!("{} is not valid", file.display()))
}
