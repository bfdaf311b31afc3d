//! Namespace of a story: deleted with it, and described if the story fails.

use anyhow::Result;

use super::command::run;

/// Namespace of the services, which all stories share.
pub const SERVICES_NAMESPACE: &str = "services";
/// Namespace of the operator.
pub const OPERATOR_NAMESPACE: &str = "streamstage-system";

/// Deletes the namespace of a story. If the story fails, its content is printed first. Remaining workers would slow down
/// later stories.
pub struct NamespaceGuard {
    namespace: String,
    passed: bool,
}

impl NamespaceGuard {
    /// Guards an existing namespace.
    #[must_use]
    pub fn new(namespace: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            passed: false,
        }
    }

    /// Deletes the namespace of a story that passed, without waiting.
    ///
    /// # Errors
    /// When the API server rejects the request.
    pub fn delete(mut self) -> Result<()> {
        self.passed = true;
        self.request_deletion()
    }

    fn request_deletion(&self) -> Result<()> {
        let delete = ["delete", "namespace", &self.namespace, "--wait=false"];
        run("kubectl", &delete).map(drop)
    }
}

impl Drop for NamespaceGuard {
    fn drop(&mut self) {
        if self.passed {
            return;
        }
        eprintln!("{}", describe_namespace(&self.namespace));
        if let Err(error) = self.request_deletion() {
            eprintln!("{error:#}");
        }
    }
}

/// Describes a namespace: its resources, statuses, events and worker logs, and the operator's log.
pub(super) fn describe_namespace(namespace: &str) -> String {
    let commands: [&[&str]; 5] = [
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
            OPERATOR_NAMESPACE,
        ],
    ];
    let sections = commands.map(|command| {
        let output = run("kubectl", command).unwrap_or_else(|error| error.to_string());
        format!("--- kubectl {}\n{output}", command.join(" "))
    });
    sections.join("\n")
}
