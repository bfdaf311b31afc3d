//! Validation of a stage in Rust: the same rules as in the CRD's schema.
//!
//! The API server does not validate the files of a worker, and a cluster may still have an older CRD.
//! Never uses anything but the resource itself: a missing topic, for example, is detected at run time.
//! First step after parsing; later steps process valid stages only.

use std::{collections::BTreeSet, ops::RangeInclusive};

use super::{
    addresses::{is_broker_address, is_redis_url},
    bytes::Bytes,
    duration::Duration,
    pod_template::PodTemplate,
    rules::message,
    scaling::Scaling,
    schedule::parse_cron,
    spec::{Layer, StreamStage},
    violations::{MAX_TOPIC_NAME_LENGTH, Violation, Violations},
};

/// Maximum length of a stage name: leaves room for the suffixes of owned objects.
const MAX_STAGE_NAME_LENGTH: usize = 52;

/// Checks all rules that depend on the resource alone.
///
/// # Errors
/// All violations, in the order of the fields.
pub fn validate(stage: &StreamStage) -> Result<(), Vec<Violation>> {
    let mut violations = Violations::default();
    violations.check_name(stage);
    violations.check_source(stage);
    violations.check_reference_data(stage);
    violations.check_warehouse(stage);
    violations.check_output_topics(stage);
    violations.check_tags(stage);
    violations.check_processing(stage);
    violations.check_scaling(stage);
    violations.check_pod_template(stage);
    violations.0.is_empty().then_some(()).ok_or(violations.0)
}

impl Violations {
    fn check_name(&mut self, stage: &StreamStage) {
        self.require(
            !stage.name().is_empty(),
            "metadata.name",
            "is missing: set a name",
        );
        self.require(
            stage.name().len() <= MAX_STAGE_NAME_LENGTH,
            "metadata.name",
            message::NAME,
        );
        self.require(
            stage.name().is_empty() || is_stage_name(stage.name()),
            "metadata.name",
            message::NAME_CHARACTERS,
        );
    }

    fn check_source(&mut self, stage: &StreamStage) {
        let source = &stage.spec.source;
        let message = "must list between 1 and 32 brokers as `host:port`";
        self.require(
            (1..=32).contains(&source.bootstrap_servers.len()),
            "spec.source.bootstrapServers",
            message,
        );
        for (index, server) in source.bootstrap_servers.iter().enumerate() {
            let field = format!("spec.source.bootstrapServers[{index}]");
            let message = format!("`{server}` is not a broker address: use `host:port`");
            self.require(is_broker_address(server), &field, message);
        }
        self.require_topic_name("spec.source.topic", &source.topic);
        let group = stage.consumer_group();
        self.require_length("spec.source.consumerGroup", &group, 255);
        let message = "has control characters: remove them";
        self.require(
            !group.contains(|c: char| c.is_ascii_control()),
            "spec.source.consumerGroup",
            message,
        );
        self.require_secret_name("spec.source.authSecretName", source.auth_secret_name.as_ref());
    }

    fn check_reference_data(&mut self, stage: &StreamStage) {
        let reference_data = stage.spec.reference_data.as_ref();
        self.require(
            (stage.spec.layer == Layer::Stg) == reference_data.is_some(),
            "spec.referenceData",
            message::REFERENCE_DATA,
        );
        let Some(reference_data) = reference_data else {
            return;
        };
        let message = "must be `redis://host:port/database`, or `rediss://…` for TLS, without credentials: \
                       set referenceData.authSecretName instead";
        self.require(
            is_redis_url(&reference_data.url),
            "spec.referenceData.url",
            message,
        );
        self.require_secret_name(
            "spec.referenceData.authSecretName",
            reference_data.auth_secret_name.as_ref(),
        );
        self.require_in_range(
            "spec.referenceData.maxWait",
            &reference_data.max_wait,
            &seconds_range(0, 168 * 3600),
        );
    }

