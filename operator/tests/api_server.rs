#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "edge: starts an API server, and waits until a deadline"
)]
//! The operator and the schema on a real API server, whose audit log has every request.
//!
//! It needs the programs of Kubernetes, which `make e2e` builds.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crds::StreamStage;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, CustomResourceExt as _};
use operator::controller::{self, Settings};
use operator::defaults::WorkerDefaults;
use operator::metrics::Metrics;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

const DEADLINE: Duration = Duration::from_secs(90);
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Names that would address something else than a Secret of the stage's namespace.
const HOSTILE_NAMES: [&str; 2] = ["?watch=1&timeoutSeconds=86400", "../../team-b/secrets/x"];

/// API server with its store; both are stopped when it is dropped.
struct ApiServer {
    folder: tempfile::TempDir,
    processes: Vec<Child>,
    port: u16,
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        for process in self.processes.iter_mut().rev() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Program with all programs of Kubernetes.
fn kubebox() -> PathBuf {
    let path = std::env::var_os("STREAMSTAGE_KUBEBOX");
    path.expect("STREAMSTAGE_KUBEBOX is not set: run `make e2e`")
        .into()
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").port()
}

impl ApiServer {
    fn start(kubebox: &Path) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name).display().to_string();
        for program in ["etcd", "kube-apiserver"] {
            symlink(kubebox, folder.path().join(program)).expect("a link");
        }
        let openssl = ["genrsa", "-out", &path("sa.key"), "2048"];
        let generated = Command::new("openssl")
            .args(openssl)
            .output()
            .expect("run openssl");
        assert!(generated.status.success(), "{generated:?}");
        std::fs::write(path("tokens.csv"), "admin,admin,admin,system:masters\n").expect("write");
        let policy =
            json!({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": [{"level": "Metadata"}]});
        std::fs::write(path("audit.yaml"), policy.to_string()).expect("write");
        let [client, peer, port] = [free_port(), free_port(), free_port()];
        let (store, peer) = (
            format!("http://127.0.0.1:{client}"),
            format!("http://127.0.0.1:{peer}"),
        );
        let start = |program: &str, flags: &[String]| {
            let mut command = Command::new(folder.path().join(program));
            command.args(flags).stdout(Stdio::null()).stderr(Stdio::null());
            command.spawn().expect(program)
        };
        let processes = vec![
            start(
                "etcd",
                &[
                    format!("--data-dir={}", path("store")),
                    format!("--listen-client-urls={store}"),
                    format!("--advertise-client-urls={store}"),
                    format!("--listen-peer-urls={peer}"),
                    format!("--initial-advertise-peer-urls={peer}"),
                    format!("--initial-cluster=default={peer}"),
                    "--unsafe-no-fsync".to_owned(),
                ],
            ),
            start(
                "kube-apiserver",
                &[
                    format!("--etcd-servers={store}"),
                    "--bind-address=127.0.0.1".to_owned(),
                    format!("--secure-port={port}"),
                    format!("--cert-dir={}", path("certificates")),
                    format!("--service-account-key-file={}", path("sa.key")),
                    format!("--service-account-signing-key-file={}", path("sa.key")),
                    "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
                    format!("--token-auth-file={}", path("tokens.csv")),
                    "--authorization-mode=RBAC".to_owned(),
                    format!("--audit-policy-file={}", path("audit.yaml")),
                    format!("--audit-log-path={}", path("audit.log")),
                ],
            ),
        ];
        Self {
            folder,
            processes,
            port,
        }
    }

    /// Client with all permissions, once the API server is ready.
    async fn client(&self) -> Client {
        let kubeconfig: Kubeconfig = serde_json::from_value(json!({
            "clusters": [{"name": "c", "cluster": {
                "server": format!("https://127.0.0.1:{}", self.port), "insecure-skip-tls-verify": true}}],
            "users": [{"name": "u", "user": {"token": "admin"}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }))
        .expect("a kubeconfig");
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
        let client = Client::try_from(config.expect("a configuration")).expect("a client");
        let namespaces: Api<Namespace> = Api::all(client.clone());
        wait("the API server is ready", async || {
            namespaces.get_opt("default").await.ok().flatten()
        })
        .await;
        client
    }

    /// Lines of the audit log: one request each.
    fn requests(&self) -> Vec<String> {
        let log = std::fs::read_to_string(self.folder.path().join("audit.log")).unwrap_or_default();
        let uri = |line: &str| {
            serde_json::from_str::<Value>(line).ok()?["requestURI"]
                .as_str()
                .map(str::to_owned)
        };
        log.lines().filter_map(uri).collect()
    }
}

async fn wait<T>(description: &str, attempt: impl AsyncFn() -> Option<T>) -> T {
    let until = Instant::now() + DEADLINE;
    loop {
        if let Some(result) = attempt().await {
            return result;
        }
        assert!(Instant::now() < until, "{description}");
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// CRD of an earlier version: without patterns and with any pod template.
fn older_crd() -> Value {
    fn loosen(schema: &mut Value) {
        if let Some(keywords) = schema.as_object_mut() {
            keywords.remove("pattern");
            if let Some(template) = keywords.get_mut("podTemplate") {
                *template = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
            }
            keywords.values_mut().for_each(loosen);
        }
    }
    let mut crd = json!(StreamStage::crd());
    loosen(&mut crd["spec"]["versions"][0]["schema"]);
    crd
}

async fn install(client: &Client, crd: &Value) {
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    let name = "streamstages.streamstage.dev";
    let parameters = PatchParams::apply("test").force();
    let applied = crds
        .patch(name, &parameters, &Patch::Apply(crd))
        .await
        .expect("the CRD is valid");
    assert!(applied.metadata.uid.is_some());
    wait("the CRD is established", async || {
        let status = crds.get(name).await.ok()?.status?;
        let conditions = status.conditions.unwrap_or_default();
        conditions
            .iter()
            .find(|condition| condition.type_ == "Established" && condition.status == "True")
            .cloned()
    })
    .await;
}

/// Stage whose Kafka does not answer; the fields of each section of `spec` are added.
fn stage(name: &str, spec: &Value) -> DynamicObject {
    let mut stage = json!({
        "apiVersion": "streamstage.dev/v1alpha1",
        "kind": "StreamStage",
        "metadata": {"name": name, "namespace": "orders"},
        "spec": {
            "layer": "cdm",
            "source": {"bootstrapServers": ["127.0.0.1:1"], "topic": "facts"},
            "warehouse": {"host": "postgres", "database": "orders"},
        },
    });
    for (section, fields) in spec.as_object().expect("an object") {
        for (field, value) in fields.as_object().expect("an object") {
            stage["spec"][section][field] = value.clone();
        }
    }
    serde_json::from_value(stage).expect("an object")
}

/// Starts the controller as `operator run` does.
fn start_controller(client: Client) -> CancellationToken {
    let stop = CancellationToken::new();
    let settings = Settings {
        namespaces: Vec::new(),
        defaults: WorkerDefaults {
            image: "streamstage/worker:1".to_owned(),
            image_pull_policy: "IfNotPresent".to_owned(),
            image_pull_secrets: Vec::new(),
            resources: k8s_openapi::api::core::v1::ResourceRequirements::default(),
        },
        allowed_hosts: ["127.0.0.1", "*.svc"]
            .map(|host| host.parse().expect(host))
            .to_vec(),
    };
    let recorder = kube::runtime::events::Recorder::new(client.clone(), "streamstage-operator".into());
    let metrics = Metrics::register(&mut Registry::default());
    tokio::spawn(controller::run(
        client,
        settings,
        metrics,
        Arc::default(),
        recorder,
        stop.clone(),
    ));
    stop
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_stages_are_rejected_by_the_schema_and_never_reach_the_api_server_through_the_operator() {
    let server = ApiServer::start(&kubebox());
    let client = server.client().await;
    install(&client, &older_crd()).await;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    for name in ["orders", "team-b"] {
        let namespace = serde_json::from_value(json!({"metadata": {"name": name}})).expect("a namespace");
        namespaces
            .create(&PostParams::default(), &namespace)
            .await
            .expect("create");
    }
    let resource = ApiResource::erase::<StreamStage>(&());
    let stages: Api<DynamicObject> = Api::namespaced_with(client.clone(), "orders", &resource);
    let privileged = json!({"worker": {"podTemplate": {"spec": {"hostNetwork": true,
        "containers": [{"name": "worker", "securityContext": {"privileged": true}}]}}}});
    let mut hostile = vec![privileged];
    for name in HOSTILE_NAMES {
        hostile.push(json!({"source": {"authSecretName": name}}));
        hostile.push(json!({"warehouse": {"authSecretName": name}}));
        hostile.push(json!({"worker": {"podTemplate": {"spec": {"serviceAccountName": name}}}}));
    }

    // An older CRD lets them pass; the operator does not.
    for (index, spec) in hostile.iter().enumerate() {
        let stage = stage(&format!("hostile-{index}"), spec);
        stages
            .create(&PostParams::default(), &stage)
            .await
            .expect("the older CRD accepts it");
    }
    let stop = start_controller(client.clone());
    for index in 0..hostile.len() {
        let name = format!("hostile-{index}");
        wait(&name, async || {
            let stage = stages.get(&name).await.ok()?;
            let conditions = stage.data["status"]["conditions"].as_array()?.clone();
            conditions
                .into_iter()
                .find(|condition| condition["type"] == "Stalled" && condition["reason"] == "ConfigInvalid")
        })
        .await;
    }
    let requests = server.requests();
    assert!(
        requests
            .iter()
            .any(|request| request.contains("/hostile-0-worker")),
        "{requests:?}"
    );
    for request in requests {
        let is_hostile = ["timeoutSeconds=86400", "team-b/secrets", "/secrets/"]
            .iter()
            .any(|text| request.contains(text));
        assert!(!is_hostile, "{request}");
    }
    stop.cancel();

    // The current one rejects them.
    install(&client, &json!(StreamStage::crd())).await;
    let mut strict = PatchParams::apply("author").validation_strict();
    strict.dry_run = true;
    let apply = async |stage: DynamicObject| {
        let name = stage.metadata.name.clone().unwrap_or_default();
        stages.patch(&name, &strict, &Patch::Apply(&stage)).await
    };
    for (index, spec) in hostile.iter().enumerate() {
        let stage = stage(&format!("rejected-{index}"), spec);
        // Until the API server serves the new schema.
        wait(&format!("{spec} is rejected"), async || {
            apply(stage.clone()).await.err()
        })
        .await;
    }
    apply(stage("valid", &json!({})))
        .await
        .expect("a valid stage is accepted");
}

/// Applies a stage as the field manager, without taking fields over.
async fn apply_as(
    stages: &Api<DynamicObject>,
    manager: &str,
    stage: &DynamicObject,
) -> Result<DynamicObject, kube::Error> {
    let name = stage.metadata.name.clone().unwrap_or_default();
    let parameters = PatchParams::apply(manager).validation_strict();
    stages.patch(&name, &parameters, &Patch::Apply(stage)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stage_is_changed_from_git_and_by_autoscalers_without_a_conflict_with_defaults() {
    let server = ApiServer::start(&kubebox());
    let client = server.client().await;
    install(&client, &json!(StreamStage::crd())).await;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespace = serde_json::from_value(json!({"metadata": {"name": "orders"}})).expect("a namespace");
    namespaces
        .create(&PostParams::default(), &namespace)
        .await
        .expect("create");
    let resource = ApiResource::erase::<StreamStage>(&());
    let stages: Api<DynamicObject> = Api::namespaced_with(client, "orders", &resource);
    wait("the schema is served", async || {
        apply_as(&stages, "git", &stage("cdm", &json!({}))).await.ok()
    })
    .await;

    // The default of the target is not stored, so another one does not stand beside it.
    for target in [
        json!({"lagPerReplica": 1000}),
        json!({"initialRate": 200}),
        json!({"drainSeconds": 30}),
    ] {
        let changed = stage("cdm", &json!({"scaling": {"target": target}}));
        let changed = apply_as(&stages, "git", &changed)
            .await
            .expect("the target is accepted");
        assert_eq!(changed.data["spec"]["scaling"]["target"], target);
    }

    // An autoscaler owns the replicas, which the mode Auto ignores.
    let external = stage("cdm", &json!({"scaling": {"mode": "External", "replicas": 1}}));
    apply_as(&stages, "git", &external)
        .await
        .expect("the mode is accepted");
    let scale = json!({"spec": {"replicas": 4}});
    stages
        .patch_scale("cdm", &PatchParams::default(), &Patch::Merge(&scale))
        .await
        .expect("the stage is scaled");
    let automatic = stage("cdm", &json!({"scaling": {"mode": "Auto"}}));
    let automatic = apply_as(&stages, "git", &automatic)
        .await
        .expect("the mode is accepted");
    assert_eq!(automatic.data["spec"]["scaling"]["replicas"], 4);

    for spec in [
        json!({"source": {"topic": ".."}}),
        json!({"source": {"bootstrapServers": ["kafka:99999"]}}),
        json!({"warehouse": {"host": "db:99999"}}),
    ] {
        let rejected = apply_as(&stages, "git", &stage("rejected", &spec)).await;
        assert!(rejected.is_err(), "{spec}");
    }
    let tags = [1, 2, 1].map(|threshold| json!({"category": "a", "threshold": threshold}));
    let mut duplicate = stage("duplicate", &json!({}));
    duplicate.data["spec"]["tags"] = json!(tags);
    let error = stages.create(&PostParams::default(), &duplicate).await;
    let error = error.expect_err("two equal rules").to_string();
    assert!(error.contains("uplicate"), "{error}");
}
