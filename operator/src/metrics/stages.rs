//! Metrics of lag and scaling, by stage. Only the leader exports them.
//!
//! [`StageMetricsCollector`] reads its gauges from [`LagStore`] at each scrape: the state of a stage has one source, and
//! its gauges end with the stage.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crds::StreamStageStatus;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeGaugeValue, EncodeLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::lag::offsets::LagErrorReason;
use crate::lag::store::{LagStore, StageState};
use crate::scale::load::Load;
use crate::stage_summary::StageRef;

/// Gauge by stage: consumer lag; absent while the lag is unknown, like the next four.
pub const LAG_RECORDS: &str = "streamstage_operator_lag_records";
/// Gauge by stage and partition: consumer lag.
pub const PARTITION_LAG_RECORDS: &str = "streamstage_operator_partition_lag_records";
/// Gauge by stage: drain time in seconds; also absent while the lag does not shrink.
pub const DRAIN_SECONDS: &str = "streamstage_operator_drain_seconds";
/// Gauge by stage: arrival rate.
pub const ARRIVAL_RECORDS_PER_SECOND: &str = "streamstage_operator_arrival_records_per_second";
/// Gauge by stage: processing rate.
pub const PROCESSED_RECORDS_PER_SECOND: &str = "streamstage_operator_processed_records_per_second";
/// Gauge by stage: desired replicas.
pub const DESIRED_REPLICAS: &str = "streamstage_operator_desired_replicas";
/// Gauge by stage: ready replicas.
pub const READY_REPLICAS: &str = "streamstage_operator_ready_replicas";
/// Gauge by stage: recommended replicas; only in the mode Recommend.
pub const RECOMMENDED_REPLICAS: &str = "streamstage_operator_recommended_replicas";
/// Counter by stage and direction: scaling steps `up` and `down`.
pub const SCALE_EVENTS: &str = "streamstage_operator_scale_events";
/// Gauge by stage and reason: 1 for the value of `status.scaling.limitedBy`.
pub const SCALING_LIMITED: &str = "streamstage_operator_scaling_limited";
/// Gauge by stage: 1 while the stage needs manual intervention, else 0.
pub const STALLED: &str = "streamstage_operator_stalled";
/// Histogram: seconds per poll round.
pub const LAG_POLL_DURATION_SECONDS: &str = "streamstage_operator_lag_poll_duration_seconds";
/// Counter by reason: failed lag polls of single stages.
pub const LAG_POLL_ERRORS: &str = "streamstage_operator_lag_poll_errors";

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ScaleLabels {
    namespace: String,
    stage: String,
    direction: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StageLabels {
    namespace: String,
    stage: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReasonLabels {
    reason: String,
}

/// Metrics that are updated by reconciles and lag polls.
#[derive(Clone, Debug)]
pub struct StageMetrics {
    scale_events: Family<ScaleLabels, Counter>,
    stalled: Family<StageLabels, Gauge>,
    lag_poll_duration: Histogram,
    lag_poll_errors: Family<ReasonLabels, Counter>,
}

impl StageMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            scale_events: Family::default(),
            stalled: Family::default(),
            lag_poll_duration: Histogram::new(exponential_buckets(0.001, 2.0, 14)),
            lag_poll_errors: Family::default(),
        };
        let help = "Scaling steps by direction: up or down";
        registry.register(SCALE_EVENTS, help, metrics.scale_events.clone());
        let help = "1 while the stage is stalled and needs manual intervention, else 0";
        registry.register(STALLED, help, metrics.stalled.clone());
        let help = "Seconds per poll round";
        registry.register(LAG_POLL_DURATION_SECONDS, help, metrics.lag_poll_duration.clone());
        let help = "Failed lag polls by reason";
        registry.register(LAG_POLL_ERRORS, help, metrics.lag_poll_errors.clone());
        metrics
    }

    /// Records a poll round.
    pub fn record_poll(&self, duration: Duration) {
        self.lag_poll_duration.observe(duration.as_secs_f64());
    }

    /// Counts a failed lag poll of one stage.
    pub fn record_poll_error(&self, reason: LagErrorReason) {
        let reason = format!("{reason:?}");
        self.lag_poll_errors.get_or_create(&ReasonLabels { reason }).inc();
    }

    /// Counts a scaling step if the desired replicas of the two statuses differ.
    pub fn record_scale_event(
        &self,
        stage: &StageRef,
        before: &StreamStageStatus,
        after: &StreamStageStatus,
    ) {
        if let Some((from, to)) = before.desired_replicas.zip(after.desired_replicas)
            && from != to
        {
            let direction = if to > from { "up" } else { "down" };
            self.scale_events
                .get_or_create(&scale_labels(stage, direction))
                .inc();
        }
    }

    /// Sets the stalled gauge of a stage.
    pub fn set_stalled(&self, stage: &StageRef, is_stalled: bool) {
        let gauge = self.stalled.get_or_create(&stage_labels(stage));
        gauge.set(i64::from(is_stalled));
    }

    /// Removes the metrics of a deleted stage.
    pub fn remove_stage(&self, stage: &StageRef) {
        self.stalled.remove(&stage_labels(stage));
        for direction in ["up", "down"] {
            self.scale_events.remove(&scale_labels(stage, direction));
        }
    }
}

fn stage_labels(stage: &StageRef) -> StageLabels {
    StageLabels {
        namespace: stage.namespace.clone().unwrap_or_default(),
        stage: stage.name.clone(),
    }
}

fn scale_labels(stage: &StageRef, direction: &'static str) -> ScaleLabels {
    ScaleLabels {
        namespace: stage.namespace.clone().unwrap_or_default(),
        stage: stage.name.clone(),
        direction,
    }
}

/// Exports the current state of every stage at each scrape.
#[derive(Debug)]
pub struct StageMetricsCollector(pub Arc<LagStore>);

