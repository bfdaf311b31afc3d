//! The operator is killed at random moments while a stage is edited: the final state and the objects are the same.

use std::time::Duration;

use crate::cluster::{Story, kill_operator, run, wait_for_leader, wait_operators_ready};
use anyhow::Result;
use crds::status::ConditionType;
use rand::RngExt as _;

const KILLS: u32 = 10;

#[tokio::test]
async fn kills_of_the_operator_leave_no_extra_objects() -> Result<()> {
    let story = Story::create("killed", 2).await?;
    let mut stage = story.stage("stg")?;
    let mut killed = String::new();
    for round in 1..=KILLS {
        let (operator, container) = wait_for_leader(&killed).await?;
        stage.spec.batch.max_records = 100 + round;
        stage.spec.scaling.replicas = Some(1 + round % 2);
        story.apply(&stage).await?;
        // A random delay instead of a condition, so that each kill is at another step of the reconcile.
        tokio::time::sleep(Duration::from_millis(rand::rng().random_range(0..500))).await;
        kill_operator(&operator, &container)?;
        killed = operator;
    }
    wait_operators_ready()?;
    story.wait_for_status("stg", ConditionType::Ready, "True").await?;
    story
        .wait_for_status("stg", ConditionType::Reconciling, "False")
        .await?;
    let deployment = story
        .wait_for_deployment("stg has the last replica count", "stg", |deployment| {
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
    story.finish()
}
