//! Fixture of one user story: a namespace with the `restricted` standard, a Secret, a pipeline and its three stages.
#![expect(clippy::disallowed_types, reason = "edge: connects to the cluster")]

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use crds::StreamStage;
use crds::stage::{Scaling, ScalingMode};
use crds::status::ConditionType;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::core::NamespaceResourceScope;
use kube::{Api, Resource};
use serde_json::json;
use tokio::task::JoinHandle;

use super::connection::Cluster;
use super::namespace::NamespaceGuard;
use super::wait::{DEFAULT_DEADLINE, eventually};
use e2e::orders::{Generator, Settings, send};
use e2e::pipeline::{Pipeline, STAGES};
use e2e::recount::{Recount, read_marts, recount};

/// Name of the Secret with the PostgreSQL credentials.
const SECRET_NAME: &str = "orders-postgres";
/// Orders per tick of [`Story::produce_during`].
const ORDERS_PER_TICK: usize = 20;
/// Interval between two ticks of [`Story::produce_during`].
const TICK_INTERVAL: Duration = Duration::from_millis(500);
/// Maximum time without progress until all orders of a story are in the marts.
const DRAIN_TIMEOUT: Duration = Duration::from_mins(2);

/// A user story on the cluster, with its own namespace and pipeline.
pub struct Story {
    /// The first field is dropped first, so that a failed story prints its namespace unchanged.
    guard: NamespaceGuard,
    /// Connection to the cluster.
    pub cluster: Cluster,
    /// Topics, database and reference data.
    pub pipeline: Pipeline,
    /// Name of the namespace.
    pub namespace: String,
    generator: Generator,
    messages: Vec<e2e::orders::Message>,
}

