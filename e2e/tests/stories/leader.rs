//! The operator that leads is killed: the other one takes over within twenty seconds.
#![expect(clippy::disallowed_methods, reason = "edge: measures the time")]

use std::time::{Duration, Instant};

use anyhow::Result;
use crds::status::ConditionType;
use e2e::cluster::{SOON, SYSTEM, Story, eventually, run};

fn holder() -> Result<String> {
    run(
        "kubectl",
        &[
            "get",
            "lease",
            "streamstage-operator",
            "--output=jsonpath={.spec.holderIdentity}",
            "--namespace",
            SYSTEM,
        ],
    )
}

#[tokio::test]
async fn another_operator_takes_over_within_twenty_seconds() -> Result<()> {
    run(
        "kubectl",
        &[
            "rollout",
            "status",
            "deployment/streamstage-operator",
            "--timeout=90s",
            "--namespace",
            SYSTEM,
        ],
    )?;
    let story = Story::begin("leader", 2).await?;
    let leader = eventually("one leads", SYSTEM, SOON, async || {
        Ok(Some(holder()?).filter(|name| !name.is_empty()))
    })
    .await?;
    run(
        "kubectl",
        &[
            "delete",
            "pod",
            &leader,
            "--grace-period=0",
            "--force",
            "--wait=false",
            "--namespace",
            SYSTEM,
        ],
    )?;
    let killed = Instant::now();
    story.apply(&story.stage("cdm")?).await?;
    let successor = eventually("another leads", SYSTEM, Duration::from_secs(20), async || {
        Ok(Some(holder()?).filter(|name| !name.is_empty() && *name != leader))
    })
    .await?;
    story
        .deployment("was made by the successor", "cdm", |_| true)
        .await?;
    eprintln!(
        "leader: {successor} worked {:.1} s after {leader} was killed",
        killed.elapsed().as_secs_f64()
    );
    assert!(killed.elapsed() < Duration::from_secs(20));
    story.is("cdm", ConditionType::Ready, "True").await?;
    story.end().await
}
