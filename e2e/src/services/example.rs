//! Topics and database of `examples/local.yaml`, so that a worker can run the file on local services as it is.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};

use super::{kafka, postgres};

/// Stage file whose topics and database are created.
const STAGE_FILE: &str = include_str!("../../../examples/local.yaml");
/// Partitions of each topic.
const PARTITIONS: i32 = 6;

/// Topics and database that the stages of `examples/local.yaml` name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExampleResources {
    /// Source, output and dead letter topics.
    pub topics: BTreeSet<String>,
    /// Database of the warehouse.
    pub database: String,
}

impl ExampleResources {
    /// Reads the names from the stage file.
    ///
    /// # Errors
    /// When the stage file is not valid.
    pub fn from_stage_file() -> Result<Self> {
        let stages = crds::document::parse(STAGE_FILE).context("examples/local.yaml")?;
        let mut topics = BTreeSet::new();
        for stage in &stages {
            topics.insert(stage.spec.source.topic.clone());
            topics.insert(stage.dead_letter_topic());
            topics.extend(stage.spec.output.iter().map(|output| output.topic.clone()));
        }
        let stage = stages.first().context("examples/local.yaml has no stage")?;
        Ok(Self {
            topics,
            database: stage.spec.warehouse.database.clone(),
        })
    }
}

/// Creates the missing topics and, if it is missing, the database; returns their names.
///
/// # Errors
/// When Kafka or PostgreSQL does not answer or rejects a request.
pub async fn create_example_resources(
    bootstrap_servers: &str,
    postgres_url: &str,
) -> Result<ExampleResources> {
    let resources = ExampleResources::from_stage_file()?;
    for topic in &resources.topics {
        kafka::create_topic_if_missing(bootstrap_servers, topic, PARTITIONS).await?;
    }
    if !postgres::has_database(postgres_url, &resources.database).await? {
        postgres::create_database(postgres_url, &resources.database).await?;
    }
    Ok(resources)
}

#[cfg(test)]
mod tests {
    use super::ExampleResources;

    #[test]
    fn the_example_has_three_topics_with_a_dead_letter_topic_each() {
        let resources = ExampleResources::from_stage_file().expect("a valid stage file");
        let expected = [
            "dds-service-orders",
            "dds-service-orders.dlq",
            "order-service_orders",
            "order-service_orders.dlq",
            "stg-service-orders",
            "stg-service-orders.dlq",
        ];
        assert!(resources.topics.iter().eq(&expected), "{resources:?}");
        assert_eq!(resources.database, "streamstage");
    }
}
