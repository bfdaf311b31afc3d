//! `worker dead-letters show`: prints one dead letter with its record. The only command that prints the content of a record.

use std::io;

use anyhow::Context as _;
use clap::Args;
use telemetry::stdout::print_line;
use uuid::Uuid;

use super::filter_flags::FilterFlags;
use super::readable::{readable_bytes, readable_line};
use crate::dead_letter::selection::{self, DeadLetter};
use crate::record::Record;
use crate::stage;

/// Flags of `worker dead-letters show`.
#[derive(Debug, Args)]
pub struct Show {
    /// Dead letter to show. The flags must select exactly one; redriven and discarded ones count.
    #[command(flatten)]
    pub filter: FilterFlags,
}

/// Prints the selected dead letter.
///
/// # Errors
/// If the flags select no dead letter or several, or PostgreSQL fails.
pub async fn show(flags: Show) -> anyhow::Result<()> {
    let secrets = flags.filter.selection.secrets();
    let filter = flags.filter.filter(true);
    let (mut selected, mut found) = (0, None);
    for stage in flags.filter.selection.read()? {
        let (origin, warehouse) = (stage::origin(&stage), stage::warehouse(&stage, &secrets)?);
        let context = || format!("stage {}", stage.name());
        let letters = warehouse.transact(async |connection| {
            let counts = selection::count(connection, &origin, &filter).await?;
            let first = selection::fetch_first(connection, &origin, &filter).await?;
            Ok::<_, sqlx::Error>((counts, first))
        });
        let (counts, first) = letters.await.with_context(context)?;
        selected += counts.iter().map(|count| count.letters).sum::<i64>();
        if found.is_none() {
            found = first.map(|letter| (origin.topic, letter));
        }
    }
    let narrow = "narrow the selection with --stage, --partition, --offset or --topic-id";
    anyhow::ensure!(selected < 2, "{selected} dead letters are selected; {narrow}");
    let (topic, (letter, record)) =
        found.context("no dead letter is selected; `worker dead-letters list` shows them")?;
    Ok(print_letter(&topic, &letter, &record)?)
}

fn print_letter(topic: &str, letter: &DeadLetter, record: &Record) -> io::Result<()> {
    let error = &letter.error;
    let timestamp = record
        .timestamp
        .map_or_else(|| "none".to_owned(), |timestamp| format!("{timestamp} ms"));
    let copy = match (&letter.copy_error, letter.is_copied) {
        (_, true) => "produced".to_owned(),
        (Some(cause), false) => format!("not produced: {cause}"),
        (None, false) => "not produced yet".to_owned(),
    };
    let fields = [
        ("stage", error.stage.clone()),
        ("topic", topic.to_owned()),
        ("topic ID", format_topic_id(record.topic_id)),
        ("partition", record.partition.to_string()),
        ("offset", record.offset.to_string()),
        ("timestamp", timestamp),
        ("code", error.code.clone()),
        ("detail", error.detail.clone()),
        ("attempts", error.attempts.to_string()),
        ("rejected at", letter.dead_lettered_at.clone()),
        ("state", letter.state.clone()),
        ("copy", copy),
        ("bytes", letter.record_bytes.to_string()),
    ];
    let reason = letter.discard_reason.clone().map(|reason| ("reason", reason));
    for (name, value) in fields.into_iter().chain(reason) {
        print_line(format_args!("{name:<12} {}", readable_line(&value)))?;
    }
    for header in &record.headers {
        let name = readable_line(&header.name);
        print_line(format_args!(
            "header       {name}: {}",
            format_bytes(header.value.as_deref())
        ))?;
    }
    print_line(format_args!(
        "key          {}",
        format_bytes(record.key.as_deref())
    ))?;
    print_line(format_args!(
        "value        {}",
        format_bytes(record.value.as_deref())
    ))
}

fn format_bytes(bytes: Option<&[u8]>) -> String {
    bytes.map_or_else(|| "null".to_owned(), readable_bytes)
}

fn format_topic_id(topic_id: Uuid) -> String {
    if topic_id.is_nil() {
        "unknown".to_owned()
    } else {
        topic_id.to_string()
    }
}
