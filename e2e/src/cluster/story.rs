//! One story: a namespace that admits restricted pods only, a Secret, a pipeline, and its three stages.
#![expect(clippy::disallowed_types, reason = "edge: reaches the cluster")]

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

use super::{Cluster, SOON, Scene, eventually};
use crate::orders::{Generator, Settings, send};
use crate::pipeline::{Pipeline, STAGES};
use crate::recount::{Recount, marts, recount};

/// The Secret that the stages of a story name.
const SECRET: &str = "orders-postgres";
/// Orders that flow beside something else, and the time between them.
const FEW: usize = 20;
const FLOW: Duration = Duration::from_millis(500);
/// How long the orders of a story may take to reach the marts.
const DRAINED: Duration = Duration::from_mins(3);

/// A namespace of the cluster with a pipeline of its own.
pub struct Story {
    /// Goes first: what is in the namespace is shown as the story left it.
    scene: Scene,
    /// The cluster.
    pub cluster: Cluster,
    /// Topics, database and dictionary.
    pub pipeline: Pipeline,
    /// The namespace.
    pub namespace: String,
    generator: Generator,
    messages: Vec<crate::orders::Message>,
}

impl Story {
    /// Makes the namespace, the Secret and the pipeline; applies no stage.
    ///
    /// # Errors
    /// When the cluster or a service refuses.
    pub async fn begin(name: &str, partitions: i32) -> Result<Self> {
        let cluster = Box::pin(Cluster::connect()).await?;
        let pipeline = Box::pin(Pipeline::create(&cluster.services, name, partitions)).await?;
        let namespace = pipeline.name().replace('_', "-");
        let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
        let restricted = serde_json::from_value(json!({
            "metadata": {"name": namespace, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
        }))?;
        namespaces.create(&PostParams::default(), &restricted).await?;
        let scene = Scene::of(&namespace);
        let generator = Generator::new(&Settings::default());
        pipeline.load_dictionary(&generator, 0).await?;
        let story = Self {
            scene,
            cluster,
            pipeline,
            namespace,
            generator,
            messages: Vec::new(),
        };
        story.create_secret().await?;
        Ok(story)
    }

    /// Creates the Secret that the stages name.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn create_secret(&self) -> Result<()> {
        let secret: Secret = serde_json::from_value(json!({
            "metadata": {"name": SECRET},
            "stringData": {"username": "postgres", "password": "streamstage"},
        }))?;
        self.api().create(&PostParams::default(), &secret).await?;
        Ok(())
    }

    /// The three stages of the pipeline as resources of this namespace, with two workers each.
    ///
    /// # Errors
    /// When the stage file is not valid.
    pub fn stages(&self) -> Result<Vec<StreamStage>> {
        let mut stages = crds::document::parse(&std::fs::read_to_string(self.pipeline.file())?)?;
        for stage in &mut stages {
            stage.spec.source.consumer_group = Some(stage.consumer_group());
            stage.metadata.namespace = Some(self.namespace.clone());
            stage.spec.warehouse.auth_secret = Some(SECRET.to_owned());
            stage.spec.scaling = Scaling {
                mode: ScalingMode::Manual,
                replicas: Some(2),
                ..Scaling::default()
            };
        }
        Ok(stages)
    }

    /// One of [`Story::stages`].
    ///
    /// # Errors
    /// As [`Story::stages`], or when there is no such stage.
    pub fn stage(&self, name: &str) -> Result<StreamStage> {
        let mut stages = self.stages()?.into_iter();
        stages
            .find(|stage| stage.name() == name)
            .with_context(|| format!("no stage {name}"))
    }

