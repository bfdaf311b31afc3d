//! Signals to the first process of a container, from the node that it runs on: no image of the product has a shell, and
//! deleting a pod always asks its process first.

use anyhow::{Context as _, Result};

use super::run;

/// The one container of a running pod. Another of the same pod is not equal.
#[derive(Clone, PartialEq, Eq)]
pub struct Container {
    node: String,
    id: String,
}

impl Container {
    /// That of the first pod of a selector, such as `--selector=app=kafka`, or of a pod of a name.
    ///
    /// # Errors
    /// When there is none that runs.
    pub fn of(namespace: &str, pod: &str) -> Result<Self> {
        // A selector gives a list, a name the pod itself.
        let place = if pod.starts_with("--") {
            "{.items[0].spec.nodeName} {.items[0].status.containerStatuses[0].containerID}"
        } else {
            "{.spec.nodeName} {.status.containerStatuses[0].containerID}"
        };
        let output = format!("--output=jsonpath={place}");
        let printed = run(
            "kubectl",
            &["get", "pods", pod, &output, "--namespace", namespace],
        )?;
        let (node, id) = printed
            .split_once(" containerd://")
            .with_context(|| format!("{pod} runs in no container: {printed}"))?;
        Ok(Self {
            node: node.to_owned(),
            id: id.trim().to_owned(),
        })
    }

    /// Sends it a signal, such as `SIGKILL`. The node is a container of Docker, as kind's are.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn signal(&self, signal: &str) -> Result<()> {
        let Self { node, id } = self;
        let inside = ["exec", node, "ctr", "--namespace", "k8s.io"];
        let kill = ["tasks", "kill", "--signal", signal, id];
        run("docker", &[inside, kill].concat()).map(drop)
    }
}
