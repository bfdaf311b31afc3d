//! Explains a scaling decision: its inputs, the terms of the formula, the bounds, the gates and the result. Pure.
//!
//! The output of `operator explain`; [`crate::command::explain`] collects the inputs.

use std::fmt::{Display, Write as _};

use crds::StreamStage;
use crds::stage::{ScalingMode, Target};

use crate::scale::demand::{Demand, Needs};
use crate::scale::gate::Rollout;
use crate::scale::load::Load;
use crate::scale::schedule::ScheduledBounds;
use crate::scale::settings::{PAUSE_ANNOTATION, is_paused};
use crate::scale::{LagDecision, LagState, ScalingInput};

/// Maximum number of partitions to list.
const MAX_LISTED_PARTITIONS: usize = 16;

/// Formats `decision`, which was made from `input`, line by line.
#[must_use]
pub fn explain(stage: &StreamStage, input: &ScalingInput<'_>, decision: &LagDecision) -> String {
    let scaling = &stage.spec.scaling;
    let mut text = format!(
        "{}/{}: topic {}, group {}, mode {:?}\n\ninputs\n",
        stage.namespace(),
        stage.name(),
        stage.spec.source.topic,
        stage.consumer_group(),
        scaling.mode
    );
    push_line(&mut text, "current replicas", decision.from);
    match input.lag {
        LagState::Fresh(load) => push_inputs(&mut text, load),
        LagState::TransientError(error) | LagState::Unknown(error) => {
            push_line(&mut text, "lag", format_args!("unknown: {error}"));
        }
        LagState::Pending => push_line(&mut text, "lag", "polled once: no rates yet"),
    }
    text.push_str("\nformula\n");
    if let (LagState::Fresh(load), Some(demand)) = (input.lag, &decision.demand) {
        push_terms(&mut text, &scaling.target, load, demand);
    }
    let bounds = ScheduledBounds::at(scaling, input.now);
    let min_replicas = bounds.map_or(scaling.min_replicas, |bounds| bounds.min_replicas);
    push_bounds(&mut text, min_replicas, decision);
    text.push_str("\ngates\n");
    push_gates(&mut text, input, decision);
    let replicas = decision.replicas;
    let result = match scaling.mode {
        _ if stage.spec.suspend => "0: suspended by spec.suspend".to_owned(),
        ScalingMode::Auto if is_paused(stage) => format!(
            "{}: paused by the annotation {PAUSE_ANNOTATION}; without it: {}",
            decision.from, decision.message
        ),
        ScalingMode::Auto => format!("{replicas}: {}", decision.message),
        mode => format!(
            "{replicas} in the mode Auto, but the mode is {mode:?}: {}",
            decision.message
        ),
    };
    let _ = writeln!(text, "\nresult\n  {result}");
    text
}

fn push_line(text: &mut String, label: impl Display, value: impl Display) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "  {:<22} {value}", label.to_string());
}

fn push_inputs(text: &mut String, load: &Load) {
    push_line(
        text,
        "lag",
        format_args!(
            "{} records in {} partitions",
            load.total_lag(),
            load.partitions.len()
        ),
    );
    push_line(
        text,
        "arrival rate",
        format_args!("{:.1} records/s", load.arrival_per_second()),
    );
    push_line(
        text,
        "processing rate",
        format_args!("{:.1} records/s", load.processed_per_second),
    );
}

