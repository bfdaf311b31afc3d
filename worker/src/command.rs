//! Command line of the worker: its commands, and the help that teaches them.

pub mod check;
pub mod dead_letters;
pub mod migrate;
pub mod plan;
pub mod republish;
pub mod reset_offsets;
pub mod reset_plan;
pub mod run;
pub mod stage_selection;
pub mod verify;

use clap::{Parser, Subcommand};

/// Loads a Kafka stream of orders into a PostgreSQL warehouse, in micro-batches
///
/// A stage consumes one topic and writes one layer of the warehouse: stg, dds or cdm. It is a YAML document of the kind
/// StreamStage, the same file that `kubectl apply -f` takes. One file can have several stages.
///
/// First steps: `migrate` creates the schemas, `check` tests every dependency, `run` consumes the topics until it is
/// stopped. Later, `dead-letters` lists and redrives rejected records, `reset-offsets` resets the positions of a stage,
/// `republish` produces lost messages again, and `verify` compares the layers. `plan` prints the tables of a model.
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
  worker dead-letters list -f examples/local.yaml
  worker reset-offsets -f examples/local.yaml --stage stg --to earliest

Secrets: a stage names its Secrets in authSecretName.
Each is a subdirectory of --secrets-dir, with one file per key.
Without authSecretName, the keys come from these environment variables:
  Kafka       KAFKA_USERNAME, KAFKA_PASSWORD, KAFKA_SASL_MECHANISM, KAFKA_SECURITY_PROTOCOL,
              KAFKA_ALLOW_PLAINTEXT, KAFKA_CA_FILE, KAFKA_CERTIFICATE_FILE, KAFKA_KEY_FILE
  PostgreSQL  PGUSER, PGPASSWORD, PGSSLROOTCERT, PGSSLCERT, PGSSLKEY
  Redis       REDIS_USERNAME, REDIS_PASSWORD, REDIS_ALLOW_PLAINTEXT, REDIS_CA_FILE

Logs: JSON on standard error, or text on a terminal. RUST_LOG sets the filter, e.g. RUST_LOG=debug.

Exit codes:
  0  success, also after SIGTERM or SIGINT
  1  a stage or a check failed
  2  invalid arguments"
)]
pub struct Cli {
    /// Command to run.
    #[command(subcommand)]
    pub command: Command,
}

/// Commands of the worker.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Consume the source topics until SIGTERM or SIGINT
    ///
    /// Runs every stage of the file in one process. An unavailable dependency is retried, never skipped; /readyz and
    /// the log name it. A shutdown finishes the in-flight batches first.
    #[command(after_help = "\
Examples:
  worker run -f examples/local.yaml                    all stages of the file
  worker run -f examples/local.yaml --stage stg,dds    two of them
  curl -s http://127.0.0.1:8080/readyz                 health, by stage")]
    Run(run::Run),
    /// Create or upgrade the schemas in every warehouse of the file
    ///
    /// Applies the missing migrations; running it again changes nothing. The login needs the
    /// privileges to create schemas in the database and to create roles. Workers need less, so use another login.
    #[command(after_help = "\
Examples:
  worker migrate -f examples/local.yaml
  PGUSER=postgres PGPASSWORD=secret worker migrate -f examples/local.yaml

Then grant the role of the workers to their login:
  GRANT streamstage_worker TO orders_login;")]
    Migrate(migrate::Migrate),
    /// Check a model, and print its tables
    ///
    /// A model is a YAML document: what a record is, what orders its versions, what is looked up, and
    /// the Data Vault that comes of it. Changes nothing and connects to nothing. Exit code 1 if the model is not valid;
    /// every violation has its line, its field, the cause and the remedy.
    #[command(after_help = "\
Examples:
  worker plan                          the tables of the built-in model
  worker plan --sql                    their SQL
  worker plan --model > model.yaml     the built-in model as a document
  worker plan -f model.yaml")]
    Plan(plan::PlanFlags),
    /// Validate the file and test every dependency, one line per check
    ///
    /// Changes nothing. Tests the topics, Redis and PostgreSQL with the credentials of the stage. Exit code 1 if a check
    /// fails; its line names the cause and the remedy.
    #[command(after_help = "\
Examples:
  worker check -f examples/local.yaml
  worker check -f examples/local.yaml --stage stg")]
    Check(check::Check),
    /// List, show, redrive or discard dead letters
    ///
    /// A dead letter is a record that a stage has rejected. Repair the cause first, then redrive: every dead letter is
    /// processed again, and becomes a dead letter again if it still fails.
    #[command(after_help = "\
Examples:
  worker dead-letters list -f examples/local.yaml
  worker dead-letters show -f examples/local.yaml --stage stg --partition 3 --offset 14
  worker dead-letters redrive -f examples/local.yaml --stage stg --code ReferenceDataMissing --execute")]
    DeadLetters(dead_letters::DeadLetters),
    /// Reset stored positions, and end the stop of a stage
    ///
    /// A stage stops with `OffsetOutOfRange` if its topic no longer has the stored position, for example because the
    /// retention period was too short, and with `TopicRecreated` if the topic was deleted and created again. Without
    /// --partition and --all, only such positions are reset. Check the dry run first, then stop the workers of the
    /// stage, and add --execute.
    #[command(after_help = "\
Examples:
  worker reset-offsets -f examples/local.yaml --stage stg --to earliest
  worker reset-offsets -f examples/local.yaml --stage stg --to earliest --execute
  worker reset-offsets -f examples/local.yaml --stage stg --to 2024-02-24T00:00:00Z --all
  worker reset-offsets -f examples/local.yaml --stage stg --to 4200 --partition 3
  worker reset-offsets -f examples/local.yaml --stage stg --to earliest --all --execute

The last one makes the stage read its whole topic again; stored records are skipped as duplicates.")]
    ResetOffsets(reset_offsets::ResetOffsets),
    /// Produce stored versions to the output topic again
    ///
    /// For messages that were lost between two stages, for example because their topic was deleted: a stage skips the
    /// source records that it has stored. Messages that are produced twice change nothing. Check the dry run first, then
    /// add --execute.
    #[command(after_help = "\
Examples:
  worker republish -f examples/local.yaml --stage stg --all
  worker republish -f examples/local.yaml --stage stg --all --rate 2000 --execute
  worker republish -f examples/local.yaml --stage stg --since 2024-02-24T00:00:00Z --until 2024-02-25T00:00:00Z
  worker republish -f examples/local.yaml --stage dds --id 322519,322520 --execute

--since and --until are load dates: when the stage has stored the version.")]
    Republish(republish::Republish),
    /// Verify that the layers of each warehouse agree
    ///
    /// Changes nothing, and can run while workers do: it reads one snapshot. Compares the counters with the ledger, the
    /// ledger with the vault, the vault with the order events, and the positions with the processed offsets. Exit code 1
    /// if they disagree; a layer that still has records to read is behind, which is not a fault.
    #[command(after_help = "\
Examples:
  worker verify -f examples/local.yaml
  worker verify -f examples/local.yaml --stage stg,dds")]
    Verify(verify::Verify),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_every_command_has_examples() {
        Cli::command().debug_assert();
        for command in Cli::command().get_subcommands_mut() {
            let name = format!("worker {}", command.get_name());
            let help = command.render_long_help().to_string();
            assert!(help.contains("Examples:") && help.contains(&name), "{help}");
        }
    }
}
