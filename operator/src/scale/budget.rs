//! Split of the connection budget of a warehouse among its stages. Pure.
//!
//! All stages get the same number of workers, but at least their `minReplicas` and at most their `maxReplicas`. What is left
//! goes to the oldest ones. A further stage never raises the share of another one.

use std::fmt;

/// Workers that a stage needs, and the connections of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetNeed {
    /// Value of `connectionsPerWorker`; at least 1.
    pub connections_per_worker: u32,
    /// Workers that the stage needs at least.
    pub min: u32,
    /// Workers that the stage can use; at least `min`, and `u32::MAX` without a limit.
    pub max: u32,
    /// True for a stage of another namespace, which never lowers a share below `min`.
    pub is_foreign: bool,
}

/// Share of one stage in the budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetShare {
    /// Connections of the whole budget.
    pub connections: u32,
    /// Number of stages that share it.
    pub stage_count: usize,
    /// Maximum number of workers of the stage.
    pub max_replicas: u32,
}

impl fmt::Display for BudgetShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the connection budget of the warehouse: {} connections",
            self.connections
        )?;
        match self.stage_count {
            1 => Ok(()),
            count => write!(f, " shared by {count} stages"),
        }
    }
}

/// Splits `connections` among the stages, which are ordered from the oldest to the newest. The shares have this order, too.
#[must_use]
pub fn split(connections: u32, needs: &[BudgetNeed]) -> Vec<BudgetShare> {
    let budget = u64::from(connections);
    let at_most_min = |need: &BudgetNeed, level: u32| level.min(need.min);
    let within_bounds = |need: &BudgetNeed, level: u32| level.clamp(need.min, need.max.max(need.min));
    let all: Vec<&BudgetNeed> = needs.iter().collect();
    let replicas = if cost(&all, |need| need.min) <= budget {
        level_out(connections, &all, within_bounds)
    } else {
        let own: Vec<&BudgetNeed> = needs.iter().filter(|need| !need.is_foreign).collect();
        let mut replicas = level_out(connections, &own, at_most_min).into_iter();
        let replicas = needs.iter().map(|need| {
            if need.is_foreign {
                need.min
            } else {
                replicas.next().unwrap_or_default()
            }
        });
        replicas.collect()
    };
    let share = |max_replicas| BudgetShare {
        connections,
        stage_count: needs.len(),
        max_replicas,
    };
    replicas.into_iter().map(share).collect()
}

/// Workers of each need at the highest level whose connections are within the budget. What is left of the budget raises the
/// first needs to the next level, without a gap.
fn level_out(connections: u32, needs: &[&BudgetNeed], workers: impl Fn(&BudgetNeed, u32) -> u32) -> Vec<u32> {
    let budget = u64::from(connections);
    let cost_at = |level: u32| cost(needs, |need| workers(need, level));
    // A worker has at least one connection, so no level above the budget differs from it.
    let (mut level, mut too_high) = (0, connections.saturating_add(1));
    while too_high - level > 1 {
        let middle = level + (too_high - level) / 2;
        if cost_at(middle) <= budget {
            level = middle;
        } else {
            too_high = middle;
        }
    }
    let mut left = Some(budget.saturating_sub(cost_at(level)));
    let raised = needs.iter().map(|need| {
        let (replicas, next) = (workers(need, level), workers(need, level.saturating_add(1)));
        let extra = u64::from(next - replicas) * u64::from(need.connections_per_worker);
        left = left.and_then(|left| left.checked_sub(extra));
        if left.is_some() { next } else { replicas }
    });
    raised.collect()
}