impl Story {
    /// Creates the namespace, the Secret and the pipeline, but no stage.
    ///
    /// # Errors
    /// When the API server or a service rejects a request.
    pub async fn create(name: &str, partitions: i32) -> Result<Self> {
        let cluster = Box::pin(Cluster::connect()).await?;
        let pipeline = Box::pin(Pipeline::create(&cluster.services, name, partitions)).await?;
        let namespace = pipeline.name().replace('_', "-");
        let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
        let restricted = serde_json::from_value(json!({
            "metadata": {"name": namespace, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
        }))?;
        namespaces.create(&PostParams::default(), &restricted).await?;
        let guard = NamespaceGuard::new(&namespace);
        let generator = Generator::new(&Settings::default());
        pipeline.load_reference_data(&generator, 0).await?;
        let story = Self {
            guard,
            cluster,
            pipeline,
            namespace,
            generator,
            messages: Vec::new(),
        };
        story.create_secret().await?;
        Ok(story)
    }

    /// Creates the Secret that the stages reference.
    ///
    /// # Errors
    /// When the API server rejects the request.
    pub async fn create_secret(&self) -> Result<()> {
        let secret: Secret = serde_json::from_value(json!({
            "metadata": {"name": SECRET_NAME, "annotations": {"streamstage.dev/allow-stages": "true"}},
            "stringData": {"username": "postgres", "password": "streamstage"},
        }))?;
        self.api().create(&PostParams::default(), &secret).await?;
        Ok(())
    }

    /// The three stages of the pipeline for this namespace, with two workers each; not yet applied.
    ///
    /// # Errors
    /// When the stage file is not valid.
    pub fn stages(&self) -> Result<Vec<StreamStage>> {
        let mut stages = crds::document::parse(&std::fs::read_to_string(self.pipeline.stage_file())?)?;
        for stage in &mut stages {
            stage.spec.source.consumer_group = Some(stage.consumer_group());
            stage.metadata.namespace = Some(self.namespace.clone());
            stage.spec.warehouse.auth_secret_name = Some(SECRET_NAME.to_owned());
            stage.spec.scaling = Scaling {
                mode: ScalingMode::Manual,
                replicas: Some(2),
                ..Scaling::default()
            };
        }
        Ok(stages)
    }

    /// One of [`Story::stages`], by name.
    ///
    /// # Errors
    /// As [`Story::stages`], or when no stage has that name.
    pub fn stage(&self, name: &str) -> Result<StreamStage> {
        let mut stages = self.stages()?.into_iter();
        stages
            .find(|stage| stage.name() == name)
            .with_context(|| format!("no stage {name}"))
    }

    /// Applies a stage (server-side apply), as a user would.
    ///
    /// # Errors
    /// When the API server rejects the request.
    pub async fn apply(&self, stage: &StreamStage) -> Result<()> {
        let parameters = PatchParams::apply("user").force();
        self.api::<StreamStage>()
            .patch(stage.name(), &parameters, &Patch::Apply(stage))
            .await?;
        Ok(())
    }

    /// Applies all three stages and waits until their workers are ready.
    ///
    /// # Errors
    /// When one of them does not become ready.
    pub async fn start(&self) -> Result<()> {
        for stage in self.stages()? {
            self.apply(&stage).await?;
        }
        for stage in STAGES {
            self.wait_for_status(stage, ConditionType::Ready, "True").await?;
        }
        Ok(())
    }

    /// API of a kind in this namespace.
    #[must_use]
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.cluster.client.clone(), &self.namespace)
    }

    /// Waits until a condition of a stage has a status for the current generation; returns the condition.
    ///
    /// # Errors
    /// When the default deadline expires.
    pub async fn wait_for_status(
        &self,
        stage: &str,
        type_: ConditionType,
        status: &str,
    ) -> Result<Condition> {
        let description = format!("{stage} is {type_} {status}");
        self.wait_for_condition(&description, stage, type_, |condition| condition.status == status)
            .await
    }

    /// As [`Story::wait_for_status`], for a reason.
    ///
    /// # Errors
    /// When the default deadline expires.
    pub async fn wait_for_reason(
        &self,
        stage: &str,
        type_: ConditionType,
        reason: &str,
    ) -> Result<Condition> {
        let description = format!("{stage} has {type_} with the reason {reason}");
        self.wait_for_condition(&description, stage, type_, |condition| condition.reason == reason)
            .await
    }

    async fn wait_for_condition(
        &self,
        description: &str,
        stage: &str,
        type_: ConditionType,
        matches: impl Fn(&Condition) -> bool,
    ) -> Result<Condition> {
        let (stages, type_) = (self.api::<StreamStage>(), type_.to_string());
        eventually(description, &self.namespace, DEFAULT_DEADLINE, async || {
            let stage = stages.get(stage).await?;
            let conditions = stage.status.map(|status| status.conditions).unwrap_or_default();
            let condition = conditions.into_iter().find(|condition| condition.type_ == type_);
            let current =
                condition.filter(|condition| condition.observed_generation == stage.metadata.generation);
            Ok(current.filter(&matches))
        })
        .await
    }

    /// Waits until the Deployment of a stage matches a predicate; returns the Deployment.
    ///
    /// # Errors
    /// When the default deadline expires.
    pub async fn wait_for_deployment(
        &self,
        description: &str,
        stage: &str,
        matches: impl Fn(&Deployment) -> bool,
    ) -> Result<Deployment> {
        let (deployments, name) = (self.api::<Deployment>(), format!("{stage}-worker"));
        eventually(description, &self.namespace, DEFAULT_DEADLINE, async || {
            Ok(Some(deployments.get(&name).await?).filter(&matches))
        })
        .await
    }

    /// Lists the worker pods of a stage.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn pods(&self, stage: &str) -> Result<Vec<Pod>> {
        let of_stage = ListParams::default().labels(&format!("streamstage.dev/stage={stage}"));
        Ok(self.api::<Pod>().list(&of_stage).await?.items)
    }

    /// Produces the next `orders` orders of the history.
    ///
    /// # Errors
    /// When Kafka rejects a message.
    pub async fn produce(&mut self, orders: usize) -> Result<()> {
        let messages: Vec<_> = self.generator.history(orders).collect();
        self.pipeline
            .produce(self.messages.len() as u64, messages.iter().cloned())
            .await?;
        self.messages.extend(messages);
        Ok(())
    }

    /// Waits until all produced orders are in the marts, and compares the marts with a recount of the messages.
    ///
    /// # Errors
    /// When the timeout expires, or the marts and the recount differ.
    pub async fn wait_for_marts(&self) -> Result<Recount> {
        self.pipeline.wait_drained(DRAIN_TIMEOUT).await?;
        let file = self.pipeline.folder().join("messages.json");
        let mut writer = std::io::BufWriter::new(std::fs::File::create(&file)?);
        for message in &self.messages {
            send::write_line(&mut writer, message)?;
        }
        drop(writer);
        let (reference_data, tags) = self.pipeline.write_recount_inputs(&self.generator)?;
        let (expected, marts) = (
            recount(&file, &reference_data, &tags)?,
            read_marts(self.pipeline.pool()).await?,
        );
        ensure!(!expected.products.is_empty(), "no closed order was produced");
        ensure!(expected == marts, "the marts differ from the recount");
        Ok(marts)
    }

    /// Produces orders at a steady rate until `task` is finished; returns the result of the task.
    ///
    /// # Errors
    /// When Kafka rejects a message.
    pub async fn produce_during<T>(&mut self, task: JoinHandle<T>) -> Result<T> {
        let mut ticks = tokio::time::interval(TICK_INTERVAL);
        while !task.is_finished() {
            ticks.tick().await;
            self.produce(ORDERS_PER_TICK).await?;
        }
        Ok(task.await?)
    }

    /// Marks the story as passed and deletes the namespace, without waiting.
    ///
    /// # Errors
    /// When the API server rejects the request.
    pub fn finish(self) -> Result<()> {
        self.guard.delete()
    }
}
