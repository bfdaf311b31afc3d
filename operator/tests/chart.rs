//! The Helm chart, without a cluster: what it renders to, what it refuses, and that it fits the programs it starts.

#[path = "chart/alerts.rs"]
mod alerts;
#[path = "chart/fields.rs"]
mod fields;
#[path = "chart/helm.rs"]
mod helm;
#[path = "chart/monitors.rs"]
mod monitors;
#[path = "chart/values.rs"]
mod values;

use std::collections::BTreeSet;
use std::process;

use clap::Parser as _;
use crds::stage::Layer;
use k8s_openapi::api::core::v1::{ConfigMap, PodSpec};
use operator::command::{self, Cli, Command};
use operator::rights::{LEASE, Right, STAGES};
use serde_json::{Value, json};

use helm::{EVERYTHING, file, helm, objects, one, pods, text};

const NAME: &str = "streamstage-operator";
const NAMESPACED: &[&str] = &["watchNamespace=orders"];

fn read(path: &str) -> String {
    std::fs::read_to_string(file(path)).expect("a file of the repository")
}

#[test]
fn chart_passes_helm_lint() {
    let chart = file("chart");
    let output = helm(&["lint", "--strict", chart.to_str().expect("a path in UTF-8")]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
}

#[test]
fn objects_have_only_fields_that_kubernetes_knows() {
    for values in [&[], NAMESPACED, EVERYTHING] {
        for object in objects(values) {
            let complaints = fields::complaints(&object);
            assert!(
                complaints.is_empty(),
                "{} {}: {complaints:#?}",
                object["kind"],
                object["metadata"]["name"]
            );
        }
    }
}

#[test]
fn objects_are_named_once_and_labelled_as_the_release_of_the_chart() {
    for values in [&[], NAMESPACED, EVERYTHING] {
        let objects = objects(values);
        for object in &objects {
            let (kind, name) = (
                object["kind"].as_str().expect("a kind"),
                object["metadata"]["name"].as_str().expect("a name"),
            );
            let _: Value = one(&objects, kind, name);
            let labels = &object["metadata"]["labels"];
            assert_eq!(
                labels["app.kubernetes.io/instance"], "streamstage",
                "{kind} {name}"
            );
            assert_eq!(labels["app.kubernetes.io/managed-by"], "Helm", "{kind} {name}");
            assert_eq!(labels["helm.sh/chart"], "streamstage-0.1.0", "{kind} {name}");
        }
    }
}

#[test]
fn default_objects_change_only_on_purpose() {
    insta::assert_snapshot!(text(&["crds.install=false"]).expect("default values"));
}

#[test]
fn optional_objects_change_only_on_purpose() {
    // What is copied as it is needs no second copy.
    let without = ["crds.install=false", "monitoring.grafanaDashboard=false"];
    let values: Vec<&str> = EVERYTHING.iter().copied().chain(without).collect();
    insta::assert_snapshot!(text(&values).expect("values that the chart takes"));
}

/// Every verb on every kind of object that a role gives.
fn given(role: &Value) -> BTreeSet<[String; 3]> {
    let words = |rule: &Value, field: &str| -> Vec<String> {
        serde_json::from_value(rule[field].clone()).expect("a list of words")
    };
    let mut given = BTreeSet::new();
    for rule in role["rules"].as_array().expect("rules") {
        let fields = rule.as_object().expect("a rule").len();
        assert_eq!(fields, 3, "a rule of groups, resources and verbs: {rule}");
        for group in words(rule, "apiGroups") {
            for resource in words(rule, "resources") {
                for verb in words(rule, "verbs") {
                    given.insert([group.clone(), resource.clone(), verb]);
                }
            }
        }
    }
    given
}

/// Every verb on every kind of object that the operator names as needed.
fn needed(rights: &[Right]) -> BTreeSet<[String; 3]> {
    let verbs = rights.iter().flat_map(|right| {
        let verbs = right.verbs.iter();
        verbs.map(|verb| [right.group, right.resource, verb].map(str::to_owned))
    });
    verbs.collect()
}

#[test]
fn operator_has_the_rights_that_it_needs_and_no_other() {
    for (values, role, namespace) in [
        (&[][..], "ClusterRole", json!(null)),
        (NAMESPACED, "Role", json!("orders")),
    ] {
        let objects = objects(values);
        let subject = json!([{"kind": "ServiceAccount", "name": NAME, "namespace": "streamstage"}]);
        for (kind, name, namespace, rights) in [
            (role, NAME.to_owned(), &namespace, &STAGES[..]),
            ("Role", format!("{NAME}-lease"), &json!("streamstage"), &[LEASE]),
        ] {
            let object: Value = one(&objects, kind, &name);
            assert_eq!(given(&object), needed(rights), "{kind} {name}");
            assert_eq!(&object["metadata"]["namespace"], namespace, "{kind} {name}");
            let binding: Value = one(&objects, &format!("{kind}Binding"), &name);
            assert_eq!(binding["roleRef"]["kind"], kind);
            assert_eq!(binding["roleRef"]["name"], name);
            assert_eq!(binding["subjects"], subject);
            assert_eq!(&binding["metadata"]["namespace"], namespace, "{kind} {name}");
        }
        let bindings = objects.iter().filter(|object| !object["subjects"].is_null());
        assert_eq!(bindings.count(), 2, "no other role is bound");
    }
}

#[test]
fn operator_for_one_namespace_has_no_right_in_the_cluster() {
    let objects = objects(NAMESPACED);
    assert!(
        objects
            .iter()
            .all(|object| object["kind"] != "ClusterRoleBinding")
    );
}

fn is_restricted(pod: &PodSpec) -> Result<(), String> {
    let need = |holds: bool, what: &str| holds.then_some(()).ok_or(what.to_owned());
    let security = pod
        .security_context
        .as_ref()
        .ok_or("the pod has no security context")?;
    need(security.run_as_non_root == Some(true), "runAsNonRoot")?;
    need(security.run_as_user == Some(65532), "runAsUser")?;
    let seccomp = security
        .seccomp_profile
        .as_ref()
        .map(|profile| profile.type_.as_str());
    need(seccomp == Some("RuntimeDefault"), "seccompProfile")?;
    let host = [pod.host_network, pod.host_pid, pod.host_ipc];
    need(
        host.iter().all(|host| !host.unwrap_or_default()),
        "host namespaces",
    )?;
    for volume in pod.volumes.iter().flatten() {
        need(volume.host_path.is_none(), "hostPath")?;
    }
    for container in pod.containers.iter().chain(pod.init_containers.iter().flatten()) {
        let security = container
            .security_context
            .as_ref()
            .ok_or("a container has no security context")?;
        need(
            security.allow_privilege_escalation == Some(false),
            "allowPrivilegeEscalation",
        )?;
        need(
            security.read_only_root_filesystem == Some(true),
            "readOnlyRootFilesystem",
        )?;
        need(security.privileged != Some(true), "privileged")?;
        let capabilities = security.capabilities.clone().unwrap_or_default();
        need(
            capabilities.drop == Some(vec!["ALL".to_owned()]) && capabilities.add.is_none(),
            "capabilities",
        )?;
        let resources = container.resources.clone().unwrap_or_default();
        need(
            resources
                .requests
                .is_some_and(|amounts| amounts.contains_key("cpu")),
            "requests",
        )?;
        need(
            resources
                .limits
                .is_some_and(|amounts| amounts.contains_key("memory")),
            "limits",
        )?;
    }
    Ok(())
}

#[test]
fn pods_satisfy_the_restricted_standard_with_a_read_only_root() {
    let mut pods = pods(&objects(EVERYTHING));
    pods.sort_by(|(one, _), (other, _)| one.cmp(other));
    let names: Vec<&str> = pods.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        [
            "Deployment streamstage-operator",
            "Job streamstage-migrate",
            "Pod streamstage-operator-check"
        ]
    );
    for (name, pod) in &pods {
        assert_eq!(is_restricted(pod), Ok(()), "{name}");
    }
}

