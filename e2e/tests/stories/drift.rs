//! Owned objects that are deleted or edited by hand are restored within ten seconds.
#![expect(clippy::disallowed_methods, reason = "edge: measures time")]

use std::time::{Duration, Instant};

use crate::cluster::{Story, eventually, run};
use anyhow::Result;

const RESTORE_DEADLINE: Duration = Duration::from_secs(10);

#[tokio::test]
async fn drift_of_owned_objects_is_corrected_within_ten_seconds() -> Result<()> {
    let story = Story::create("drift", 2).await?;
    story.start().await?;
    let namespace = story.namespace.as_str();
    let get = |kind: &str, path: &str| {
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
        let before = get(kind, ".metadata.uid")?;
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
        let deleted_at = Instant::now();
        let description = format!("{kind} is recreated");
        eventually(&description, namespace, RESTORE_DEADLINE, async || {
            Ok(Some(get(kind, ".metadata.uid")?).filter(|uid| *uid != before))
        })
        .await?;
        eprintln!(
            "drift: {kind} was recreated after {:.1} s",
            deleted_at.elapsed().as_secs_f64()
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
        let before = get(kind, path)?;
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
            RESTORE_DEADLINE,
            async || Ok(Some(get(kind, path)?).filter(|now| *now == before)),
        )
        .await?;
    }
    story.finish()
}
