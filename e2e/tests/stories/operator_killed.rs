//! The operator is killed at random moments while stages change: the same end, the same number of objects.

use std::time::Duration;

use anyhow::Result;
use crds::status::ConditionType;
use e2e::cluster::{Story, kill_operator, leader, operators_ready, run};
use rand::RngExt as _;

/// How often.
const KILLS: u32 = 10;

#[tokio::test]
async fn an_operator_killed_at_any_moment_leaves_nothing_behind() -> Result<()> {
    let story = Story::begin("killed", 2).await?;
    let mut stage = story.stage("stg")?;
    let mut killed = String::new();
    for round in 1..=KILLS {
        let (operator, container) = leader(&killed).await?;
        stage.spec.batch.max_records = 100 + round;
        stage.spec.scaling.replicas = Some(1 + round % 2);
        story.apply(&stage).await?;
        // The moment is the point; nothing is waited for.
        tokio::time::sleep(Duration::from_millis(rand::rng().random_range(0..500))).await;
        kill_operator(&operator, &container)?;
        killed = operator;
    }
    operators_ready()?;
    story.is("stg", ConditionType::Ready, "True").await?;
    story.is("stg", ConditionType::Reconciling, "False").await?;
    let deployment = story
        .deployment("has the last number", "stg", |deployment| {
            deployment
                .spec
                .as_ref()
                .is_some_and(|spec| spec.replicas == Some(1))
        })
        .await?;
    assert_eq!(deployment.metadata.name.as_deref(), Some("stg-worker"));
    let document = run(
        "kubectl",
        &[
            "get",
            "configmap",
            "stg-worker",
            "--output=jsonpath={.data}",
            "--namespace",
            &story.namespace,
        ],
    )?;
    assert!(
        document.contains(&format!("maxRecords: {}", 100 + KILLS)),
        "{document}"
    );
    let kinds = "deployments,configmaps,services,serviceaccounts,poddisruptionbudgets";
    let objects = run(
        "kubectl",
        &[
            "get",
            kinds,
            "--selector=app.kubernetes.io/managed-by=streamstage-operator",
            "--output=name",
            "--namespace",
            &story.namespace,
        ],
    )?;
    assert_eq!(objects.lines().count(), 5, "{objects}");
    story.end()
}
