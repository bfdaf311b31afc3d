//! A decision in words: its inputs, the terms of its formula, its bounds and its gates. Pure.

use std::fmt::{Display, Write as _};

use crds::StreamStage;
use crds::stage::{ScalingMode, Target};

use crate::scale::demand::{Demand, need};
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
    line(&mut text, "workers now", followed.from);
    match known.lag {
        LagKnown::Read(load) => inputs(&mut text, load),
        LagKnown::Missed(cause) | LagKnown::Unknown(cause) => {
            line(&mut text, "lag", format_args!("not known: {cause}"));
        }
        LagKnown::Pending => line(&mut text, "lag", "read once: no rates yet"),
    }
    text.push_str("\nterms\n");
    if let (LagKnown::Read(load), Some(demand)) = (known.lag, &followed.demand) {
        terms(&mut text, &scaling.target, load, demand);
    }
    bounds(&mut text, stage, followed);
    text.push_str("\ngates\n");
    gates(&mut text, known, followed);
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

fn line(text: &mut String, name: impl Display, value: impl Display) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "  {:<22} {value}", name.to_string());
}

fn inputs(text: &mut String, load: &Load) {
    line(
        text,
        "lag",
        format_args!("{} records in {} partitions", load.total(), load.partitions.len()),
    );
    line(
        text,
        "arrival",
        format_args!("{:.1} records/s", load.arrival_per_second()),
    );
    line(
        text,
        "processed",
        format_args!("{:.1} records/s", load.processed_per_second),
    );
    match load.worker_rate {
        Some(rate) => line(text, "rate of a worker", format_args!("{rate:.0} records/s")),
        None => line(text, "rate of a worker", "not seen yet"),
    }
}

/// The terms of the formula, the largest first.
fn terms(text: &mut String, target: &Target, load: &Load, demand: &Demand) {
    let mut behind: Vec<_> = load
        .partitions
        .iter()
        .filter(|partition| partition.lag > 0)
        .collect();
    behind.sort_by_key(|partition| std::cmp::Reverse(partition.lag));
    for partition in behind.iter().take(WORST) {
        let name = format_args!("partition {}", partition.partition);
        let (lag, arrival) = (partition.lag, partition.arrival_per_second);
        if partition.is_stuck {
            line(text, name, format_args!("left out: lag {lag}, stuck"));
            continue;
        }
        let need = need(target, partition);
        let needs = format_args!("{need:.1} {}", demand.unit);
        let value = format_args!("needs {needs}: lag {lag}, {arrival:.1} records/s arrive");
        line(text, name, value);
    }
    line(text, "needed", format_args!("{:.1} {}", demand.need, demand.unit));
    line(
        text,
        "capacity of a worker",
        format_args!("{:.1} {}", demand.capacity, demand.unit),
    );
    line(
        text,
        "demand",
        format_args!(
            "{} ({} if partitions could be shared)",
            demand.replicas, demand.unsaturated
        ),
    );
    line(
        text,
        "stuck, left out",
        format_args!("{} partitions", demand.stuck),
    );
}

fn bounds(text: &mut String, stage: &StreamStage, followed: &Followed) {
    line(text, "minReplicas", stage.spec.scaling.min_replicas);
    match followed.ceiling.replicas {
        u32::MAX => line(text, "ceiling", "not known"),
        replicas => line(
            text,
            "ceiling",
            format_args!("{replicas}, by {:?}", followed.ceiling.by),
        ),
    }
    line(text, "wish", followed.wish);
}

/// What may hold a move.
fn gates(text: &mut String, known: &Known<'_>, followed: &Followed) {
    let ago = |time| known.now.duration_since(time).as_secs();
    line(text, "rollout", yes(known.is_rolling));
    line(text, "rebalancing", yes(known.is_rebalancing));
    match known.before.last_scale_time {
        Some(last) => line(text, "last move", format_args!("{} s ago", ago(last))),
        None => line(text, "last move", "never"),
    }
    let wishes = followed
        .window
        .iter()
        .map(|wish| format!("{} for {} s", wish.replicas, ago(wish.time)));
    line(text, "wishes since", wishes.collect::<Vec<_>>().join(", "));
}

fn yes(holds: bool) -> &'static str {
    if holds { "yes" } else { "no" }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;

    use super::*;
    use crate::scale::load::PartitionLoad;
    use crate::scale::{Rules, follow};

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
        insta::assert_snapshot!(explain(&stage, &known, &follow(&Rules::from(&stage), &known)));
    }
}
