//! `worker dead-letters`: lists, shows, redrives and discards dead letters.

pub mod discard;
pub mod filter_flags;
pub mod list;
pub mod readable;
pub mod redrive;
pub mod show;

use clap::{Args, Subcommand};

/// Flags of `worker dead-letters`.
#[derive(Debug, Args)]
pub struct DeadLetters {
    /// Command on dead letters.
    #[command(subcommand)]
    pub command: DeadLettersCommand,
}

/// Commands on dead letters.
#[derive(Debug, Subcommand)]
pub enum DeadLettersCommand {
    /// Count dead letters by code and list them, without their content
    #[command(after_help = "\
Examples:
  worker dead-letters list -f examples/local.yaml
  worker dead-letters list -f examples/local.yaml --stage stg --code ParseError,Tombstone --since 1h
  worker dead-letters list -f examples/local.yaml --stage stg --partition 3 --offset 100..200 --all")]
    List(list::List),
    /// Print one dead letter with its key, headers and value
    ///
    /// Control characters and bytes that are not UTF-8 are escaped.
    #[command(after_help = "\
Examples:
  worker dead-letters show -f examples/local.yaml --stage stg --partition 3 --offset 14")]
    Show(show::Show),
    /// Process dead letters again, after their cause is repaired
    ///
    /// Prints the number of dead letters by code; add --execute to redrive them. A record is produced to the source topic
    /// as received, and becomes a dead letter again if it still fails. A stored order whose reference data was missing
    /// becomes pending again instead.
    #[command(after_help = "\
Examples:
  worker dead-letters redrive -f examples/local.yaml --stage stg --code ReferenceDataMissing
  worker dead-letters redrive -f examples/local.yaml --stage stg --code ReferenceDataMissing --execute
  worker dead-letters redrive -f examples/local.yaml --stage stg --limit 10 --execute")]
    Redrive(redrive::Redrive),
    /// Discard dead letters that will never be processed
    ///
    /// Prints the number of dead letters by code; add --execute to discard them. Their rows stay in the table, with the
    /// reason; they are no longer listed, counted or redriven.
    #[command(after_help = "\
Examples:
  worker dead-letters discard -f examples/local.yaml --stage stg --code Tombstone --reason 'sent by mistake'
  worker dead-letters discard -f examples/local.yaml --stage stg --code Tombstone --reason 'sent by mistake' --execute")]
    Discard(discard::Discard),
}

/// Runs a command on dead letters.
///
/// # Errors
/// If PostgreSQL or Kafka fails, or the flags select nothing that the command needs.
pub async fn run(flags: DeadLetters) -> anyhow::Result<()> {
    match flags.command {
        DeadLettersCommand::List(flags) => list::list(flags).await,
        DeadLettersCommand::Show(flags) => show::show(flags).await,
        DeadLettersCommand::Redrive(flags) => Box::pin(redrive::redrive(flags)).await,
        DeadLettersCommand::Discard(flags) => discard::discard(flags).await,
    }
}
