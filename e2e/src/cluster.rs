//! A cluster with the operator in it, for the stories of the users.
//!
//! `e2e/cluster/up` makes the cluster, `make e2e` installs the chart; here a story finds both, gets a namespace and a
//! pipeline of its own, and waits for conditions. When a wait ends in vain, the error shows what is in the namespace; so
//! does a story that fails otherwise, and its namespace is removed all the same.
#![expect(clippy::disallowed_types, reason = "edge: reaches the cluster")]

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Node;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};

use crate::services::{Named, Options, Services};

mod operator;
mod process;
mod scene;
mod story;
mod wait;

pub use operator::{Absent, kill_operator, leader, operators_ready};
pub use process::Container;
pub use scene::Scene;
pub use story::Story;
pub use wait::{SOON, eventually};

/// The node on which Kafka, PostgreSQL and Redis run, which no story takes away.
const SERVICES_NODE: &str = "streamstage.dev/services=here";
/// The namespace of the services that the stories share, and that of the operator.
pub const SERVICES: &str = "services";
/// The namespace of the operator.
pub const SYSTEM: &str = "streamstage-system";

/// The cluster, and the services in it.
pub struct Cluster {
    /// A client with every permission.
    pub client: Client,
    /// Kafka, PostgreSQL and Redis, at the ports of their node: the stories and the workers reach them alike.
    pub services: Services,
}

impl Cluster {
    /// Connects to the cluster that `KUBECONFIG` names.
    ///
    /// # Errors
    /// When there is none, or the services do not answer.
    pub async fn connect() -> Result<Self> {
        let client = Client::try_default()
            .await
            .context("no cluster: run `make e2e`, or set KUBECONFIG")?;
        let address = services_address(&client).await?;
        let named = Named {
            kafka: Some(format!("{address}:30092")),
            postgres: Some(format!("postgres://postgres:streamstage@{address}:30432/orders")),
            redis: Some(format!("redis://{address}:30379")),
        };
        let options = Options {
            named,
            ..Options::default()
        };
        let services = Services::start(&options).await?;
        Ok(Self { client, services })
    }
}

async fn services_address(client: &Client) -> Result<String> {
    let nodes: Api<Node> = Api::all(client.clone());
    let found = nodes.list(&ListParams::default().labels(SERVICES_NODE)).await?;
    let node = found
        .items
        .first()
        .with_context(|| format!("no node is labelled {SERVICES_NODE}"))?;
    let status = node.status.as_ref().context("the node has no status")?;
    let mut addresses = status.addresses.iter().flatten();
    let internal = addresses.find(|address| address.type_ == "InternalIP");
    Ok(internal
        .with_context(|| format!("{} has no address", node.name_any()))?
        .address
        .clone())
}

/// Runs a program such as `kubectl` to its end; returns what it printed.
///
/// # Errors
/// When it fails, with what it said.
pub fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("cannot start {program}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{program} {}: {}",
        arguments.join(" "),
        said.trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// As [`run`], for a command that must be refused; returns the refusal.
///
/// # Errors
/// When it succeeds.
pub fn refused(program: &str, arguments: &[&str]) -> Result<String> {
    match run(program, arguments) {
        Ok(printed) => anyhow::bail!("{program} {} was not refused: {printed}", arguments.join(" ")),
        Err(refusal) => Ok(refusal.to_string()),
    }
}