/// The command that the first container of a pod starts.
fn command(values: &[&str], pod: &str) -> Command {
    let pods = pods(&objects(values));
    let (_, pod) = pods.iter().find(|(name, _)| name == pod).expect("the pod");
    let arguments = pod.containers[0].args.clone().expect("arguments");
    let arguments = ["operator".to_owned()].into_iter().chain(arguments);
    Cli::try_parse_from(arguments)
        .expect("flags that the operator takes")
        .command
}

fn run_flags(values: &[&str]) -> command::run::Run {
    match command(values, "Deployment streamstage-operator") {
        Command::Run(flags) => flags,
        other => unreachable!("the chart starts {other:?}"),
    }
}

#[test]
fn operator_takes_the_flags_that_the_chart_gives() {
    let flags = run_flags(&[]);
    assert_eq!(flags.worker_image, "streamstage/worker:0.1.0");
    assert_eq!(flags.image_pull_secrets, Vec::<String>::new());
    assert_eq!(flags.scope.watch_namespace, None);
    assert_eq!(flags.scope.lease_name, NAME);
    assert_eq!(flags.scope.lease_namespace.as_deref(), Some("streamstage"));
    assert_eq!(
        flags.worker_requests,
        "cpu=100m,memory=64Mi".parse().expect("amounts")
    );
    assert_eq!(flags.worker_limits, "memory=256Mi".parse().expect("amounts"));

    assert_eq!(
        run_flags(NAMESPACED).scope.watch_namespace.as_deref(),
        Some("orders")
    );
    let flags = run_flags(&[
        "image.registry=registry.example.com/team/",
        "image.tag=0.2.0",
        "image.pullPolicy=Always",
        "image.pullSecrets[0].name=one",
        "image.pullSecrets[1].name=two",
        "worker.resources.requests=null",
    ]);
    assert_eq!(
        flags.worker_image,
        "registry.example.com/team/streamstage/worker:0.2.0"
    );
    assert_eq!(flags.image_pull_policy, "Always");
    assert_eq!(flags.image_pull_secrets, ["one", "two"]);
    assert_eq!(flags.worker_requests.0.len(), 0);
}

