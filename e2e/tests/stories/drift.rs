//! Owned objects that are deleted or edited by hand come back within ten seconds.
#![expect(clippy::disallowed_methods, reason = "edge: measures the time")]

use std::time::{Duration, Instant};

use anyhow::Result;
use e2e::cluster::{Story, eventually, run};

/// How long a restored object may take.
const RESTORED: Duration = Duration::from_secs(10);

#[tokio::test]
async fn owned_objects_come_back_within_ten_seconds() -> Result<()> {
    let story = Story::begin("drift", 2).await?;
    story.start().await?;
    let namespace = story.namespace.as_str();
    let show = |kind: &str, path: &str| {
        let output = format!("--output=jsonpath={{{path}}}");
        run(
            "kubectl",
            &["get", kind, "stg-worker", &output, "--namespace", namespace],
        )
    };
    for kind in [
        "configmap",
        "service",
        "serviceaccount",
        "poddisruptionbudget",
        "deployment",
    ] {
        let before = show(kind, ".metadata.uid")?;
        run(
            "kubectl",
            &[
                "delete",
                kind,
                "stg-worker",
                "--wait=false",
                "--namespace",
                namespace,
            ],
        )?;
        let deleted = Instant::now();
        eventually(&format!("{kind} is back"), namespace, RESTORED, async || {
            Ok(Some(show(kind, ".metadata.uid")?).filter(|uid| *uid != before))
        })
        .await?;
        eprintln!(
            "drift: {kind} was back after {:.1} s",
            deleted.elapsed().as_secs_f64()
        );
    }
    for (kind, patch, path) in [
        (
            "configmap",
            r#"{"data":{"stage.yaml":"gone"}}"#,
            ".data.stage\\.yaml",
        ),
        (
            "service",
            r#"{"spec":{"selector":{"streamstage.dev/stage":"other"}}}"#,
            ".spec.selector",
        ),
        (
            "poddisruptionbudget",
            r#"{"spec":{"maxUnavailable":2}}"#,
            ".spec.maxUnavailable",
        ),
        (
            "deployment",
            r#"{"spec":{"template":{"spec":{"terminationGracePeriodSeconds":1}}}}"#,
            ".spec.template.spec.terminationGracePeriodSeconds",
        ),
        ("deployment", r#"{"spec":{"replicas":3}}"#, ".spec.replicas"),
    ] {
        let before = show(kind, path)?;
        run(
            "kubectl",
            &[
                "patch",
                kind,
                "stg-worker",
                "--type=merge",
                "--patch",
                patch,
                "--namespace",
                namespace,
            ],
        )?;
        eventually(
            &format!("{kind} {path} is {before} again"),
            namespace,
            RESTORED,
            async || Ok(Some(show(kind, path)?).filter(|now| *now == before)),
        )
        .await?;
    }
    story.end()
}
