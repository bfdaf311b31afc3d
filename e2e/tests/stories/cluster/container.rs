//! Signals to the main process of a container, sent from its node. The images of the product have no shell, and deleting
//! a pod sends SIGTERM first.

use anyhow::{Context as _, Result};

use super::command::run;

/// The only container of a running pod. A restarted container of the same pod is not equal.
#[derive(Clone, PartialEq, Eq)]
pub struct Container {
    node: String,
    id: String,
}

impl Container {
    /// Finds the container of a pod by name, or of the first pod of a selector, such as `--selector=app=kafka`.
    ///
    /// # Errors
    /// When the pod does not exist or does not run.
    pub fn find(namespace: &str, pod: &str) -> Result<Self> {
        // A selector returns a list, a name the pod itself.
        let path = if pod.starts_with("--") {
            "{.items[0].spec.nodeName} {.items[0].status.containerStatuses[0].containerID}"
        } else {
            "{.spec.nodeName} {.status.containerStatuses[0].containerID}"
        };
        let output = format!("--output=jsonpath={path}");
        let ids = run(
            "kubectl",
            &["get", "pods", pod, &output, "--namespace", namespace],
        )?;
        let (node, id) = ids
            .split_once(" containerd://")
            .with_context(|| format!("{pod} has no running container: {ids}"))?;
        Ok(Self {
            node: node.to_owned(),
            id: id.trim().to_owned(),
        })
    }

    /// Sends a signal, such as `SIGKILL`. Works on kind clusters only, whose nodes are Docker containers.
    ///
    /// # Errors
    /// When the process has exited.
    pub fn signal(&self, signal: &str) -> Result<()> {
        let Self { node, id } = self;
        let inside = ["exec", node, "ctr", "--namespace", "k8s.io"];
        let kill = ["tasks", "kill", "--signal", signal, id];
        run("docker", &[inside, kill].concat()).map(drop)
    }
}