/// Connections of the workers of all needs.
fn cost(needs: &[&BudgetNeed], workers: impl Fn(&BudgetNeed) -> u32) -> u64 {
    let connections = needs
        .iter()
        .map(|need| u64::from(workers(need)) * u64::from(need.connections_per_worker));
    connections.sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn need(connections_per_worker: u32, min: u32, max: u32) -> BudgetNeed {
        BudgetNeed {
            connections_per_worker,
            min,
            max,
            is_foreign: false,
        }
    }

    fn replicas(connections: u32, needs: &[BudgetNeed]) -> Vec<u32> {
        let shares = split(connections, needs);
        shares.iter().map(|share| share.max_replicas).collect()
    }

    #[test]
    fn stages_get_the_same_number_of_workers_between_their_bounds() {
        const ANY: u32 = u32::MAX;
        for (connections, needs, expected) in [
            (40, &[need(2, 1, ANY)][..], &[20][..]),
            (40, &[need(2, 1, ANY); 2], &[10, 10]),
            (40, &[need(2, 1, ANY); 3], &[7, 7, 6]),
            (40, &[need(1, 1, ANY), need(2, 1, ANY)], &[14, 13]),
            (40, &[need(2, 12, ANY), need(2, 1, ANY)], &[12, 8]),
            (40, &[need(2, 1, 3), need(2, 1, ANY)], &[3, 17]),
            (7, &[need(2, 9, 9)], &[3]),
            (40, &[need(2, 30, 30), need(2, 1, ANY)], &[19, 1]),
            (5, &[need(2, 1, ANY); 3], &[1, 1, 0]),
            (1, &[need(2, 0, ANY), need(1, 0, ANY)], &[0, 0]),
            (0, &[need(2, 1, ANY)], &[0]),
            (u32::MAX, &[need(1, 0, ANY)], &[u32::MAX]),
        ] {
            assert_eq!(replicas(connections, needs), expected, "{connections} {needs:?}");
        }
    }

    #[test]
    fn stages_of_another_namespace_leave_the_minimum() {
        let foreign = BudgetNeed {
            is_foreign: true,
            ..need(2, 15, 15)
        };
        let own = [need(2, 2, 9), need(2, 1, 9)];
        assert_eq!(replicas(40, &own), [9, 9]);
        assert_eq!(replicas(40, &[foreign, own[0], own[1]]), [15, 3, 2]);
        assert_eq!(replicas(40, &[foreign, own[0], foreign, own[1]]), [15, 2, 15, 1]);
    }

    #[test]
    fn a_share_is_described_without_names() {
        let shares = split(40, &[need(2, 1, 9); 3]);
        assert_eq!(
            shares[0].to_string(),
            "the connection budget of the warehouse: 40 connections shared by 3 stages"
        );
        assert_eq!(
            split(40, &[need(2, 1, 9)])[0].to_string(),
            "the connection budget of the warehouse: 40 connections"
        );
    }

    fn any_need() -> impl Strategy<Value = BudgetNeed> {
        (1..=2_u32, 0..12_u32, 0..12_u32, any::<bool>()).prop_map(|(connections, min, room, is_foreign)| {
            let max = if room == 11 { u32::MAX } else { min + room };
            BudgetNeed {
                is_foreign,
                ..need(connections, min, max)
            }
        })
    }

    proptest! {
        #[test]
        fn the_shares_are_within_the_budget(
            connections in 0..200_u32,
            mut needs in prop::collection::vec(any_need(), 1..8),
        ) {
            for need in &mut needs {
                need.is_foreign = false;
            }
            let shares = replicas(connections, &needs);
            let used: u32 = shares.iter().zip(&needs)
                .map(|(replicas, need)| replicas * need.connections_per_worker)
                .sum();
            prop_assert!(used <= connections, "{shares:?}");
        }

        #[test]
        fn a_further_stage_raises_no_share(
            connections in 0..200_u32,
            needs in prop::collection::vec(any_need(), 1..8),
            further in any_need(),
            index in 0..8_usize,
        ) {
            let before = replicas(connections, &needs);
            let index = index.min(needs.len());
            let mut more = needs.clone();
            more.insert(index, further);
            let mut after = replicas(connections, &more);
            after.remove(index);
            for ((need, before), after) in needs.iter().zip(before).zip(after) {
                prop_assert!(need.is_foreign || after <= before, "{need:?}: {before} -> {after}");
            }
        }

        #[test]
        fn a_larger_budget_lowers_no_share(
            connections in 0..200_u32,
            needs in prop::collection::vec(any_need(), 1..8),
        ) {
            let (before, after) = (replicas(connections, &needs), replicas(connections + 1, &needs));
            for ((need, before), after) in needs.iter().zip(before).zip(after) {
                prop_assert!(need.is_foreign || after >= before, "{need:?}: {before} -> {after}");
            }
        }
    }
}
