//! The checks of the resource's schema once more, in Rust.
//!
//! An API server with an older resource definition checks less, and the worker reads plain files that nobody
//! has checked.
//! Must never ask anything but the resource itself: whether a topic exists is seen at run time.
//! First step after reading: nothing else looks at a stage that has a violation.

use std::{collections::BTreeSet, fmt, ops::RangeInclusive};

use super::{Bytes, Duration, Layer, ScalingMode, StreamStage, rules::message};

/// The longest name of a stage: the names of its objects are made from it.
const MAX_NAME: usize = 52;
/// The longest name of a Kafka topic.
const MAX_TOPIC: usize = 249;
/// The longest name of a Kubernetes object.
const MAX_OBJECT_NAME: usize = 253;

/// One thing that is wrong with a stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The field as a path, such as `spec.output.topic`.
    pub field: String,
    /// What is wrong and what to do.
    pub message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// Checks everything that can be known from the resource alone.
///
/// # Errors
/// All violations, in the order of the fields.
pub fn validate(stage: &StreamStage) -> Result<(), Vec<Violation>> {
    let mut findings = Findings::default();
    findings.name(stage);
    findings.source(stage);
    findings.dictionary(stage);
    findings.warehouse(stage);
    findings.topics(stage);
    findings.tags(stage);
    findings.processing(stage);
    findings.scaling(stage);
    findings.0.is_empty().then_some(()).ok_or(findings.0)
}

/// The violations found so far.
#[derive(Default)]
struct Findings(Vec<Violation>);

impl Findings {
    /// Notes a violation unless `holds`.
    fn need(&mut self, holds: bool, field: &str, message: impl Into<String>) {
        if !holds {
            self.0.push(Violation {
                field: field.to_owned(),
                message: message.into(),
            });
        }
    }

    fn within<T: PartialOrd + fmt::Display>(&mut self, field: &str, value: &T, bounds: &RangeInclusive<T>) {
        let message = format!(
            "{value} is out of bounds: must be between {} and {}",
            bounds.start(),
            bounds.end()
        );
        self.need(bounds.contains(value), field, message);
    }

    fn text(&mut self, field: &str, text: &str, longest: usize) {
        let message = format!(
            "has {} characters: must have between 1 and {longest}",
            text.chars().count()
        );
        self.need((1..=longest).contains(&text.chars().count()), field, message);
    }

    fn secret(&mut self, field: &str, name: Option<&String>) {
        if let Some(name) = name {
            self.text(field, name, MAX_OBJECT_NAME);
        }
    }

    fn topic(&mut self, field: &str, topic: &str) {
        self.text(field, topic, MAX_TOPIC);
        let plain = topic
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        self.need(
            plain,
            field,
            format!("`{topic}` is no topic name: use letters, digits, `.`, `_` and `-` only"),
        );
    }

    fn name(&mut self, stage: &StreamStage) {
        self.need(
            !stage.name().is_empty(),
            "metadata.name",
            "is missing: give the stage a name",
        );
        self.need(stage.name().len() <= MAX_NAME, "metadata.name", message::NAME);
        let label = stage
            .name()
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
        self.need(
            label,
            "metadata.name",
            "has other characters than lower-case letters, digits and `-`: replace them",
        );
    }

    fn source(&mut self, stage: &StreamStage) {
        let source = &stage.spec.source;
        let message = "must name between 1 and 32 brokers as `host:port`";
        self.need(
            (1..=32).contains(&source.bootstrap_servers.len()),
            "spec.source.bootstrapServers",
            message,
        );
        for (index, server) in source.bootstrap_servers.iter().enumerate() {
            let field = format!("spec.source.bootstrapServers[{index}]");
            let message = format!("`{server}` is no address: write `host:port`");
            self.need(is_address(server), &field, message);
        }
        self.topic("spec.source.topic", &source.topic);
        self.text("spec.source.consumerGroup", &stage.consumer_group(), 255);
        self.secret("spec.source.authSecret", source.auth_secret.as_ref());
    }