/// Appends the terms of the formula, those of the partitions with the largest lag first.
fn push_terms(text: &mut String, target: &Target, load: &Load, demand: &Demand) {
    let needs = Needs::new(load, target.effective_drain_seconds());
    let partitions = load.partitions.iter().enumerate();
    let mut lagging: Vec<_> = partitions.filter(|(_, partition)| partition.lag > 0).collect();
    lagging.sort_by_key(|(_, partition)| std::cmp::Reverse(partition.lag));
    for &(index, partition) in lagging.iter().take(MAX_LISTED_PARTITIONS) {
        let label = format_args!("partition {}", partition.partition);
        let (lag, arrival) = (partition.lag, partition.arrival_per_second);
        if partition.is_stuck {
            push_line(text, label, format_args!("excluded: lag {lag}, stuck"));
            continue;
        }
        let need = needs.needs.get(index).copied().unwrap_or_default();
        let text_of_lag = format_args!("lag {lag}, arrival rate {arrival:.1} records/s");
        match target.lag_per_replica {
            Some(_) => push_line(text, label, text_of_lag),
            None => push_line(
                text,
                label,
                format_args!("needs {need:.1} records/s: {text_of_lag}"),
            ),
        }
    }
    match demand.capacity {
        Some(capacity) => push_line(
            text,
            "capacity per worker",
            format_args!("{capacity:.1} records/s"),
        ),
        None => push_line(text, "capacity per worker", "not measured yet"),
    }
    if let Some(terms) = demand.terms {
        push_line(text, "for the backlog", format_args!("{} workers", terms.urgent));
        push_line(
            text,
            "for the arrivals",
            format_args!("{} workers, {} at high load", terms.plan, terms.high),
        );
    }
    push_line(text, "demand", demand.replicas);
    push_line(
        text,
        "stuck, excluded",
        format_args!("{} partitions", demand.stuck_partition_count),
    );
}

fn push_bounds(text: &mut String, min_replicas: u32, decision: &LagDecision) {
    push_line(text, "minReplicas", min_replicas);
    match decision.ceiling.replicas {
        u32::MAX => push_line(text, "ceiling", "unknown"),
        replicas => push_line(
            text,
            "ceiling",
            format_args!("{replicas}, by {:?}", decision.ceiling.by),
        ),
    }
    push_line(text, "recommendation", decision.recommendation);
}

fn push_gates(text: &mut String, input: &ScalingInput<'_>, decision: &LagDecision) {
    let seconds_since = |time| input.now.duration_since(time).as_secs();
    push_line(text, "rollout", yes_or_no(input.rollout != Rollout::None));
    push_line(text, "rebalancing", yes_or_no(input.rebalancing_since.is_some()));
    let label = "last scaling step";
    match input.state.last_scale_time {
        Some(last) => push_line(text, label, format_args!("{} s ago", seconds_since(last))),
        None => push_line(text, label, "never"),
    }
    let recommendations = decision.state.recommendations.iter().map(|recommendation| {
        format!(
            "{} for {} s",
            recommendation.replicas,
            seconds_since(recommendation.time)
        )
    });
    push_line(
        text,
        "recommendations",
        recommendations.collect::<Vec<_>>().join(", "),
    );
}

fn yes_or_no(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}

#[cfg(test)]
mod tests {
    use crds::status::Capacity;
    use k8s_openapi::jiff::Timestamp;

    use super::*;
    use crate::scale::load::PartitionLoad;
    use crate::scale::state::ScalingState;
    use crate::scale::{ScalingSettings, decide_by_lag};

    #[test]
    fn the_output_contains_every_term_of_the_decision() {
        let stage = serde_saphyr::from_str(
            "{apiVersion: streamstage.dev/v1alpha1, kind: StreamStage, metadata: {name: cdm, namespace: orders}, \
             spec: {layer: cdm, source: {bootstrapServers: ['kafka:9092'], topic: facts}, \
             warehouse: {host: postgres, database: orders, connectionBudget: 6, connectionsPerWorker: 2}}}",
        )
        .expect("a valid stage");
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
        let previous = ScalingState {
            capacity: Some(Capacity {
                records_per_second: 1000.0,
                ..Capacity::default()
            }),
            ..ScalingState::default()
        };
        let input = ScalingInput {
            current_replicas: Some(1),
            lag: LagState::Fresh(&load),
            ..ScalingInput::new(Timestamp::UNIX_EPOCH, &previous)
        };
        let decision = decide_by_lag(&ScalingSettings::from(&stage), &input);
        insta::assert_snapshot!(explain(&stage, &input, &decision));
    }
}
