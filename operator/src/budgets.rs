//! Shares of the stages in the connection budgets of their warehouses. Pure.
//!
//! The budget of a warehouse is the smallest `connectionBudget` that a stage of the namespace states, so nobody sets one for
//! the stages of others. It is shared with all stages that name the same server and database, those of other namespaces
//! included if the operator watches them. [`crate::scale::budget`] splits it.

use std::collections::HashMap;

use crate::scale::ScalingSettings;
use crate::scale::budget::{BudgetShare, split};
use crate::stage_summary::{StageRef, StageSummary};

/// Shares of the stages; those whose warehouse has no budget are missing.
#[derive(Clone, Debug, Default)]
pub struct BudgetShares(HashMap<StageRef, BudgetShare>);

impl BudgetShares {
    /// Computes the shares of all stages.
    pub fn new<'s>(stages: impl Iterator<Item = &'s StageSummary> + Clone) -> Self {
        let with_budget = stages.clone().filter(|stage| states_budget(stage));
        let mut warehouses: HashMap<&str, Vec<&StageSummary>> = with_budget
            .map(|stage| (stage.warehouse.as_str(), Vec::new()))
            .collect();
        for stage in stages.filter(|stage| has_workers(stage)) {
            if let Some(stages) = warehouses.get_mut(stage.warehouse.as_str()) {
                stages.push(stage);
            }
        }
        let mut shares = HashMap::new();
        for stages in warehouses.values_mut() {
            stages.sort_by(|left, right| left.age().cmp(&right.age()));
            let mut namespaces: Vec<_> = stages.iter().map(|stage| namespace(stage)).collect();
            namespaces.sort_unstable();
            namespaces.dedup();
            for of_namespace in namespaces {
                shares.extend(
                    shares_in(of_namespace, stages)
                        .into_iter()
                        .filter(|(stage, _)| namespace(stage) == of_namespace)
                        .map(|(stage, share)| (stage.reference(), share)),
                );
            }
        }
        Self(shares)
    }

    /// Scaling settings of a stage, with its share in the budget.
    #[must_use]
    pub fn settings(&self, stage: &StageSummary) -> ScalingSettings {
        let mut settings = stage.scaling_settings.clone();
        if let Some(share) = self.0.get(&stage.reference()) {
            settings.budget_share = Some(*share);
        }
        settings
    }
}

/// Share of `this`, whose cached version may be older or missing; `None` without a budget.
pub fn share_of<'s>(
    this: &'s StageSummary,
    stages: impl Iterator<Item = &'s StageSummary>,
) -> Option<BudgetShare> {
    let others = stages
        .filter(|other| other.warehouse == this.warehouse && !is_same(other, this))
        .filter(|other| has_workers(other));
    let mut stages: Vec<&StageSummary> = others.chain([this]).collect();
    stages.sort_by(|left, right| left.age().cmp(&right.age()));
    let mut shares = shares_in(namespace(this), &stages).into_iter();
    let (_, share) = shares.find(|(stage, _)| is_same(stage, this))?;
    Some(share)
}

/// Shares of the stages of one warehouse, from the oldest to the newest, as a namespace sees them.
fn shares_in<'s>(of_namespace: &str, stages: &[&'s StageSummary]) -> Vec<(&'s StageSummary, BudgetShare)> {
    let own = stages.iter().filter(|stage| namespace(stage) == of_namespace);
    let budget = own
        .filter_map(|stage| stage.scaling_settings.connection_budget)
        .min();
    let needs: Vec<_> = stages
        .iter()
        .map(|stage| {
            stage
                .scaling_settings
                .budget_need(namespace(stage) != of_namespace)
        })
        .collect();
    let shares = budget.map(|budget| split(budget, &needs)).unwrap_or_default();
    stages.iter().copied().zip(shares).collect()
}

fn namespace(stage: &StageSummary) -> &str {
    stage.age().1
}

fn is_same(left: &StageSummary, right: &StageSummary) -> bool {
    left.name() == right.name() && namespace(left) == namespace(right)
}

fn states_budget(stage: &StageSummary) -> bool {
    stage.scaling_settings.connection_budget.is_some() && has_workers(stage)
}