    fn dictionary(&mut self, stage: &StreamStage) {
        let dictionary = stage.spec.dictionary.as_ref();
        self.need(
            (stage.spec.layer == Layer::Stg) == dictionary.is_some(),
            "spec.dictionary",
            message::DICTIONARY,
        );
        let Some(dictionary) = dictionary else { return };
        let message = "must be `redis://host:port/database`, or `rediss://…` for TLS, without a login: \
                       credentials belong in dictionary.authSecret";
        self.need(is_redis_url(&dictionary.url), "spec.dictionary.url", message);
        self.secret("spec.dictionary.authSecret", dictionary.auth_secret.as_ref());
        self.within(
            "spec.dictionary.maxWait",
            &dictionary.max_wait,
            &seconds(0, 168 * 3600),
        );
    }

    fn warehouse(&mut self, stage: &StreamStage) {
        let warehouse = &stage.spec.warehouse;
        self.text("spec.warehouse.host", &warehouse.host, 253);
        self.within("spec.warehouse.port", &warehouse.port, &(1..=65_535));
        self.text("spec.warehouse.database", &warehouse.database, 63);
        self.secret("spec.warehouse.authSecret", warehouse.auth_secret.as_ref());
        self.within(
            "spec.warehouse.connectionsPerWorker",
            &warehouse.connections_per_worker,
            &(1..=2),
        );
        if let Some(budget) = warehouse.connection_budget {
            let field = "spec.warehouse.connectionBudget";
            self.within(field, &budget, &(1..=100_000));
            self.need(
                budget >= warehouse.connections_per_worker,
                field,
                message::CONNECTION_BUDGET,
            );
        }
    }

    fn topics(&mut self, stage: &StreamStage) {
        let (source, dead_letter) = (&stage.spec.source.topic, stage.dead_letter_topic());
        let output = stage.spec.output.as_ref().map(|output| &output.topic);
        self.need(
            (stage.spec.layer != Layer::Cdm) == output.is_some(),
            "spec.output",
            message::OUTPUT,
        );
        if let Some(output) = output {
            self.topic("spec.output.topic", output);
            self.need(output != source, "spec.output.topic", message::OUTPUT_TOPIC);
        }
        match &stage.spec.dead_letter {
            Some(named) => self.topic("spec.deadLetter.topic", &named.topic),
            // The source topic's own mistakes have been reported there.
            None => self.text("spec.deadLetter.topic", &dead_letter, MAX_TOPIC),
        }
        let distinct = dead_letter != *source && output != Some(&dead_letter);
        self.need(distinct, "spec.deadLetter.topic", message::DEAD_LETTER);
    }

    fn tags(&mut self, stage: &StreamStage) {
        let tags = &stage.spec.tags;
        self.need(
            stage.spec.layer == Layer::Cdm || tags.is_empty(),
            "spec.tags",
            message::TAGS,
        );
        self.need(
            tags.len() <= 500,
            "spec.tags",
            "has more than 500 rules: remove some",
        );
        let mut seen = BTreeSet::new();
        for (index, rule) in tags.iter().enumerate() {
            let field = format!("spec.tags[{index}]");
            self.text(&format!("{field}.category"), &rule.category, 200);
            self.within(&format!("{field}.threshold"), &rule.threshold, &(1..=1_000_000));
            if let Some(tag) = &rule.tag {
                self.text(&format!("{field}.tag"), tag, 200);
            }
            let message = format!(
                "repeats the rule for `{}` at {}: remove one",
                rule.category, rule.threshold
            );
            self.need(seen.insert((&rule.category, rule.threshold)), &field, message);
        }
    }

