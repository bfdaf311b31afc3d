//! Decides which of two stages may have a consumer group. Pure.
//!
//! The workers of two stages in one group would each get only a part of the partitions. Kafka's cluster ID shows whether
//! two lists of bootstrap servers mean one cluster; until polls have found it, their texts are compared.
//! Only stages of one namespace conflict: nobody may stall the stages of others, or learn their names.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kube::{Resource as _, ResourceExt as _};

use crate::lag::offsets::GroupTopic;
use crate::stage_summary::{StageRef, StageSummary};

/// Namespace, consumer group and topic: stages with equal keys conflict if they also have one cluster.
pub type ConflictKey = (Option<String>, GroupTopic);

/// Returns the oldest stage that conflicts with `this` and is older, by creation time and then name.
///
/// `cluster_id` returns the ID of the Kafka cluster of a stage; `None` while it is unknown.
pub fn winning_stage<'s>(
    this: &StageSummary,
    stages: impl Iterator<Item = &'s StageSummary>,
    cluster_id: impl Fn(&StageSummary) -> Option<Arc<str>>,
) -> Option<&'s StageSummary> {
    stages
        .filter(|other| other.meta().uid != this.meta().uid && other.age() < this.age())
        .filter(|other| conflict_key(other) == conflict_key(this))
        .filter(|other| match (cluster_id(this), cluster_id(other)) {
            (Some(this), Some(other)) => this == other,
            // A new leader does not know the IDs yet. A stage that has lost its group gets no workers until it does.
            _ => has_common_server(this, other) || this.has_lost_group(),
        })
        .min_by(|left, right| left.age().cmp(&right.age()))
}

/// Returns the stages whose conflicts a new cluster ID of a stage with one of the keys may change.
pub fn affected_stages<'s>(
    keys: &BTreeSet<ConflictKey>,
    stages: impl Iterator<Item = &'s StageSummary>,
) -> Vec<StageRef> {
    let mut by_key = BTreeMap::<ConflictKey, Vec<StageRef>>::new();
    for stage in stages {
        let key = conflict_key(stage);
        if keys.contains(&key) {
            by_key.entry(key).or_default().push(stage.reference());
        }
    }
    let shared = by_key.into_values().filter(|stages| stages.len() > 1);
    shared.flatten().collect()
}

/// Key of a stage.
#[must_use]
pub fn conflict_key(stage: &StageSummary) -> ConflictKey {
    (stage.namespace(), stage.group_topic.clone())
}

fn has_common_server(this: &StageSummary, other: &StageSummary) -> bool {
    let servers = &other.bootstrap_servers;
    this.bootstrap_servers
        .iter()
        .any(|server| servers.contains(server))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "kafka:9092";

    /// A stage that was created at this second, with the spec and the status of generation 1.
    fn stage(namespace: &str, name: &str, second: u8, server: &str, status: &str) -> StageSummary {
        serde_saphyr::from_str(&format!(
            "{{apiVersion: streamstage.dev/v1alpha1, kind: StreamStage, metadata: {{name: {name}, \
             namespace: {namespace}, uid: '{namespace}/{name}', generation: 1, \
             creationTimestamp: '2026-01-01T00:00:0{second}Z'}}, spec: {{layer: cdm, \
             source: {{bootstrapServers: ['{server}'], topic: facts, consumerGroup: one}}, \
             warehouse: {{host: postgres, database: orders}}}}, status: {status}}}"
        ))
        .expect("a stage")
    }

    fn winner(this: &StageSummary, others: &[StageSummary], ids: &[(&str, &str)]) -> Option<String> {
        let id = |stage: &StageSummary| {
            let found = ids.iter().find(|(name, _)| *name == stage.name());
            found.map(|(_, id)| Arc::from(*id))
        };
        winning_stage(this, others.iter().chain([this]), id).map(|stage| stage.name().to_owned())
    }

    #[test]
    fn the_older_of_two_stages_in_one_cluster_has_the_group() {
        let older = stage("orders", "older", 1, "127.0.0.1:9092", "{}");
        let younger = stage("orders", "a", 2, "localhost:9092", "{}");
        let ids = [("older", "x"), ("a", "x")];
        assert_eq!(
            winner(&younger, std::slice::from_ref(&older), &ids),
            Some("older".to_owned())
        );
        assert_eq!(winner(&older, std::slice::from_ref(&younger), &ids), None);
        let twin = stage("orders", "b", 2, "localhost:9092", "{}");
        let ids = [("b", "x"), ("a", "x")];
        assert_eq!(
            winner(&twin, std::slice::from_ref(&younger), &ids),
            Some("a".to_owned())
        );
        assert_eq!(winner(&younger, &[twin], &ids), None, "the first name wins");
    }

    #[test]
    fn the_cluster_id_decides_as_soon_as_both_are_known() {
        let older = stage("orders", "older", 1, TEXT, "{}");
        for (server, ids, expected) in [
            (TEXT, &[][..], true),
            (TEXT, &[("older", "x")], true),
            (TEXT, &[("older", "x"), ("this", "y")], false),
            ("other:9092", &[], false),
            ("other:9092", &[("this", "x")], false),
            ("other:9092", &[("older", "x"), ("this", "x")], true),
        ] {
            let this = stage("orders", "this", 2, server, "{}");
            let found = winner(&this, std::slice::from_ref(&older), ids);
            assert_eq!(found.is_some(), expected, "{server} {ids:?}");
        }
    }

    #[test]
    fn a_loser_gets_no_workers_while_a_new_leader_does_not_know_the_clusters() {
        let lost = |generation: u8| {
            let status = format!(
                "{{observedGeneration: {generation}, conditions: [{{type: Stalled, status: 'True', \
                 reason: ConsumerGroupConflict, message: m, lastTransitionTime: '2026-01-01T00:00:00Z'}}]}}"
            );
            stage("orders", "this", 2, "other:9092", &status)
        };
        let older = stage("orders", "older", 1, TEXT, "{}");
        assert!(winner(&lost(1), std::slice::from_ref(&older), &[]).is_some());
        assert!(lost(1).scaling_settings.is_group_taken);
        let ids = [("older", "x"), ("this", "y")];
        assert!(winner(&lost(1), std::slice::from_ref(&older), &ids).is_none());
        assert!(
            winner(&lost(0), &[older], &[]).is_none(),
            "its spec was changed since"
        );
        assert!(!lost(0).scaling_settings.is_group_taken);
    }

    #[test]
    fn stages_of_other_namespaces_do_not_conflict() {
        let older = stage("other", "older", 1, "kafka.example.com:9092", "{}");
        let this = stage("orders", "this", 2, "kafka.example.com:9092", "{}");
        assert_eq!(winner(&this, std::slice::from_ref(&older), &[]), None);
        assert_eq!(winner(&this, &[older], &[("older", "x"), ("this", "x")]), None);
    }

    #[test]
    fn a_new_cluster_id_affects_all_stages_of_the_group_if_there_are_several() {
        let stages = [
            stage("orders", "a", 1, "a:9092", "{}"),
            stage("orders", "b", 2, "b:9092", "{}"),
            stage("other", "c", 3, "b:9092", "{}"),
        ];
        let affected = |index: usize| {
            let keys = BTreeSet::from([conflict_key(&stages[index])]);
            let affected = affected_stages(&keys, stages.iter());
            affected.into_iter().map(|stage| stage.name).collect::<Vec<_>>()
        };
        assert_eq!(affected(0), ["a", "b"]);
        assert_eq!(affected(2), Vec::<String>::new());
    }
}