#[test]
fn helm_test_checks_what_the_operator_runs_with() {
    for values in [&[], NAMESPACED] {
        let flags = run_flags(values);
        let Command::Check(check) = command(values, "Pod streamstage-operator-check") else {
            panic!("the chart tests something else");
        };
        assert_eq!(check.scope.watch_namespace, flags.scope.watch_namespace);
        assert_eq!(check.scope.lease_name, flags.scope.lease_name);
        assert_eq!(check.scope.lease_namespace, flags.scope.lease_namespace);
    }
}

#[test]
fn migration_document_is_a_stage_of_the_warehouse_that_the_values_name() {
    let values: Vec<&str> = EVERYTHING
        .iter()
        .copied()
        .chain([
            "migration.warehouse.port=6432",
            "migration.warehouse.sslMode=verify-full",
        ])
        .collect();
    let objects = objects(&values);
    let config: ConfigMap = one(&objects, "ConfigMap", "streamstage-migrate");
    let document = &config.data.expect("a document")["stage.yaml"];
    let stages = crds::document::parse(document).expect("a stage that the worker takes");
    let stage = &stages[0];
    assert_eq!((stages.len(), stage.spec.layer), (1, Layer::Cdm));
    let warehouse = json!({"host": "postgres", "port": 6432, "database": "orders", "sslMode": "verify-full",
        "authSecret": "orders-postgres", "connectionsPerWorker": 2});
    assert_eq!(json!(stage.spec.warehouse), warehouse);

    let job: Value = one(&objects, "Job", "streamstage-migrate");
    let mounts = &job["spec"]["template"]["spec"]["containers"][0]["volumeMounts"];
    assert_eq!(mounts[1]["mountPath"], "/etc/streamstage/secrets/orders-postgres");
}

#[test]
fn values_that_make_no_sense_are_refused_by_name() {
    for (values, named) in [
        (&["operator.replica=3"][..], "'replica' not allowed"),
        (&["replicas=3"], "'replicas' not allowed"),
        (&["operator.replicas=0"], "/operator/replicas"),
        (&["operator.replicas=many"], "/operator/replicas"),
        (&["image.pullPolicy=Sometimes"], "/image/pullPolicy"),
        (&["image.pullSecrets[0]=registry"], "/image/pullSecrets/0"),
        (&["watchNamespace=Orders"], "/watchNamespace"),
        (
            &["worker.resources.limits.memory=lots"],
            "/worker/resources/limits/memory",
        ),
        (&["migration.enabled=true"], "/migration/warehouse/host"),
        (
            &["migration.warehouse.sslMode=on"],
            "/migration/warehouse/sslMode",
        ),
        (&["migration.warehouse.port=70000"], "/migration/warehouse/port"),
        (&["monitoring.interval=30"], "/monitoring/interval"),
        (
            &["networkPolicy.kafkaPorts[0]=kafka"],
            "/networkPolicy/kafkaPorts/0",
        ),
    ] {
        let refusal = text(values).expect_err(values[0]);
        assert!(refusal.contains(named), "{values:?}: {refusal}");
    }
}

#[test]
fn shipped_definition_is_the_one_that_the_operator_prints() {
    let output = process::Command::new(env!("CARGO_BIN_EXE_operator"))
        .arg("crd")
        .output()
        .expect("run operator crd");
    let printed = String::from_utf8(output.stdout).expect("YAML in UTF-8");
    assert!(
        read("chart/files/streamstages.yaml") == printed,
        "chart/files/streamstages.yaml is out of date: run `make crd`"
    );
}

#[test]
fn installed_definition_is_the_shipped_one_and_is_kept_on_uninstall() {
    let mut installed: Value = one(
        &objects(&[]),
        "CustomResourceDefinition",
        "streamstages.streamstage.dev",
    );
    let metadata = installed["metadata"].as_object_mut().expect("metadata");
    metadata.remove("labels");
    let annotations = metadata.remove("annotations");
    assert_eq!(annotations, Some(json!({"helm.sh/resource-policy": "keep"})));
    let shipped: Value = serde_saphyr::from_str(&read("chart/files/streamstages.yaml")).expect("YAML");
    assert_eq!(installed, shipped);
    let objects = objects(&["crds.install=false"]);
    assert!(
        objects
            .iter()
            .all(|object| object["kind"] != "CustomResourceDefinition")
    );
}

#[test]
fn every_value_is_described_in_the_readme() {
    let yaml: Value = serde_saphyr::from_str(&read("chart/values.yaml")).expect("YAML");
    let schema: Value = serde_json::from_str(&read("chart/values.schema.json")).expect("JSON");
    assert_eq!(values::undocumented(&yaml, &schema), Vec::<String>::new());
    let table = values::table(&yaml, &schema).expect("a schema that describes every value");
    assert!(
        read("chart/README.md").contains(&table),
        "put this into chart/README.md:\n{table}"
    );
}
