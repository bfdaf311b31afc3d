//! Connection to the cluster and to the services that run in it.
#![expect(clippy::disallowed_types, reason = "edge: connects to the cluster")]

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::Node;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};

use e2e::services::{ExternalServices, Options, Services};

/// Label of the node of Kafka, PostgreSQL and Redis; no story may drain or stop it.
const SERVICES_NODE_LABEL: &str = "streamstage.dev/services=here";

/// Connection to the cluster and its services.
pub struct Cluster {
    /// Client with all permissions.
    pub client: Client,
    /// Kafka, PostgreSQL and Redis, at node ports that both the stories and the workers can reach.
    pub services: Services,
}

impl Cluster {
    /// Connects to the cluster of `KUBECONFIG`.
    ///
    /// # Errors
    /// When the cluster or the services do not answer.
    pub async fn connect() -> Result<Self> {
        let client = Client::try_default()
            .await
            .context("no cluster: run `make e2e`, or set KUBECONFIG")?;
        let address = services_address(&client).await?;
        let external = ExternalServices {
            kafka: Some(format!("{address}:30092")),
            postgres: Some(format!("postgres://postgres:streamstage@{address}:30432/orders")),
            redis: Some(format!("redis://{address}:30379")),
        };
        let options = Options {
            external,
            ..Options::default()
        };
        let services = Services::start(&options).await?;
        Ok(Self { client, services })
    }
}

async fn services_address(client: &Client) -> Result<String> {
    let nodes: Api<Node> = Api::all(client.clone());
    let labeled = nodes
        .list(&ListParams::default().labels(SERVICES_NODE_LABEL))
        .await?;
    let node = labeled
        .items
        .first()
        .with_context(|| format!("no node has the label {SERVICES_NODE_LABEL}"))?;
    let status = node.status.as_ref().context("the node has no status")?;
    let mut addresses = status.addresses.iter().flatten();
    let internal = addresses.find(|address| address.type_ == "InternalIP");
    Ok(internal
        .with_context(|| format!("{} has no address", node.name_any()))?
        .address
        .clone())
}
