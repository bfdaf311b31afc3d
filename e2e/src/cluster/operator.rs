//! The operators: which of them leads, and a time without any.

use anyhow::Result;

use super::{Container, SOON, SYSTEM, eventually, run};

const DEPLOYMENT: &str = "deployment/streamstage-operator";
const PODS: &str = "--selector=app.kubernetes.io/component=operator";

/// The pod that holds the lease, once it is another than `before`; its name, and its container.
///
/// # Errors
/// When there is none soon.
pub async fn leader(before: &str) -> Result<(String, Container)> {
    eventually("an operator leads", SYSTEM, SOON, async || {
        let name = holder()?;
        if name.is_empty() || name == before {
            return Ok(None);
        }
        // The lease may still name one that is gone.
        let container = Container::of(SYSTEM, &name)?;
        Ok(Some((name, container)))
    })
    .await
}

/// Who holds the lease by its text; empty when it was given back.
fn holder() -> Result<String> {
    let path = "--output=jsonpath={.spec.holderIdentity}";
    let lease = ["get", "lease", "streamstage-operator", path];
    run("kubectl", &[&lease[..], &["--namespace", SYSTEM]].concat())
}

/// Waits until every operator is ready.
///
/// # Errors
/// When one does not become so soon.
pub fn operators_ready() -> Result<()> {
    let status = ["rollout", "status", DEPLOYMENT, "--timeout=90s"];
    run("kubectl", &[&status[..], &["--namespace", SYSTEM]].concat()).map(drop)
}

fn scale(replicas: u32) -> Result<()> {
    let flag = format!("--replicas={replicas}");
    let scale = ["scale", DEPLOYMENT, &flag, "--namespace", SYSTEM];
    run("kubectl", &scale).map(drop)
}

/// No operator runs while this is there.
pub struct Absent(());

impl Absent {
    /// Stops the operators, and waits until they are gone.
    ///
    /// # Errors
    /// When one does not go soon.
    pub async fn begin() -> Result<Self> {
        scale(0)?;
        let absent = Self(());
        eventually("no operator is left", SYSTEM, SOON, async || {
            let left = ["get", "pods", PODS, "--output=name", "--namespace", SYSTEM];
            Ok(run("kubectl", &left)?.trim().is_empty().then_some(()))
        })
        .await?;
        Ok(absent)
    }
}

impl Drop for Absent {
    fn drop(&mut self) {
        if let Err(error) = scale(2).and_then(|()| operators_ready()) {
            eprintln!("the operators do not come back: {error:#}");
        }
    }
}

/// Kills an operator in the middle of what it does: it gives nothing back. Its pod goes too, so that it does not begin
/// again under the same name.
///
/// # Errors
/// When it has ended before.
pub fn kill_operator(pod: &str, container: &Container) -> Result<()> {
    container.signal("SIGKILL")?;
    let delete = [
        "delete",
        "pod",
        pod,
        "--grace-period=0",
        "--force",
        "--wait=false",
    ];
    run("kubectl", &[&delete[..], &["--namespace", SYSTEM]].concat()).map(drop)
}