    fn processing(&mut self, stage: &StreamStage) {
        let (batch, limits) = (&stage.spec.batch, &stage.spec.limits);
        self.within("spec.batch.maxRecords", &batch.max_records, &(1..=50_000));
        self.within(
            "spec.batch.maxBytes",
            &batch.max_bytes,
            &(Bytes::from_kib(1)..=Bytes::from_mib(256)),
        );
        self.within(
            "spec.batch.maxWait",
            &batch.max_wait,
            &(Duration::from_millis(1)..=Duration::from_secs(60)),
        );
        self.within(
            "spec.limits.maxRecordBytes",
            &limits.max_record_bytes,
            &(Bytes::from_kib(1)..=Bytes::from_mib(64)),
        );
        self.within(
            "spec.limits.maxClockSkew",
            &limits.max_clock_skew,
            &seconds(0, 8760 * 3600),
        );
        let message = format!(
            "`{}` is no time zone: use an IANA name such as `Europe/Moscow`",
            stage.spec.timezone
        );
        self.need(stage.time_zone().is_ok(), "spec.timezone", message);
    }

    fn scaling(&mut self, stage: &StreamStage) {
        let scaling = &stage.spec.scaling;
        self.within("spec.scaling.minReplicas", &scaling.min_replicas, &(0..=1000));
        if let Some(most) = scaling.max_replicas {
            self.within("spec.scaling.maxReplicas", &most, &(1..=1000));
            self.need(
                scaling.min_replicas <= most,
                "spec.scaling.minReplicas",
                message::MIN_REPLICAS,
            );
        }
        if let Some(replicas) = scaling.replicas {
            self.within("spec.scaling.replicas", &replicas, &(0..=1000));
            let set_by_others = matches!(scaling.mode, ScalingMode::Manual | ScalingMode::External);
            self.need(set_by_others, "spec.scaling.replicas", message::REPLICAS);
        }
        self.target(stage);
        self.within(
            "spec.scaling.activationLag",
            &scaling.activation_lag,
            &(0..=1_000_000_000_000),
        );
        self.within(
            "spec.scaling.pollInterval",
            &scaling.poll_interval,
            &seconds(1, 600),
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
            self.within(field, &value, &seconds(0, 3600));
        }
        self.within(
            "spec.scaling.stuckAfter",
            &scaling.stuck_after,
            &seconds(60, 24 * 3600),
        );
    }

    fn target(&mut self, stage: &StreamStage) {
        let target = &stage.spec.scaling.target;
        let exactly_one = target.drain_seconds.is_some() != target.lag_per_replica.is_some();
        self.need(exactly_one, "spec.scaling.target", message::TARGET);
        if let Some(drain) = target.drain_seconds {
            self.within("spec.scaling.target.drainSeconds", &drain, &(1..=86_400));
        }
        if let Some(lag) = target.lag_per_replica {
            self.within("spec.scaling.target.lagPerReplica", &lag, &(1..=1_000_000_000));
        }
        self.within(
            "spec.scaling.target.initialRate",
            &target.initial_rate,
            &(1..=1_000_000),
        );
    }
}

fn seconds(from: u64, to: u64) -> RangeInclusive<Duration> {
    Duration::from_secs(from)..=Duration::from_secs(to)
}

/// Whether `server` is `host:port`, as the schema's pattern has it.
fn is_address(server: &str) -> bool {
    let Some((host, port)) = server.rsplit_once(':') else {
        return false;
    };
    let clean = !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || c == ',');
    clean
        && server.len() <= 261
        && (1..=5).contains(&port.len())
        && port.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether `url` has the form that the schema's pattern asks for.
fn is_redis_url(url: &str) -> bool {
    let rest = url
        .strip_prefix("redis://")
        .or_else(|| url.strip_prefix("rediss://"));
    let Some(rest) = rest.filter(|_| url.len() <= 512) else {
        return false;
    };
    let (host, database) = rest.split_once('/').unwrap_or((rest, "0"));
    let number = (1..=5).contains(&database.len()) && database.bytes().all(|byte| byte.is_ascii_digit());
    !host.is_empty() && !host.contains('@') && number
}
