//! The figures of lag and scaling, by stage. Only the operator that holds the lease has them.
//!
//! What is known of a stage is not kept twice: its gauges are told from [`Lags`] when they are asked for, and end with it.

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

use super::Metrics;
use crate::lag::UnknownReason;
use crate::poll::{Lags, Place, Seen};
use crate::scale::load::Load;

/// Records that are not committed yet, by stage.
pub const LAG: &str = "streamstage_operator_lag_records";
/// Records that are not committed yet, by stage and partition.
pub const PARTITION_LAG: &str = "streamstage_operator_partition_lag_records";
/// Seconds until the lag is gone; absent while it does not shrink.
pub const DRAIN: &str = "streamstage_operator_drain_seconds";
/// Records that arrive per second, by stage.
pub const ARRIVAL: &str = "streamstage_operator_arrival_records_per_second";
/// Records that are committed per second, by stage.
pub const PROCESSED: &str = "streamstage_operator_processed_records_per_second";
/// Workers by stage and kind: `desired`, `ready` or `recommended`.
pub const REPLICAS: &str = "streamstage_operator_replicas";
/// Moves of the number of workers, by stage and direction.
pub const SCALINGS: &str = "streamstage_operator_scalings";
/// What limits the number of workers of a stage: 1.
pub const LIMITED_BY: &str = "streamstage_operator_limited_by";
/// Whether a stage waits for a person, by stage: 1 or 0.
pub const STALLED: &str = "streamstage_operator_stalled";
/// Seconds of one round of lag readings.
pub const POLL_SECONDS: &str = "streamstage_operator_lag_poll_seconds";
/// Lag readings that failed, by reason.
pub const POLL_ERRORS: &str = "streamstage_operator_lag_poll_errors";

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Move {
    namespace: String,
    stage: String,
    kind: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfStage {
    namespace: String,
    stage: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfReason {
    reason: String,
}

/// What happened, counted.
#[derive(Clone, Debug)]
pub(super) struct LagMetrics {
    scalings: Family<Move, Counter>,
    stalled: Family<OfStage, Gauge>,
    poll_seconds: Histogram,
    poll_errors: Family<OfReason, Counter>,
}

impl LagMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            scalings: Family::default(),
            stalled: Family::default(),
            poll_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 14)),
            poll_errors: Family::default(),
        };
        registry.register(
            SCALINGS,
            "Moves of the number of workers",
            metrics.scalings.clone(),
        );
        registry.register(
            STALLED,
            "Whether a stage waits for a person",
            metrics.stalled.clone(),
        );
        registry.register(
            POLL_SECONDS,
            "Seconds of a round of lag readings",
            metrics.poll_seconds.clone(),
        );
        registry.register(
            POLL_ERRORS,
            "Lag readings that failed",
            metrics.poll_errors.clone(),
        );
        metrics
    }
}

impl Metrics {
    /// Counts a round of readings.
    pub fn polled(&self, took: Duration) {
        self.lag.poll_seconds.observe(took.as_secs_f64());
    }

    /// Counts a reading that failed.
    pub fn unread(&self, reason: UnknownReason) {
        let reason = format!("{reason:?}");
        self.lag.poll_errors.get_or_create(&OfReason { reason }).inc();
    }

    /// Counts a move.
    pub fn scaled(&self, place: &Place, before: &StreamStageStatus, after: &StreamStageStatus) {
        if let Some((from, to)) = before.desired_replicas.zip(after.desired_replicas)
            && from != to
        {
            let kind = if to > from { "up" } else { "down" };
            self.lag.scalings.get_or_create(&move_of(place, kind)).inc();
        }
    }

    /// Says whether a stage waits for a person.
    pub fn stalled(&self, place: &Place, is_stalled: bool) {
        let stalled = self.lag.stalled.get_or_create(&of_place(place));
        stalled.set(i64::from(is_stalled));
    }

    /// Drops the figures of a stage that is gone.
    pub fn forget(&self, place: &Place) {
        self.lag.stalled.remove(&of_place(place));
        for kind in ["up", "down"] {
            self.lag.scalings.remove(&move_of(place, kind));
        }
    }
}

fn of_place(place: &Place) -> OfStage {
    OfStage {
        namespace: place.namespace.clone().unwrap_or_default(),
        stage: place.name.clone(),
    }
}

fn move_of(place: &Place, kind: &'static str) -> Move {
    Move {
        namespace: place.namespace.clone().unwrap_or_default(),
        stage: place.name.clone(),
        kind,
    }
}

/// What is known of every stage at the moment.
#[derive(Debug)]
pub struct StageFigures(pub Arc<Lags>);

