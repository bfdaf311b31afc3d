//! A decision in words: its inputs, the terms of its formula, its bounds and its gates. Pure.

use std::fmt::Write as _;

use crds::StreamStage;
use crds::stage::ScalingMode;

use crate::scale::load::Load;
use crate::scale::{Followed, Known, LagKnown};

/// Partitions that are listed.
const WORST: usize = 16;

/// The decision that `followed` from `known`, line by line.
#[must_use]
pub fn explain(stage: &StreamStage, known: &Known<'_>, followed: &Followed) -> String {
    let scaling = &stage.spec.scaling;
    let mut text = format!(
        "{}/{}: topic {}, group {}, mode {:?}\n\ninputs\n",
        stage.namespace(),
        stage.name(),
        stage.spec.source.topic,
        stage.consumer_group(),
        scaling.mode
    );
    let mut line = |name: &str, value: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {name:<22} {value}");
    };
    match known.lag {
        LagKnown::Read(load) => inputs(load, &mut line),
        LagKnown::Missed(cause) | LagKnown::Unknown(cause) => line("lag", format!("not known: {cause}")),
        LagKnown::Pending => line("lag", "read once: no rates yet".to_owned()),
    }
    terms(stage, followed, &mut line);
    gates(known, followed, &mut line);
    let number = followed.replicas;
    let outcome = match scaling.mode {
        _ if stage.spec.suspend => "0: paused by spec.suspend".to_owned(),
        ScalingMode::Auto => format!("{number}: {}", followed.message),
        mode => format!(
            "{number} would follow, but the mode is {mode:?}: {}",
            followed.message
        ),
    };
    let _ = writeln!(text, "\noutcome\n  {outcome}");
    text
}

/// The terms of the formula, and its bounds.
fn terms(stage: &StreamStage, followed: &Followed, line: &mut impl FnMut(&str, String)) {
    line("workers now", followed.from.to_string());
    if let Some(demand) = &followed.demand {
        line("needed", format!("{:.1} {}", demand.need, demand.unit));
        line(
            "capacity of a worker",
            format!("{:.1} {}", demand.capacity, demand.unit),
        );
        line(
            "demand",
            format!(
                "{} ({} if partitions could be shared)",
                demand.replicas, demand.unsaturated
            ),
        );
        line("stuck, left out", format!("{} partitions", demand.stuck));
    }
    line("minReplicas", stage.spec.scaling.min_replicas.to_string());
    let ceiling = match followed.ceiling.replicas {
        u32::MAX => "not known".to_owned(),
        replicas => format!("{replicas}, by {:?}", followed.ceiling.by),
    };
    line("ceiling", ceiling);
    line("wish", followed.wish.to_string());
}

/// What may hold a move.
fn gates(known: &Known<'_>, followed: &Followed, line: &mut impl FnMut(&str, String)) {
    let ago = |time| known.now.duration_since(time).as_secs();
    line("rollout", yes(known.is_rolling));
    line("rebalancing", yes(known.is_rebalancing));
    let last = known.before.last_scale_time;
    line(
        "last move",
        last.map_or("never".to_owned(), |last| format!("{} s ago", ago(last))),
    );
    let wishes = followed
        .window
        .iter()
        .map(|wish| format!("{} for {} s", wish.replicas, ago(wish.time)));
    line("wishes since", wishes.collect::<Vec<_>>().join(", "));
}

fn inputs(load: &Load, line: &mut impl FnMut(&str, String)) {
    line(
        "lag",
        format!("{} records in {} partitions", load.total(), load.partitions.len()),
    );
    line("arrival", format!("{:.1} records/s", load.arrival_per_second()));
    line("processed", format!("{:.1} records/s", load.processed_per_second));
    let rate = load
        .worker_rate
        .map_or("not seen yet".to_owned(), |rate| format!("{rate:.0} records/s"));
    line("rate of a worker", rate);
    let mut behind: Vec<_> = load
        .partitions
        .iter()
        .filter(|partition| partition.lag > 0)
        .collect();
    behind.sort_by_key(|partition| std::cmp::Reverse(partition.lag));
    for partition in behind.iter().take(WORST) {
        let stuck = if partition.is_stuck { ", stuck" } else { "" };
        let value = format!(
            "lag {}, {:.1} records/s arrive{stuck}",
            partition.lag, partition.arrival_per_second
        );
        line(&format!("partition {}", partition.partition), value);
    }
}

fn yes(holds: bool) -> String {
    if holds { "yes" } else { "no" }.to_owned()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;

    use super::*;
    use crate::scale::follow;
    use crate::scale::load::PartitionLoad;

    #[test]
    fn every_term_of_a_decision_is_told() {
        let stage = serde_saphyr::from_str(
            "{apiVersion: streamstage.dev/v1alpha1, kind: StreamStage, metadata: {name: cdm, namespace: orders}, \
             spec: {layer: cdm, source: {bootstrapServers: ['kafka:9092'], topic: facts}, \
             warehouse: {host: postgres, database: orders, connectionBudget: 6, connectionsPerWorker: 2}}}",
        )
        .expect("a stage");
        let partitions = (0..4).map(|partition| PartitionLoad {
            partition,
            lag: 60_000,
            is_stuck: partition == 3,
            ..PartitionLoad::default()
        });
        let load = Load {
            partitions: partitions.collect(),
            ..Load::default()
        };
        let before = crds::status::ScalingStatus::default();
        let known = Known {
            current: Some(1),
            lag: LagKnown::Read(&load),
            ..Known::nothing(Timestamp::UNIX_EPOCH, &before)
        };
        insta::assert_snapshot!(explain(&stage, &known, &follow(&stage, &known)));
    }
}
