//! Two tenants share an operator that watches their namespaces only: neither can read, stall or observe the other.

use crate::cluster::{OPERATOR_NAMESPACE, Story, run, run_expecting_error};
use crate::helm::{CHART, Release};
use anyhow::{Context as _, Result};
use crds::status::ConditionType;

/// Asks whether an identity may do something in a namespace.
fn can(identity: &str, action: &[&str], namespace: &str) -> bool {
    let question = ["--as", identity, "--namespace", namespace, "auth", "can-i"];
    run("kubectl", &[&question[..], action].concat()).is_ok()
}

#[tokio::test]
async fn neither_of_two_tenants_reads_stalls_or_observes_the_other() -> Result<()> {
    let one = Box::pin(Story::create("tenanta", 2)).await?;
    let other = Box::pin(Story::create("tenantb", 2)).await?;
    let release = Release::save(one.pipeline.folder())?;
    let namespaces = format!("--set=watchNamespaces={{{},{}}}", one.namespace, other.namespace);
    release.install_with(CHART, &[&namespaces, "--set=rbac.requireCreatePods=true"])?;

    let operator = format!("system:serviceaccount:{OPERATOR_NAMESPACE}:streamstage-operator");
    for namespace in [&one.namespace, &other.namespace] {
        assert!(can(&operator, &["get", "secrets"], namespace), "{namespace}");
    }
    for namespace in ["default", "kube-system", OPERATOR_NAMESPACE] {
        for resource in ["secrets", "configmaps", "streamstages.streamstage.dev"] {
            assert!(
                !can(&operator, &["get", resource], namespace),
                "{namespace} {resource}"
            );
        }
    }
    assert!(!can(&operator, &["patch", "leases/other"], OPERATOR_NAMESPACE));

    let stage = one.stage("cdm")?;
    one.apply(&stage).await?;
    one.wait_for_status("cdm", ConditionType::Ready, "True").await?;
    // The other tenant names the first one's Secret, then its group.
    let mut hostile = other.stage("cdm")?;
    let path = format!("../../{}/secrets/orders-postgres", one.namespace);
    hostile.spec.warehouse.auth_secret_name = Some(path);
    let error = other
        .apply(&hostile)
        .await
        .err()
        .context("a path is not rejected")?;
    assert!(format!("{error:#}").contains("authSecretName"), "{error:#}");
    hostile = other.stage("cdm")?;
    hostile.spec.source = stage.spec.source.clone();
    hostile.spec.source.consumer_group = Some(format!("{}.cdm", one.namespace));
    other.apply(&hostile).await?;
    let stalled = other
        .wait_for_reason("cdm", ConditionType::Stalled, "ConsumerGroupConflict")
        .await?;
    assert!(
        !stalled.message.contains(&format!("{}/cdm", one.namespace)),
        "{}",
        stalled.message
    );
    one.wait_for_status("cdm", ConditionType::Ready, "True").await?;

    // Who may write stages only gets no pods through the operator.
    let in_other = ["--namespace", &other.namespace];
    for arguments in [
        &[
            "create",
            "role",
            "author",
            "--verb=get,create,patch,delete",
            "--resource=streamstages.streamstage.dev",
        ][..],
        &[
            "create",
            "rolebinding",
            "author",
            "--role=author",
            "--user=author",
        ],
    ] {
        run("kubectl", &[arguments, &in_other].concat())?;
    }
    let file = other.pipeline.folder().join("author.json");
    let mut authored = other.stage("cdm")?;
    authored.metadata.name = Some("authored".to_owned());
    std::fs::write(&file, serde_json::to_string(&authored)?)?;
    let file = file.display().to_string();
    let apply = ["--as=author", "create", "--filename", &file];
    let error = run_expecting_error("kubectl", &apply)?;
    assert!(error.contains("permission to create pods"), "{error}");
    // Before the folder of the story, which has the values, is removed.
    drop(release);
    other.finish()?;
    one.finish()
}
