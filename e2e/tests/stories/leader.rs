//! The operator that leads is killed: the other one takes over within twenty seconds.
#![expect(clippy::disallowed_methods, reason = "edge: measures the time")]

use std::time::{Duration, Instant};

use anyhow::Result;
use crds::status::ConditionType;
use e2e::cluster::{Story, kill_operator, leader, operators_ready};

#[tokio::test]
async fn another_operator_takes_over_within_twenty_seconds() -> Result<()> {
    operators_ready()?;
    let story = Story::begin("leader", 2).await?;
    let (first, container) = leader("").await?;
    kill_operator(&first, &container)?;
    let killed = Instant::now();
    story.apply(&story.stage("cdm")?).await?;
    let (successor, _) = leader(&first).await?;
    story
        .deployment("was made by the successor", "cdm", |_| true)
        .await?;
    eprintln!(
        "leader: {successor} worked {:.1} s after {first} was killed",
        killed.elapsed().as_secs_f64()
    );
    assert!(killed.elapsed() < Duration::from_secs(20));
    story.is("cdm", ConditionType::Ready, "True").await?;
    operators_ready()?;
    story.end()
}
