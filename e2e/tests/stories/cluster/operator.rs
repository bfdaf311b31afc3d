//! Operator pods: the current leader, and phases without an operator.

use anyhow::Result;

use super::command::run;
use super::container::Container;
use super::namespace::OPERATOR_NAMESPACE;
use super::wait::{DEFAULT_DEADLINE, eventually};

const DEPLOYMENT: &str = "deployment/streamstage-operator";
const POD_SELECTOR: &str = "--selector=app.kubernetes.io/component=operator";

/// Waits until a pod other than `previous` holds the lease; returns its name and its container.
///
/// # Errors
/// When the default deadline expires.
pub async fn wait_for_leader(previous: &str) -> Result<(String, Container)> {
    eventually(
        "an operator leads",
        OPERATOR_NAMESPACE,
        DEFAULT_DEADLINE,
        async || {
            let name = lease_holder()?;
            if name.is_empty() || name == previous {
                return Ok(None);
            }
            // Fails if the lease still names a deleted pod.
            let container = Container::find(OPERATOR_NAMESPACE, &name)?;
            Ok(Some((name, container)))
        },
    )
    .await
}

/// Holder identity in the lease; empty after a release.
fn lease_holder() -> Result<String> {
    let path = "--output=jsonpath={.spec.holderIdentity}";
    let lease = ["get", "lease", "streamstage-operator", path];
    run(
        "kubectl",
        &[&lease[..], &["--namespace", OPERATOR_NAMESPACE]].concat(),
    )
}

/// Waits until every operator is ready.
///
/// # Errors
/// When one is not ready after 90 seconds.
pub fn wait_operators_ready() -> Result<()> {
    let status = ["rollout", "status", DEPLOYMENT, "--timeout=90s"];
    run(
        "kubectl",
        &[&status[..], &["--namespace", OPERATOR_NAMESPACE]].concat(),
    )
    .map(drop)
}

fn scale_operators(replicas: u32) -> Result<()> {
    let flag = format!("--replicas={replicas}");
    let scale = ["scale", DEPLOYMENT, &flag, "--namespace", OPERATOR_NAMESPACE];
    run("kubectl", &scale).map(drop)
}

/// Guard of a phase without an operator; dropping it starts the operators again.
pub struct OperatorStopped(());

impl OperatorStopped {
    /// Scales the operator to zero, and waits until its pods are deleted.
    ///
    /// # Errors
    /// When the default deadline expires.
    pub async fn scale_to_zero() -> Result<Self> {
        scale_operators(0)?;
        let stopped = Self(());
        eventually(
            "no operator pod is left",
            OPERATOR_NAMESPACE,
            DEFAULT_DEADLINE,
            async || {
                let get = ["get", "pods", POD_SELECTOR, "--output=name"];
                let pods = run(
                    "kubectl",
                    &[&get[..], &["--namespace", OPERATOR_NAMESPACE]].concat(),
                )?;
                Ok(pods.trim().is_empty().then_some(()))
            },
        )
        .await?;
        Ok(stopped)
    }
}

impl Drop for OperatorStopped {
    fn drop(&mut self) {
        if let Err(error) = scale_operators(2).and_then(|()| wait_operators_ready()) {
            eprintln!("cannot restart the operators: {error:#}");
        }
    }
}

/// Kills an operator without a graceful shutdown, so that it does not release its lease. Also deletes its pod, so that
/// the container does not restart with the same identity.
///
/// # Errors
/// When it has exited before.
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
    run(
        "kubectl",
        &[&delete[..], &["--namespace", OPERATOR_NAMESPACE]].concat(),
    )
    .map(drop)
}