impl Collector for StageFigures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let stages = self.0.seen();
        // A figure that is no longer true is no figure.
        let known: Vec<(&Seen, &Load)> = stages
            .iter()
            .filter(|seen| seen.view.unknown().is_none())
            .filter_map(|seen| Some((seen, seen.view.load()?)))
            .collect();
        let mut by_stage = |name, help, figure: fn(&Load) -> Option<f64>| {
            let figures = known
                .iter()
                .filter_map(|(seen, load)| Some((of_stage(seen), figure(load)?)));
            write(&mut encoder, name, help, figures)
        };
        by_stage(LAG, "Records that are not committed yet", |load| {
            Some(records(load.total()))
        })?;
        by_stage(DRAIN, "Seconds until the lag is gone", Load::drain_seconds)?;
        by_stage(ARRIVAL, "Records that arrive per second", |load| {
            Some(load.arrival_per_second())
        })?;
        by_stage(PROCESSED, "Records that are committed per second", |load| {
            Some(load.processed_per_second)
        })?;
        let partitions = known.iter().flat_map(|(seen, load)| {
            let of = |partition: u32| with(seen, "partition", Cow::Owned(partition.to_string()));
            let partitions = load.partitions.iter();
            partitions.map(move |partition| (of(partition.partition), partition.lag))
        });
        let help = "Records of a partition that are not committed yet";
        write(&mut encoder, PARTITION_LAG, help, partitions)?;
        let replicas = stages.iter().flat_map(|seen| {
            let kinds = [
                ("desired", seen.workers.desired),
                ("ready", Some(seen.workers.ready)),
                ("recommended", seen.workers.recommended),
            ];
            kinds
                .into_iter()
                .filter_map(move |(kind, number)| Some((with(seen, "kind", kind.into()), number?)))
        });
        write(&mut encoder, REPLICAS, "Workers by kind", replicas)?;
        let limits = stages.iter().filter_map(|seen| {
            let limit = seen.workers.limited_by?;
            Some((with(seen, "kind", format!("{limit:?}").into()), 1_u32))
        });
        write(
            &mut encoder,
            LIMITED_BY,
            "What limits the number of workers",
            limits,
        )
    }
}

type Label<'l> = (&'static str, Cow<'l, str>);

fn of_stage(seen: &Seen) -> [Label<'_>; 2] {
    let Place { name, namespace, .. } = &*seen.poll.place;
    [
        ("namespace", namespace.as_deref().unwrap_or_default().into()),
        ("stage", name.as_str().into()),
    ]
}

fn with<'l>(seen: &'l Seen, name: &'static str, value: Cow<'l, str>) -> [Label<'l>; 3] {
    let [namespace, stage] = of_stage(seen);
    [namespace, stage, (name, value)]
}

/// Writes out one gauge; nothing of it when there is no figure.
fn write<'l, const N: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    figures: impl Iterator<Item = ([Label<'l>; N], impl EncodeGaugeValue)>,
) -> fmt::Result {
    let mut figures = figures.peekable();
    if figures.peek().is_none() {
        return Ok(());
    }
    let mut gauge = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, figure) in figures {
        gauge.encode_family(&labels)?.encode_gauge(&figure)?;
    }
    Ok(())
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a lag beyond 2^53 records needs no exact figure"
)]
fn records(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::poll::lags;

    /// Counts everything once.
    pub(in crate::metrics) fn fill(metrics: &Metrics) {
        let place = Place::new("stg").within("orders");
        metrics.polled(Duration::from_millis(3));
        metrics.unread(UnknownReason::Unreachable);
        let status = |desired| StreamStageStatus {
            desired_replicas: Some(desired),
            ..StreamStageStatus::default()
        };
        metrics.scaled(&place, &status(1), &status(2));
        metrics.stalled(&place, true);
    }

    #[test]
    fn a_stage_has_figures_while_its_lag_is_known_and_none_when_it_is_gone() {
        let lags = Arc::<Lags>::default();
        let mut registry = Registry::default();
        registry.register_collector(Box::new(StageFigures(Arc::clone(&lags))));
        let text = || {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).expect("text");
            text
        };
        assert_eq!(text(), "# EOF\n");

        let poll = lags::tests::read(&lags);
        insta::assert_snapshot!(text());

        lags::tests::fail(&lags, &poll);
        let unknown = text();
        assert!(!unknown.contains(LAG) && !unknown.contains(ARRIVAL), "{unknown}");
        assert!(unknown.contains(REPLICAS), "{unknown}");

        lags.forget(&poll.place);
        assert_eq!(text(), "# EOF\n");
    }
}
