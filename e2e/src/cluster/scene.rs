//! The namespace of a story, which goes with it; and what there is to see in it when the story fails.

use anyhow::Result;

use super::{SYSTEM, run};

/// A namespace of a story. Unless the story passes, what is in it is shown, and it is removed: workers that are left
/// would be in the way of the stories after it.
pub struct Scene {
    namespace: String,
    passed: bool,
}

impl Scene {
    /// Watches over a namespace.
    #[must_use]
    pub fn of(namespace: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            passed: false,
        }
    }

    /// Removes the namespace, and does not wait.
    ///
    /// # Errors
    /// When the API server refuses.
    pub fn end(mut self) -> Result<()> {
        self.passed = true;
        self.remove()
    }

    fn remove(&self) -> Result<()> {
        let remove = ["delete", "namespace", &self.namespace, "--wait=false"];
        run("kubectl", &remove).map(drop)
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if self.passed {
            return;
        }
        eprintln!("{}", show(&self.namespace));
        if let Err(error) = self.remove() {
            eprintln!("{error:#}");
        }
    }
}

/// Resources, events and logs of a namespace, and the operator's log.
pub(super) fn show(namespace: &str) -> String {
    let looks: [&[&str]; 5] = [
        &[
            "get",
            "streamstages,deployments,replicasets,pods,configmaps,pdb",
            "--output",
            "wide",
            "--namespace",
            namespace,
        ],
        &[
            "get",
            "streamstages",
            "--output",
            "jsonpath={range .items[*]}{.metadata.name}{\" \"}{.status}{\"\\n\"}{end}",
            "--namespace",
            namespace,
        ],
        &[
            "get",
            "events",
            "--sort-by",
            ".lastTimestamp",
            "--namespace",
            namespace,
        ],
        &[
            "logs",
            "--selector",
            "app.kubernetes.io/name=streamstage-worker",
            "--tail",
            "15",
            "--prefix",
            "--namespace",
            namespace,
        ],
        &[
            "logs",
            "--selector",
            "app.kubernetes.io/name=streamstage",
            "--tail",
            "40",
            "--prefix",
            "--namespace",
            SYSTEM,
        ],
    ];
    let shown = looks.map(|look| {
        let printed = run("kubectl", look).unwrap_or_else(|error| error.to_string());
        format!("--- kubectl {}\n{printed}", look.join(" "))
    });
    shown.join("\n")
}
