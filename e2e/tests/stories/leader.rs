//! The leader is killed: a standby takes over within twenty seconds.
#![expect(clippy::disallowed_methods, reason = "edge: measures time")]

use std::time::{Duration, Instant};

use crate::cluster::{Story, kill_operator, wait_for_leader, wait_operators_ready};
use anyhow::Result;
use crds::status::ConditionType;

#[tokio::test]
async fn a_standby_takes_over_within_twenty_seconds() -> Result<()> {
    wait_operators_ready()?;
    let story = Story::create("leader", 2).await?;
    let (first, container) = wait_for_leader("").await?;
    kill_operator(&first, &container)?;
    let killed_at = Instant::now();
    story.apply(&story.stage("cdm")?).await?;
    let (successor, _) = wait_for_leader(&first).await?;
    story
        .wait_for_deployment("the successor creates the Deployment", "cdm", |_| true)
        .await?;
    eprintln!(
        "leader: {successor} was active {:.1} s after {first} was killed",
        killed_at.elapsed().as_secs_f64()
    );
    assert!(killed_at.elapsed() < Duration::from_secs(20));
    story.wait_for_status("cdm", ConditionType::Ready, "True").await?;
    wait_operators_ready()?;
    story.finish()
}