/// Returns true if the stage may have workers: it is not suspended, not deleted, and has its consumer group.
fn has_workers(stage: &StageSummary) -> bool {
    !stage.scaling_settings.is_suspended && !stage.scaling_settings.is_group_taken && !stage.is_deleted()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stage that was created at this second; `warehouse` and `spec` are added to its spec.
    fn stage(name: &str, second: u8, warehouse: &str, spec: &str) -> StageSummary {
        let (namespace, name) = name.split_once('/').expect("namespace/name");
        serde_saphyr::from_str(&format!(
            "{{apiVersion: streamstage.dev/v1alpha1, kind: StreamStage, metadata: {{name: {name}, \
             namespace: {namespace}, creationTimestamp: '2026-01-01T00:00:0{second}Z'}}, spec: {{layer: cdm, \
             source: {{bootstrapServers: ['kafka:9092'], topic: facts}}, \
             warehouse: {{database: orders, {warehouse}}}{spec}}}}}"
        ))
        .expect("a stage")
    }

    /// Maximum number of workers of each stage, which must be the same with both functions.
    fn shares(stages: &[StageSummary]) -> Vec<Option<u32>> {
        let all = BudgetShares::new(stages.iter());
        let shares = stages.iter().map(|this| {
            let share = share_of(this, stages.iter()).map(|share| share.max_replicas);
            if has_workers(this) {
                assert_eq!(all.settings(this).max_replicas_by_connections(), share);
            }
            share
        });
        shares.collect()
    }

    #[test]
    fn stages_of_one_server_and_database_share_the_smallest_budget() {
        let first = stage("orders/a", 1, "host: 'db.example.com', connectionBudget: 60", "");
        let second = stage(
            "orders/b",
            2,
            "host: 'DB.example.com:5432', connectionBudget: 40",
            "",
        );
        let third = stage("orders/c", 3, "host: db.example.com", "");
        assert_eq!(shares(std::slice::from_ref(&first)), [Some(30)]);
        assert_eq!(shares(&[first.clone(), second.clone()]), [Some(10), Some(10)]);
        let three = [first.clone(), second, third];
        assert_eq!(shares(&three), [Some(7), Some(7), Some(6)]);
        for other in ["host: other.example.com", "host: 'db.example.com', port: 6432"] {
            assert_eq!(
                shares(&[first.clone(), stage("orders/b", 2, other, "")]),
                [Some(30), None]
            );
        }
        let mut other = stage("orders/b", 2, "host: db.example.com", "");
        assert_eq!(shares(&[first.clone(), other.clone()]), [Some(15), Some(15)]);
        other.warehouse = other.warehouse.replace("/orders", "/other");
        assert_eq!(shares(&[first, other]), [Some(30), None]);
    }

    #[test]
    fn the_order_of_several_hosts_does_not_matter_and_a_short_name_is_of_the_namespace() {
        let first = stage("orders/a", 1, "host: 'db-a.x,db-b.x', connectionBudget: 40", "");
        let second = stage("orders/b", 2, "host: 'db-b.x,db-a.x'", "");
        assert_eq!(shares(&[first, second]), [Some(10), Some(10)]);
        let first = stage("orders/a", 1, "host: postgres, connectionBudget: 40", "");
        let second = stage("other/b", 2, "host: postgres", "");
        let third = stage("other/c", 3, "host: postgres.orders.svc", "");
        assert_eq!(shares(&[first.clone(), second]), [Some(20), None]);
        assert_eq!(shares(&[first, third]), [Some(10), None]);
    }

    #[test]
    fn another_namespace_sets_no_budget_and_takes_no_minimum() {
        let own = stage(
            "orders/a",
            2,
            "host: db.x, connectionBudget: 40",
            ", scaling: {minReplicas: 4}",
        );
        let small = stage("team-b/a", 1, "host: db.x, connectionBudget: 2", "");
        assert_eq!(shares(&[own.clone(), small]), [Some(10), Some(1)]);
        let many = stage("team-b/a", 1, "host: db.x", ", scaling: {minReplicas: 1000}");
        assert_eq!(shares(&[own, many]), [Some(4), None]);
    }

    #[test]
    fn a_stage_without_workers_does_not_count() {
        let first = stage("orders/a", 1, "host: db.x, connectionBudget: 40", "");
        let suspended = stage(
            "orders/b",
            2,
            "host: db.x, connectionBudget: 2",
            ", suspend: true",
        );
        assert_eq!(shares(&[first.clone(), suspended]), [Some(20), Some(0)]);
        let mut conflicting = stage("orders/b", 2, "host: db.x", "");
        conflicting.scaling_settings.is_group_taken = true;
        assert_eq!(shares(&[first, conflicting])[0], Some(20));
    }

    #[test]
    fn a_fixed_number_of_workers_is_both_bounds() {
        let auto = stage("orders/a", 1, "host: db.x, connectionBudget: 40", "");
        for scaling in ["{mode: Manual, replicas: 3}", "{mode: External, replicas: 3}"] {
            let fixed = stage("orders/b", 2, "host: db.x", &format!(", scaling: {scaling}"));
            assert_eq!(shares(&[auto.clone(), fixed]), [Some(17), Some(3)], "{scaling}");
        }
        let bounded = stage(
            "orders/b",
            2,
            "host: db.x",
            ", scaling: {minReplicas: 2, maxReplicas: 4}",
        );
        assert_eq!(shares(&[auto, bounded]), [Some(16), Some(4)]);
    }
}