    fn check_warehouse(&mut self, stage: &StreamStage) {
        let warehouse = &stage.spec.warehouse;
        self.require_length("spec.warehouse.host", &warehouse.host, 1024);
        let message = "has more than 16 hosts: remove some";
        self.require(warehouse.hosts().count() <= 16, "spec.warehouse.host", message);
        for (text, host) in warehouse.host.split(',').zip(warehouse.hosts()) {
            let message = format!("`{text}` is not a host: use `host` or `host:port`, separated by commas");
            self.require(host.is_some(), "spec.warehouse.host", message);
        }
        self.require_in_range("spec.warehouse.port", &warehouse.port, &(1..=65_535));
        self.require_length("spec.warehouse.database", &warehouse.database, 63);
        self.require_secret_name(
            "spec.warehouse.authSecretName",
            warehouse.auth_secret_name.as_ref(),
        );
        self.require_in_range(
            "spec.warehouse.connectionsPerWorker",
            &warehouse.connections_per_worker,
            &(1..=2),
        );
        if let Some(budget) = warehouse.connection_budget {
            let field = "spec.warehouse.connectionBudget";
            self.require_in_range(field, &budget, &(1..=100_000));
            self.require(
                budget >= warehouse.connections_per_worker,
                field,
                message::CONNECTION_BUDGET,
            );
        }
    }

    fn check_output_topics(&mut self, stage: &StreamStage) {
        let (source, dead_letter) = (&stage.spec.source.topic, stage.dead_letter_topic());
        let output = stage.spec.output.as_ref().map(|output| &output.topic);
        self.require(
            (stage.spec.layer != Layer::Cdm) == output.is_some(),
            "spec.output",
            message::OUTPUT,
        );
        if let Some(output) = output {
            self.require_topic_name("spec.output.topic", output);
            self.require(output != source, "spec.output.topic", message::OUTPUT_TOPIC);
        }
        match &stage.spec.dead_letter {
            Some(explicit) => self.require_topic_name("spec.deadLetter.topic", &explicit.topic),
            // Only the length can be wrong here; the characters of the source topic are checked above.
            None => self.require_length("spec.deadLetter.topic", &dead_letter, MAX_TOPIC_NAME_LENGTH),
        }
        let is_distinct = dead_letter != *source && output != Some(&dead_letter);
        self.require(is_distinct, "spec.deadLetter.topic", message::DEAD_LETTER);
    }

    fn check_tags(&mut self, stage: &StreamStage) {
        let tags = &stage.spec.tags;
        self.require(
            stage.spec.layer == Layer::Cdm || tags.is_empty(),
            "spec.tags",
            message::TAGS,
        );
        self.require(
            tags.len() <= 500,
            "spec.tags",
            "has more than 500 rules: remove some",
        );
        let mut seen = BTreeSet::new();
        for (index, rule) in tags.iter().enumerate() {
            let field = format!("spec.tags[{index}]");
            self.require_length(&format!("{field}.category"), &rule.category, 200);
            self.require_in_range(&format!("{field}.threshold"), &rule.threshold, &(1..=1_000_000));
            if let Some(tag) = &rule.tag {
                self.require_length(&format!("{field}.tag"), tag, 200);
            }
            let message = format!(
                "repeats the rule for `{}` at {}: remove one",
                rule.category, rule.threshold
            );
            self.require(seen.insert((&rule.category, rule.threshold)), &field, message);
        }
    }

    fn check_processing(&mut self, stage: &StreamStage) {
        let (batch, limits) = (&stage.spec.batch, &stage.spec.limits);
        self.require_in_range("spec.batch.maxRecords", &batch.max_records, &(1..=50_000));
        self.require_in_range(
            "spec.batch.maxBytes",
            &batch.max_bytes,
            &(Bytes::from_kib(1)..=Bytes::from_mib(256)),
        );
        self.require_in_range(
            "spec.batch.maxWait",
            &batch.max_wait,
            &(Duration::from_millis(1)..=Duration::from_secs(60)),
        );
        self.require_in_range(
            "spec.batch.maxHold",
            &batch.max_hold,
            &seconds_range(0, 24 * 3600),
        );
        self.require_in_range(
            "spec.limits.maxRecordBytes",
            &limits.max_record_bytes,
            &(Bytes::from_kib(1)..=Bytes::from_mib(64)),
        );
        self.require_in_range(
            "spec.limits.maxClockSkew",
            &limits.max_clock_skew,
            &seconds_range(0, 8760 * 3600),
        );
        let message = format!(
            "`{}` is not a time zone: use an IANA name such as `Europe/Moscow`",
            stage.spec.timezone
        );
        self.require(stage.has_time_zone(), "spec.timezone", message);
    }

