#![expect(
    clippy::disallowed_types,
    clippy::print_stdout,
    reason = "edge: reaches every service once, and prints what it found"
)]
//! `worker check`: is the file valid, and does every service that it names answer?

use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use crds::StreamStage;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};

use super::Documents;
use crate::connect::{self, Secrets};
use crate::layer::DictionaryError;
use crate::stage;

/// How long a service may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Flags of `worker check`.
#[derive(Debug, Args)]
pub struct Check {
    /// The stages.
    #[command(flatten)]
    pub documents: Documents,
}

/// Prints one line for each thing that was checked.
///
/// # Errors
/// When the file is not valid, or a service does not answer as it should.
pub async fn check(flags: Check) -> anyhow::Result<()> {
    let stages = flags.documents.read()?;
    println!(
        "ok      {}: {} stages",
        flags.documents.file.display(),
        stages.len()
    );
    let secrets = Secrets::in_folder(&flags.documents.secrets_dir);
    let mut failed = 0;
    for stage in &stages {
        let mut report = |what: String, outcome: anyhow::Result<String>| match outcome {
            Ok(found) => println!("ok      {} {what}: {found}", stage.name()),
            Err(error) => {
                failed += 1;
                println!("FAILED  {} {what}: {error:#}", stage.name());
            }
        };
        let servers = stage.spec.source.bootstrap_servers.join(",");
        for (role, topic) in topics(stage) {
            report(
                format!("{role} {topic} on {servers}"),
                topic_found(stage, &secrets, topic.clone()).await,
            );
        }
        if let Some(dictionary) = &stage.spec.dictionary {
            report(
                format!("dictionary {}", without_secret(&dictionary.url)),
                dictionary_answers(dictionary, &secrets).await,
            );
        }
        let warehouse = &stage.spec.warehouse;
        let place = format!(
            "warehouse {}:{}/{}",
            warehouse.host, warehouse.port, warehouse.database
        );
        report(place, warehouse_answers(stage, &secrets).await);
    }
    anyhow::ensure!(failed == 0, "{failed} checks failed");
    Ok(())
}

fn topics(stage: &StreamStage) -> Vec<(&'static str, String)> {
    let output = stage
        .spec
        .output
        .as_ref()
        .map(|output| ("output", output.topic.clone()));
    let source = ("source", stage.spec.source.topic.clone());
    [
        Some(source),
        output,
        Some(("dead letters", stage.dead_letter_topic())),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// An address without the password that it may hold.
fn without_secret(address: &str) -> String {
    url::Url::parse(address).map_or_else(
        |_| "(not an address)".to_owned(),
        |mut address| {
            // An address that cannot hold a password has none to hide.
            address.set_password(None).unwrap_or_default();
            address.to_string()
        },
    )
}

async fn topic_found(stage: &StreamStage, secrets: &Secrets, topic: String) -> anyhow::Result<String> {
    let config: ClientConfig = connect::kafka(stage, secrets)?;
    let found = tokio::task::spawn_blocking(move || -> anyhow::Result<String> {
        let client: BaseConsumer = config.create()?;
        let metadata = client.fetch_metadata(Some(&topic), PATIENCE);
        let metadata = metadata.context(
            "no answer; check spec.source.bootstrapServers, and the keys of spec.source.authSecret",
        )?;
        let found = metadata
            .topics()
            .first()
            .filter(|topic| topic.error().is_none() && !topic.partitions().is_empty());
        let found = found.ok_or_else(|| anyhow::anyhow!("there is no such topic; create it"))?;
        Ok(format!(
            "{} partitions, {} brokers",
            found.partitions().len(),
            metadata.brokers().len()
        ))
    });
    found.await?
}

async fn dictionary_answers(
    dictionary: &crds::stage::Dictionary,
    secrets: &Secrets,
) -> anyhow::Result<String> {
    let mut redis = connect::redis(dictionary, secrets)?;
    let entries: u64 = redis::cmd("DBSIZE")
        .query_async(&mut redis)
        .await
        .map_err(DictionaryError)?;
    Ok(format!("{entries} entries"))
}

async fn warehouse_answers(stage: &StreamStage, secrets: &Secrets) -> anyhow::Result<String> {
    let warehouse = stage::warehouse(stage, secrets)?;
    let (version, positions): (String, i64) = sqlx::query_as(
        "SELECT current_setting('server_version'), (SELECT count(*) FROM streamstage.position)",
    )
    .fetch_one(warehouse.pool())
    .await
    .map_err(|error| {
        anyhow::anyhow!(
            "{error}; check the keys of spec.warehouse.authSecret, run `worker migrate`, and grant streamstage_worker to \
             the login"
        )
    })?;
    Ok(format!("PostgreSQL {version}, {positions} positions"))
}