impl Collector for StageMetricsCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let states = self.0.stage_states();
        encode_lag(&mut encoder, &states)?;
        encode_replicas(&mut encoder, &states)
    }
}

/// Encodes lag and rates of the stages whose lag is known: an outdated value is indistinguishable from a current one.
fn encode_lag(encoder: &mut DescriptorEncoder<'_>, states: &[StageState]) -> fmt::Result {
    let loads: Vec<(&StageState, &Load)> = states
        .iter()
        .filter(|state| state.view.lasting_error().is_none())
        .filter_map(|state| Some((state, state.view.load()?)))
        .collect();
    let mut encode_by_stage = |name, help, value: fn(&Load) -> Option<f64>| {
        let values = loads
            .iter()
            .filter_map(|(state, load)| Some((labels(state), value(load)?)));
        encode_gauge(encoder, name, help, values)
    };
    encode_by_stage(LAG_RECORDS, "Consumer lag in records", |load| {
        Some(to_f64(load.total_lag()))
    })?;
    encode_by_stage(
        DRAIN_SECONDS,
        "Seconds to zero lag at the current rates",
        Load::drain_seconds,
    )?;
    encode_by_stage(
        ARRIVAL_RECORDS_PER_SECOND,
        "Arrival rate in records per second",
        |load| Some(load.arrival_per_second()),
    )?;
    encode_by_stage(
        PROCESSED_RECORDS_PER_SECOND,
        "Processing rate in records per second",
        |load| Some(load.processed_per_second),
    )?;
    let partitions = loads.iter().flat_map(|(state, load)| {
        let labels = |partition: u32| labels_with(state, "partition", partition.to_string().into());
        let partitions = load.partitions.iter();
        partitions.map(move |partition| (labels(partition.partition), partition.lag))
    });
    let help = "Consumer lag of a partition in records";
    encode_gauge(encoder, PARTITION_LAG_RECORDS, help, partitions)
}

fn encode_replicas(encoder: &mut DescriptorEncoder<'_>, states: &[StageState]) -> fmt::Result {
    let mut encode_counts = |name, help, count: fn(&StageState) -> Option<u32>| {
        let values = states
            .iter()
            .filter_map(|state| Some((labels(state), count(state)?)));
        encode_gauge(encoder, name, help, values)
    };
    encode_counts(DESIRED_REPLICAS, "Desired replicas", |state| {
        state.worker_counts.desired
    })?;
    encode_counts(READY_REPLICAS, "Ready replicas", |state| {
        Some(state.worker_counts.ready)
    })?;
    encode_counts(
        RECOMMENDED_REPLICAS,
        "Recommended replicas, in the mode Recommend",
        |state| state.worker_counts.recommended,
    )?;
    let limits = states.iter().filter_map(|state| {
        let limited_by = state.worker_counts.limited_by?;
        Some((
            labels_with(state, "reason", format!("{limited_by:?}").into()),
            1_u32,
        ))
    });
    let help = "1 for the value of status.scaling.limitedBy";
    encode_gauge(encoder, SCALING_LIMITED, help, limits)
}

type Label<'l> = (&'static str, Cow<'l, str>);

fn labels(state: &StageState) -> [Label<'_>; 2] {
    let StageRef { name, namespace, .. } = &*state.target.stage;
    [
        ("namespace", namespace.as_deref().unwrap_or_default().into()),
        ("stage", name.as_str().into()),
    ]
}

fn labels_with<'l>(state: &'l StageState, name: &'static str, value: Cow<'l, str>) -> [Label<'l>; 3] {
    let [by_namespace, by_stage] = labels(state);
    [by_namespace, by_stage, (name, value)]
}

/// Encodes one gauge; without values it omits the descriptor too.
fn encode_gauge<'l, const N: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: impl Iterator<Item = ([Label<'l>; N], impl EncodeGaugeValue)>,
) -> fmt::Result {
    let mut values = values.peekable();
    if values.peek().is_none() {
        return Ok(());
    }
    let mut gauge = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in values {
        gauge.encode_family(&labels)?.encode_gauge(&value)?;
    }
    Ok(())
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a lag beyond 2^53 records needs no exact value"
)]
fn to_f64(records: u64) -> f64 {
    records as f64
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::lag::store;

    /// Records each metric once.
    pub(in crate::metrics) fn record_all(metrics: &StageMetrics) {
        let stage = StageRef::new("stg").within("orders");
        metrics.record_poll(Duration::from_millis(3));
        metrics.record_poll_error(LagErrorReason::Unreachable);
        let status = |desired_replicas| StreamStageStatus {
            desired_replicas: Some(desired_replicas),
            ..StreamStageStatus::default()
        };
        metrics.record_scale_event(&stage, &status(1), &status(2));
        metrics.set_stalled(&stage, true);
    }

    #[test]
    fn lag_is_exported_while_it_is_known_and_replicas_until_the_stage_is_removed() {
        let lag_store = Arc::<LagStore>::default();
        let mut registry = Registry::default();
        registry.register_collector(Box::new(StageMetricsCollector(Arc::clone(&lag_store))));
        let text = || {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).expect("text");
            text
        };
        assert_eq!(text(), "# EOF\n");

        let target = store::tests::record_two_snapshots(&lag_store);
        insta::assert_snapshot!(text());

        store::tests::record_failures(&lag_store, &target);
        let unknown = text();
        assert!(
            !unknown.contains(LAG_RECORDS) && !unknown.contains(ARRIVAL_RECORDS_PER_SECOND),
            "{unknown}"
        );
        assert!(unknown.contains(READY_REPLICAS), "{unknown}");

        lag_store.remove(&target.stage);
        assert_eq!(text(), "# EOF\n");
    }
}
