#![expect(
    clippy::disallowed_types,
    reason = "edge: tests every dependency once, and prints the results"
)]
//! `worker check`: validates the file and tests every dependency of its stages. Never changes anything.

use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use crds::StreamStage;
use crds::stage::ReferenceData;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use telemetry::stdout::print_line;

use super::stage_selection::StageSelection;
use crate::connect::{self, Secrets};
use crate::encoding::check_encoding;
use crate::layer::interface::LookupError;
use crate::stage;
use crate::statement;

/// Timeout of a request to Kafka.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Flags of `worker check`.
#[derive(Debug, Args)]
pub struct Check {
    /// Stages to check.
    #[command(flatten)]
    pub selection: StageSelection,
}

/// Prints one line per check.
///
/// # Errors
/// If the file is invalid, or a check failed.
pub async fn check(flags: Check) -> anyhow::Result<()> {
    let stages = flags.selection.read()?;
    print_line(format_args!(
        "ok      {}: {} stages",
        flags.selection.file.display(),
        stages.len()
    ))?;
    let secrets = flags.selection.secrets();
    let mut failed = 0;
    for stage in &stages {
        failed += check_stage(stage, &secrets).await?;
    }
    anyhow::ensure!(failed == 0, "{failed} checks failed");
    Ok(())
}

/// Checks the dependencies of one stage, and returns the number of failed checks.
async fn check_stage(stage: &StreamStage, secrets: &Secrets) -> std::io::Result<usize> {
    let mut failed = 0;
    let mut report = |dependency: String, result: anyhow::Result<String>| match result {
        Ok(details) => print_line(format_args!("ok      {} {dependency}: {details}", stage.name())),
        Err(error) => {
            failed += 1;
            print_line(format_args!("FAILED  {} {dependency}: {error:#}", stage.name()))
        }
    };
    let servers = stage.spec.source.bootstrap_servers.join(",");
    for (role, topic) in topics(stage) {
        report(
            format!("{role} {topic} on {servers}"),
            check_topic(stage, secrets, topic.clone()).await,
        )?;
    }
    if let Some(reference_data) = &stage.spec.reference_data {
        report(
            format!("reference data {}", without_password(&reference_data.url)),
            check_reference_data(reference_data, secrets).await,
        )?;
    }
    let warehouse = &stage.spec.warehouse;
    let address = format!(
        "warehouse {}:{}/{}",
        warehouse.host, warehouse.port, warehouse.database
    );
    report(address, check_warehouse(stage, secrets).await)?;
    Ok(failed)
}

/// Topics of the stage, each with its role.
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

/// Returns the URL without the password that it may contain.
fn without_password(url: &str) -> String {
    url::Url::parse(url).map_or_else(
        |_| "(invalid URL)".to_owned(),
        |mut url| {
            // It fails only for a URL that cannot have a password.
            url.set_password(None).unwrap_or_default();
            url.to_string()
        },
    )
}

async fn check_topic(stage: &StreamStage, secrets: &Secrets, topic: String) -> anyhow::Result<String> {
    let config: ClientConfig = connect::kafka_config(stage, secrets)?;
    let details = tokio::task::spawn_blocking(move || -> anyhow::Result<String> {
        let client: BaseConsumer = config.create()?;
        let metadata = client.fetch_metadata(Some(&topic), REQUEST_TIMEOUT);
        let metadata = metadata.context(
            "no response; check spec.source.bootstrapServers, and the keys of spec.source.authSecretName",
        )?;
        let topic = metadata
            .topics()
            .first()
            .filter(|topic| topic.error().is_none() && !topic.partitions().is_empty());
        let topic = topic.context("the topic does not exist; create it")?;
        Ok(format!(
            "{} partitions, {} brokers",
            topic.partitions().len(),
            metadata.brokers().len()
        ))
    });
    details.await?
}

async fn check_reference_data(reference_data: &ReferenceData, secrets: &Secrets) -> anyhow::Result<String> {
    let mut redis = connect::redis_connection(reference_data, secrets)?;
    let entries: u64 = redis::cmd("DBSIZE")
        .query_async(&mut redis)
        .await
        .map_err(LookupError::from)?;
    Ok(format!("{entries} entries"))
}

async fn check_warehouse(stage: &StreamStage, secrets: &Secrets) -> anyhow::Result<String> {
    let warehouse = stage::warehouse(stage, secrets)?;
    let read = async |connection: &mut _| {
        let encoding = check_encoding(connection).await?;
        let row = statement::query_as(
            "SELECT current_setting('server_version'), (SELECT count(*) FROM streamstage.position)",
        );
        Ok::<_, sqlx::Error>((encoding, row.fetch_one(connection).await?))
    };
    let (encoding, row) = warehouse.transact(read).await.map_err(warehouse_error)?;
    encoding?;
    let (version, positions): (String, i64) = row;
    Ok(format!("PostgreSQL {version}, {positions} positions"))
}

fn warehouse_error(error: sqlx::Error) -> anyhow::Error {
    anyhow::anyhow!(
        "{error}; check the keys of spec.warehouse.authSecretName, run `worker migrate`, and grant the role \
         streamstage_worker to the login"
    )
}