    /// Applies a stage as a person would.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn apply(&self, stage: &StreamStage) -> Result<()> {
        let parameters = PatchParams::apply("person").force();
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
            self.is(stage, ConditionType::Ready, "True").await?;
        }
        Ok(())
    }

    /// The objects of a kind in this namespace.
    #[must_use]
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.cluster.client.clone(), &self.namespace)
    }

    /// Waits until a condition of a stage, as of its present generation, has a status; returns it.
    ///
    /// # Errors
    /// When it does not come to that soon.
    pub async fn is(&self, stage: &str, type_: ConditionType, status: &str) -> Result<Condition> {
        let what = format!("{stage} is {type_} {status}");
        self.condition(&what, stage, type_, |condition| condition.status == status)
            .await
    }

    /// As [`Story::is`], for a reason.
    ///
    /// # Errors
    /// When it does not come to that soon.
    pub async fn says(&self, stage: &str, type_: ConditionType, reason: &str) -> Result<Condition> {
        let what = format!("{stage} is {type_} for the reason {reason}");
        self.condition(&what, stage, type_, |condition| condition.reason == reason)
            .await
    }

    async fn condition(
        &self,
        what: &str,
        stage: &str,
        type_: ConditionType,
        matches: impl Fn(&Condition) -> bool,
    ) -> Result<Condition> {
        let (stages, type_) = (self.api::<StreamStage>(), type_.to_string());
        eventually(what, &self.namespace, SOON, async || {
            let stage = stages.get(stage).await?;
            let conditions = stage.status.map(|status| status.conditions).unwrap_or_default();
            let found = conditions.into_iter().find(|condition| condition.type_ == type_);
            let current =
                found.filter(|condition| condition.observed_generation == stage.metadata.generation);
            Ok(current.filter(&matches))
        })
        .await
    }

    /// Waits until the Deployment of a stage satisfies `holds`; returns it.
    ///
    /// # Errors
    /// When it does not soon.
    pub async fn deployment(
        &self,
        what: &str,
        stage: &str,
        holds: impl Fn(&Deployment) -> bool,
    ) -> Result<Deployment> {
        let (deployments, name) = (self.api::<Deployment>(), format!("{stage}-worker"));
        eventually(what, &self.namespace, SOON, async || {
            Ok(Some(deployments.get(&name).await?).filter(&holds))
        })
        .await
    }

    /// The pods of a stage.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn pods(&self, stage: &str) -> Result<Vec<Pod>> {
        let of_stage = ListParams::default().labels(&format!("streamstage.dev/stage={stage}"));
        Ok(self.api::<Pod>().list(&of_stage).await?.items)
    }

    /// Sends a history of `orders` orders, after those that were sent before.
    ///
    /// # Errors
    /// When Kafka refuses one.
    pub async fn produce(&mut self, orders: usize) -> Result<()> {
        let messages: Vec<_> = self.generator.history(orders).collect();
        self.pipeline
            .produce(self.messages.len() as u64, messages.iter().cloned())
            .await?;
        self.messages.extend(messages);
        Ok(())
    }

    /// Waits until everything sent is in the marts, and compares them with the recount of the messages.
    ///
    /// # Errors
    /// When they do not get there, or differ.
    pub async fn reached_the_marts(&self) -> Result<Recount> {
        self.pipeline.drained(DRAINED).await?;
        let file = self.pipeline.folder().join("messages.json");
        let mut writer = std::io::BufWriter::new(std::fs::File::create(&file)?);
        for message in &self.messages {
            send::write_line(&mut writer, message)?;
        }
        drop(writer);
        let (dictionary, tags) = self.pipeline.write_recount_inputs(&self.generator)?;
        let (expected, found) = (
            recount(&file, &dictionary, &tags)?,
            marts(self.pipeline.pool()).await?,
        );
        ensure!(!expected.products.is_empty(), "no closed order was sent");
        ensure!(expected == found, "the marts differ from the recount");
        Ok(found)
    }

    /// Sends a few orders again and again until `meanwhile` has ended; returns what it came to.
    ///
    /// # Errors
    /// When Kafka refuses one.
    pub async fn produce_during<T>(&mut self, meanwhile: JoinHandle<T>) -> Result<T> {
        let mut tick = tokio::time::interval(FLOW);
        while !meanwhile.is_finished() {
            tick.tick().await;
            self.produce(FEW).await?;
        }
        Ok(meanwhile.await?)
    }

    /// The story passed: deletes the namespace, and does not wait.
    ///
    /// # Errors
    /// When the API server refuses.
    pub fn end(self) -> Result<()> {
        self.scene.end()
    }
}