    fn check_scaling(&mut self, stage: &StreamStage) {
        let scaling = &stage.spec.scaling;
        self.require_in_range("spec.scaling.minReplicas", &scaling.min_replicas, &(0..=1000));
        if let Some(max_replicas) = scaling.max_replicas {
            self.require_in_range("spec.scaling.maxReplicas", &max_replicas, &(1..=1000));
            self.require(
                scaling.min_replicas <= max_replicas,
                "spec.scaling.minReplicas",
                message::MIN_REPLICAS,
            );
        }
        if let Some(replicas) = scaling.replicas {
            self.require_in_range("spec.scaling.replicas", &replicas, &(0..=1000));
        }
        self.check_schedules(scaling);
        self.check_target(stage);
        self.require_in_range(
            "spec.scaling.activationLag",
            &scaling.activation_lag,
            &(0..=1_000_000_000_000),
        );
        self.require_in_range(
            "spec.scaling.pollInterval",
            &scaling.poll_interval,
            &seconds_range(1, 600),
        );
        for (field, value) in [
            (
                "spec.scaling.scaleUp.stabilizationWindow",
                scaling.scale_up.stabilization_window,
            ),
            ("spec.scaling.scaleUp.cooldown", scaling.scale_up.cooldown),
            (
                "spec.scaling.scaleDown.stabilizationWindow",
                scaling.scale_down.stabilization_window,
            ),
            ("spec.scaling.scaleDown.cooldown", scaling.scale_down.cooldown),
        ] {
            self.require_in_range(field, &value, &seconds_range(0, 3600));
        }
        self.require_in_range(
            "spec.scaling.stuckAfter",
            &scaling.stuck_after,
            &seconds_range(60, 24 * 3600),
        );
    }

    fn check_pod_template(&mut self, stage: &StreamStage) {
        let field = "spec.worker.podTemplate";
        match PodTemplate::parse(&stage.spec.worker.pod_template) {
            Err(message) => self.require(false, field, message),
            Ok(template) => {
                for (path, message) in template.invalid_fields() {
                    self.require(false, &format!("{field}.{path}"), message);
                }
            }
        }
    }

    fn check_schedules(&mut self, scaling: &Scaling) {
        let field = "spec.scaling.schedules";
        let message = "has more than 16 schedules: remove some";
        self.require(scaling.schedules.len() <= 16, field, message);
        for (index, schedule) in scaling.schedules.iter().enumerate() {
            let field = format!("{field}[{index}]");
            for (name, result) in [
                ("start", parse_cron(&schedule.start).map(drop)),
                ("end", parse_cron(&schedule.end).map(drop)),
                ("timezone", schedule.time_zone().map(drop)),
            ] {
                let message = result.as_ref().err().map(ToString::to_string);
                self.require(
                    result.is_ok(),
                    &format!("{field}.{name}"),
                    message.unwrap_or_default(),
                );
            }
            for (name, replicas, smallest) in [
                ("minReplicas", schedule.min_replicas, 0),
                ("maxReplicas", schedule.max_replicas, 1),
            ] {
                let bounds = smallest..=1000;
                self.require_in_range(&format!("{field}.{name}"), &replicas.unwrap_or(smallest), &bounds);
            }
            let has_bound = schedule.min_replicas.or(schedule.max_replicas).is_some();
            self.require(has_bound, &field, message::SCHEDULE_BOUNDS);
            self.require(schedule.start != schedule.end, &field, message::SCHEDULE_WINDOW);
            let min = schedule.min_replicas.unwrap_or(scaling.min_replicas);
            let max = schedule.max_replicas.or(scaling.max_replicas);
            self.require(min <= max.unwrap_or(1000), &field, message::SCHEDULE_MIN);
        }
    }

    fn check_target(&mut self, stage: &StreamStage) {
        let target = &stage.spec.scaling.target;
        let has_both = target.drain_seconds.is_some() && target.lag_per_replica.is_some();
        self.require(!has_both, "spec.scaling.target", message::TARGET);
        if let Some(drain) = target.drain_seconds {
            self.require_in_range("spec.scaling.target.drainSeconds", &drain, &(1..=86_400));
        }
        if let Some(lag) = target.lag_per_replica {
            self.require_in_range("spec.scaling.target.lagPerReplica", &lag, &(1..=1_000_000_000));
        }
        if let Some(rate) = target.initial_rate {
            self.require_in_range("spec.scaling.target.initialRate", &rate, &(1..=1_000_000));
        }
    }
}

/// Returns true for a lower-case letter, followed by letters, digits and `-` that do not end with `-`.
fn is_stage_name(name: &str) -> bool {
    let is_allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
    name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.bytes().all(is_allowed)
        && !name.ends_with('-')
}

fn seconds_range(from: u64, to: u64) -> RangeInclusive<Duration> {
    Duration::from_secs(from)..=Duration::from_secs(to)
}
