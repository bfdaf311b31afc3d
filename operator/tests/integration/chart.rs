//! Helm chart without a cluster: its rendered objects, the validation of its values, and the flags of its programs.

mod alerts;
mod fields;
mod helm;
mod monitors;
mod values;

use std::collections::BTreeSet;
use std::process;

use clap::Parser as _;
use crds::stage::Layer;
use k8s_openapi::api::core::v1::{ConfigMap, PodSpec};
use operator::command::{self, Cli, Command};
use operator::rbac::{LEASE_CREATE_RULE, LEASE_RULE, PolicyRule, STAGE_RULES};
use serde_json::{Value, json};

use self::helm::{ALL_FEATURES, find_object, helm, pod_specs, render, render_objects, repository_path};

const NAME: &str = "streamstage-operator";
const TWO_TENANTS: &[&str] = &["watchNamespaces[0]=team-a", "watchNamespaces[1]=team-b"];
const NAMESPACED: &[&str] = &["watchNamespaces[0]=orders"];

fn read_file(path: &str) -> String {
    std::fs::read_to_string(repository_path(path)).expect("read a file of the repository")
}

#[test]
fn the_chart_passes_helm_lint() {
    let chart = repository_path("chart");
    let output = helm(&["lint", "--strict", chart.to_str().expect("the path is UTF-8")]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
}

#[test]
fn objects_have_only_known_fields() {
    for values in [&[], NAMESPACED, ALL_FEATURES] {
        for object in render_objects(values) {
            let errors = fields::field_errors(&object);
            assert!(
                errors.is_empty(),
                "{} {}: {errors:#?}",
                object["kind"],
                object["metadata"]["name"]
            );
        }
    }
}

#[test]
fn objects_have_unique_names_and_the_labels_of_the_release() {
    for values in [&[], NAMESPACED, ALL_FEATURES] {
        let objects = render_objects(values);
        for object in &objects {
            let (kind, name) = (
                object["kind"].as_str().expect("the object has a kind"),
                object["metadata"]["name"]
                    .as_str()
                    .expect("the object has a name"),
            );
            let _: Value = find_object(&objects, kind, name);
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
    insta::assert_snapshot!(render(&["crds.install=false"]).expect("the default values are valid"));
}

#[test]
fn optional_objects_change_only_on_purpose() {
    // Verbatim copies of other files need no snapshot.
    let exclude_copies = ["crds.install=false", "monitoring.grafanaDashboard=false"];
    let values: Vec<&str> = ALL_FEATURES.iter().copied().chain(exclude_copies).collect();
    insta::assert_snapshot!(render(&values).expect("the values are valid"));
}

/// Permissions of a role, as group, resource and verb.
fn granted_permissions(role: &Value) -> BTreeSet<[String; 3]> {
    let strings = |rule: &Value, field: &str| -> Vec<String> {
        serde_json::from_value(rule[field].clone()).expect("parse a list of strings")
    };
    let mut permissions = BTreeSet::new();
    for rule in role["rules"].as_array().expect("the role has rules") {
        let fields = rule.as_object().expect("the rule is an object").len();
        // The Lease is the only object whose name is known.
        let is_lease = rule["resourceNames"] == json!([NAME]) && rule["resources"] == json!(["leases"]);
        assert_eq!(
            fields,
            3 + usize::from(is_lease),
            "a rule has apiGroups, resources and verbs only: {rule}"
        );
        let verbs = strings(rule, "verbs");
        assert!(
            rule["resources"] != json!(["leases"]) || is_lease || verbs == ["create"],
            "{rule}"
        );
        for group in strings(rule, "apiGroups") {
            for resource in strings(rule, "resources") {
                for verb in strings(rule, "verbs") {
                    permissions.insert([group.clone(), resource.clone(), verb]);
                }
            }
        }
    }
    permissions
}

/// Permissions that the operator requires, as group, resource and verb.
fn required_permissions(rules: &[PolicyRule]) -> BTreeSet<[String; 3]> {
    let permissions = rules.iter().flat_map(|rule| {
        let verbs = rule.verbs.iter();
        verbs.map(|verb| [rule.group, rule.resource, verb].map(str::to_owned))
    });
    permissions.collect()
}

#[test]
fn the_operator_has_exactly_the_required_permissions() {
    for (values, role, namespace) in [
        (&[][..], "ClusterRole", json!(null)),
        (NAMESPACED, "Role", json!("orders")),
    ] {
        let objects = render_objects(values);
        let subject = json!([{"kind": "ServiceAccount", "name": NAME, "namespace": "streamstage"}]);
        for (kind, name, namespace, rules) in [
            (role, NAME.to_owned(), &namespace, &STAGE_RULES[..]),
            (
                "Role",
                format!("{NAME}-lease"),
                &json!("streamstage"),
                &[LEASE_RULE, LEASE_CREATE_RULE],
            ),
        ] {
            let object: Value = find_object(&objects, kind, &name);
            assert_eq!(
                granted_permissions(&object),
                required_permissions(rules),
                "{kind} {name}"
            );
            assert_eq!(&object["metadata"]["namespace"], namespace, "{kind} {name}");
            let binding: Value = find_object(&objects, &format!("{kind}Binding"), &name);
            assert_eq!(binding["roleRef"]["kind"], kind);
            assert_eq!(binding["roleRef"]["name"], name);
            assert_eq!(binding["subjects"], subject);
            assert_eq!(&binding["metadata"]["namespace"], namespace, "{kind} {name}");
        }
        let bindings = objects.iter().filter(|object| !object["subjects"].is_null());
        assert_eq!(bindings.count(), 2, "two roles are bound");
    }
}

#[test]
fn an_operator_for_a_list_of_namespaces_has_no_permission_in_others() {
    let objects = render_objects(TWO_TENANTS);
    let roles = |kind: &str| -> Vec<String> {
        let of_kind = objects.iter().filter(|object| object["kind"] == kind);
        of_kind
            .map(|object| {
                let metadata = &object["metadata"];
                format!(
                    "{}/{}",
                    metadata["namespace"].as_str().unwrap_or("*"),
                    metadata["name"]
                )
            })
            .collect()
    };
    for kind in ["Role", "RoleBinding"] {
        let mut found = roles(kind);
        found.sort();
        assert_eq!(
            found,
            [
                "streamstage/\"streamstage-operator-lease\"",
                "team-a/\"streamstage-operator\"",
                "team-b/\"streamstage-operator\"",
            ],
            "{kind}"
        );
    }
    assert_eq!(
        roles("ClusterRole"),
        Vec::<String>::new(),
        "no right of users by default"
    );
    assert_eq!(roles("ClusterRoleBinding"), Vec::<String>::new());
}

/// Checks the Pod Security Standard "restricted", a read-only root file system and resources. An error names the rule.
fn check_restricted(pod: &PodSpec) -> Result<(), String> {
    let require = |is_satisfied: bool, rule: &str| is_satisfied.then_some(()).ok_or(rule.to_owned());
    let security = pod
        .security_context
        .as_ref()
        .ok_or("the pod has no security context")?;
    require(security.run_as_non_root == Some(true), "runAsNonRoot")?;
    require(security.run_as_user == Some(65532), "runAsUser")?;
    let seccomp = security
        .seccomp_profile
        .as_ref()
        .map(|profile| profile.type_.as_str());
    require(seccomp == Some("RuntimeDefault"), "seccompProfile")?;
    let host = [pod.host_network, pod.host_pid, pod.host_ipc];
    require(
        host.iter().all(|host| !host.unwrap_or_default()),
        "host namespaces",
    )?;
    for volume in pod.volumes.iter().flatten() {
        require(volume.host_path.is_none(), "hostPath")?;
    }
    for container in pod.containers.iter().chain(pod.init_containers.iter().flatten()) {
        let security = container
            .security_context
            .as_ref()
            .ok_or("a container has no security context")?;
        require(
            security.allow_privilege_escalation == Some(false),
            "allowPrivilegeEscalation",
        )?;
        require(
            security.read_only_root_filesystem == Some(true),
            "readOnlyRootFilesystem",
        )?;
        require(security.privileged != Some(true), "privileged")?;
        let capabilities = security.capabilities.clone().unwrap_or_default();
        require(
            capabilities.drop == Some(vec!["ALL".to_owned()]) && capabilities.add.is_none(),
            "capabilities",
        )?;
        let resources = container.resources.clone().unwrap_or_default();
        require(
            resources
                .requests
                .is_some_and(|quantities| quantities.contains_key("cpu")),
            "requests",
        )?;
        require(
            resources
                .limits
                .is_some_and(|quantities| quantities.contains_key("memory")),
            "limits",
        )?;
    }
    Ok(())
}

#[test]
fn pods_comply_with_the_restricted_standard_and_have_a_read_only_root() {
    let mut pods = pod_specs(&render_objects(ALL_FEATURES));
    pods.sort_by(|(left, _), (right, _)| left.cmp(right));
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
        assert_eq!(check_restricted(pod), Ok(()), "{name}");
    }
}

/// Parses the arguments of the first container of a pod, as the operator does.
fn pod_command(values: &[&str], pod: &str) -> Command {
    let pods = pod_specs(&render_objects(values));
    let (_, pod) = pods.iter().find(|(name, _)| name == pod).expect("the pod exists");
    let arguments = pod.containers[0]
        .args
        .clone()
        .expect("the container has arguments");
    let arguments = ["operator".to_owned()].into_iter().chain(arguments);
    Cli::try_parse_from(arguments)
        .expect("the operator accepts the flags")
        .command
}

fn run_flags(values: &[&str]) -> command::run::Run {
    match pod_command(values, "Deployment streamstage-operator") {
        Command::Run(flags) => flags,
        other => unreachable!("the Deployment runs another command: {other:?}"),
    }
}

#[test]
fn the_operator_gets_the_flags_of_the_values() {
    let flags = run_flags(&[]);
    assert_eq!(flags.worker_image, "streamstage/worker:0.1.0");
    assert_eq!(flags.image_pull_secrets, Vec::<String>::new());
    assert_eq!(flags.scope.watch_namespaces, Vec::<String>::new());
    assert_eq!(flags.allow_list.allowed_hosts, []);
    assert_eq!(flags.scope.lease_name, NAME);
    assert_eq!(flags.scope.lease_namespace.as_deref(), Some("streamstage"));
    assert_eq!(
        flags.worker_requests,
        "cpu=100m,memory=64Mi".parse().expect("valid quantities")
    );
    assert_eq!(
        flags.worker_limits,
        "memory=256Mi".parse().expect("valid quantities")
    );

    assert_eq!(
        run_flags(TWO_TENANTS).scope.watch_namespaces,
        ["team-a", "team-b"]
    );
    let flags = run_flags(&[
        "image.registry=registry.example.com/team/",
        "image.tag=0.2.0",
        "image.pullPolicy=Always",
        "imagePullSecrets[0].name=one",
        "imagePullSecrets[1].name=two",
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
fn helm_test_checks_with_the_flags_of_the_operator() {
    for values in [&[], NAMESPACED] {
        let flags = run_flags(values);
        let Command::Check(check) = pod_command(values, "Pod streamstage-operator-check") else {
            panic!("the test pod runs another command");
        };
        assert_eq!(check.scope.watch_namespaces, flags.scope.watch_namespaces);
        assert_eq!(check.scope.lease_name, flags.scope.lease_name);
        assert_eq!(check.scope.lease_namespace, flags.scope.lease_namespace);
    }
}

#[test]
fn the_migration_config_is_a_valid_stage_with_the_warehouse_of_the_values() {
    let values: Vec<&str> = ALL_FEATURES
        .iter()
        .copied()
        .chain([
            "migration.warehouse.port=6432",
            "migration.warehouse.sslMode=verify-full",
        ])
        .collect();
    let objects = render_objects(&values);
    let config: ConfigMap = find_object(&objects, "ConfigMap", "streamstage-migrate");
    let document = &config.data.expect("the ConfigMap has data")["stage.yaml"];
    let stages = crds::document::parse(document).expect("the worker accepts the stage");
    let stage = &stages[0];
    assert_eq!((stages.len(), stage.spec.layer), (1, Layer::Cdm));
    let warehouse = json!({"host": "postgres", "port": 6432, "database": "orders", "sslMode": "verify-full",
        "authSecretName": "orders-postgres", "connectionsPerWorker": 2});
    assert_eq!(json!(stage.spec.warehouse), warehouse);

    let job: Value = find_object(&objects, "Job", "streamstage-migrate");
    let mounts = &job["spec"]["template"]["spec"]["containers"][0]["volumeMounts"];
    assert_eq!(mounts[1]["mountPath"], "/etc/streamstage/secrets/orders-postgres");
}

#[test]
fn a_digest_takes_the_place_of_the_tag_in_every_container() {
    let digest = |digit: &str| format!("sha256:{}", digit.repeat(64));
    let (operator, worker) = (digest("1"), digest("2"));
    let digests = [
        format!("image.digest.operator={operator}"),
        format!("image.digest.worker={worker}"),
    ];
    let values: Vec<&str> = ALL_FEATURES
        .iter()
        .copied()
        .chain(digests.iter().map(String::as_str))
        .collect();
    let references = ["operator", "worker"].map(|name| format!("streamstage/{name}"));
    let rendered = render(&values).expect("the values are valid");
    let images: Vec<&str> = rendered
        .lines()
        .filter(|line| references.iter().any(|reference| line.contains(reference)))
        .collect();
    // The operator, its check and the flag for the workers, and the migration.
    assert_eq!(images.len(), 4, "{images:#?}");
    for image in images {
        let digest = if image.contains("streamstage/operator") {
            &operator
        } else {
            &worker
        };
        assert!(
            image
                .trim_end()
                .trim_end_matches('"')
                .ends_with(&format!("@{digest}")),
            "{image}"
        );
    }
}

#[test]
fn invalid_values_are_rejected_by_name() {
    for (values, path) in [
        (&["operator.replica=3"][..], "'replica' not allowed"),
        (&["replicas=3"], "'replicas' not allowed"),
        (&["operator.replicas=0"], "/operator/replicas"),
        (&["operator.replicas=many"], "/operator/replicas"),
        (&["image.pullPolicy=Sometimes"], "/image/pullPolicy"),
        (&["image.digest.worker=latest"], "/image/digest/worker"),
        (
            &["image.digest=sha256:0000000000000000000000000000000000000000000000000000000000000000"],
            "/image/digest",
        ),
        (&["imagePullSecrets[0]=registry"], "/imagePullSecrets/0"),
        (&["watchNamespaces[0]=Orders"], "/watchNamespaces/0"),
        (&["watchNamespace=orders"], "'watchNamespace' not allowed"),
        (&["allowedHosts[0]=a.*"], "/allowedHosts/0"),
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
        // Without a port, the policy would allow all of them.
        (&["networkPolicy.kafkaPorts={}"], "/networkPolicy/kafkaPorts"),
        (
            &["networkPolicy.apiServerPorts={}"],
            "/networkPolicy/apiServerPorts",
        ),
        // The selector of the Deployment has this label.
        (
            &["operator.podLabels.app\\.kubernetes\\.io/name=other"],
            "app.kubernetes.io/name",
        ),
    ] {
        let error = render(values).expect_err(values[0]);
        assert!(error.contains(path), "{values:?}: {error}");
    }
}

/// Paths of all maps and lists in the values.
fn collections(path: &str, values: &Value) -> Vec<String> {
    let Some(fields) = values.as_object() else {
        return Vec::new();
    };
    let nested = fields
        .iter()
        .filter(|(_, value)| value.is_object() || value.is_array());
    nested
        .flat_map(|(field, value)| {
            let path = [path, field].join(if path.is_empty() { "" } else { "." });
            let inner = collections(&path, value);
            [vec![path], inner].concat()
        })
        .collect()
}

#[test]
fn a_value_that_is_null_is_rejected_by_name_unless_it_may_be_missing() {
    let values: Value = serde_saphyr::from_str(&read_file("chart/values.yaml")).expect("parse the values");
    let paths = collections("", &values);
    assert!(paths.len() > 20, "{paths:?}");
    for path in paths {
        if let Err(error) = render(&["networkPolicy.enabled=true", &format!("{path}=null")]) {
            let name = path.rsplit('.').next().expect("a name");
            assert!(
                error.contains(&format!("missing property '{name}'")),
                "{path}: {error}"
            );
        }
    }
}

#[test]
fn the_shipped_crd_is_the_output_of_operator_crd() {
    let output = process::Command::new(env!("CARGO_BIN_EXE_operator"))
        .arg("crd")
        .output()
        .expect("run operator crd");
    let printed = String::from_utf8(output.stdout).expect("UTF-8 output");
    assert!(
        read_file("chart/files/streamstages.yaml") == printed,
        "chart/files/streamstages.yaml is out of date: run `make crd`"
    );
}

#[test]
fn the_installed_crd_is_the_shipped_one_and_survives_uninstall() {
    let mut installed: Value = find_object(
        &render_objects(&[]),
        "CustomResourceDefinition",
        "streamstages.streamstage.dev",
    );
    let metadata = installed["metadata"]
        .as_object_mut()
        .expect("the CRD has metadata");
    metadata.remove("labels");
    let annotations = metadata.remove("annotations");
    assert_eq!(annotations, Some(json!({"helm.sh/resource-policy": "keep"})));
    let shipped: Value =
        serde_saphyr::from_str(&read_file("chart/files/streamstages.yaml")).expect("parse the YAML");
    assert_eq!(installed, shipped);
    let objects = render_objects(&["crds.install=false"]);
    assert!(
        objects
            .iter()
            .all(|object| object["kind"] != "CustomResourceDefinition")
    );
}

#[test]
fn the_readme_describes_every_value() {
    let yaml: Value = serde_saphyr::from_str(&read_file("chart/values.yaml")).expect("parse the YAML");
    let schema: Value = serde_json::from_str(&read_file("chart/values.schema.json")).expect("parse the JSON");
    assert_eq!(values::missing_values(&yaml, &schema), Vec::<String>::new());
    let table = values::markdown_table(&yaml, &schema).expect("the schema describes every value");
    assert!(
        read_file("chart/README.md").contains(&table),
        "chart/README.md is out of date: replace its table of values with\n{table}"
    );
}
