//! Arithmetic of the ledger: counter deltas of replacing an order's contribution by another one. Pure.

use std::collections::BTreeMap;

use uuid::Uuid;

/// Contribution of one order to the counters of its user: 1 for each of its products and categories.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contribution {
    /// Id of the order.
    pub order_id: i64,
    /// Version of the order, in the encoding of [`crate::version::Version`].
    pub version: Vec<u8>,
    /// Hub key of the user.
    pub user: Uuid,
    /// Hub keys of the products, sorted and distinct; empty unless the order is closed.
    pub products: Vec<Uuid>,
    /// Hub keys of the categories, sorted and distinct; empty unless the order is closed.
    pub categories: Vec<Uuid>,
}

impl Contribution {
    /// Number of products and categories.
    #[must_use]
    pub fn entity_count(&self) -> usize {
        self.products.len() + self.categories.len()
    }
}

/// Counter deltas by user and counted entity. Sorted, so that all workers lock in the same order.
pub(super) type Deltas = BTreeMap<(Uuid, Uuid), i32>;

/// Counter deltas of both marts for one batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CounterDeltas {
    /// Deltas of `cdm.product_order_count`.
    pub products: Deltas,
    /// Deltas of `cdm.category_order_count`.
    pub categories: Deltas,
}

impl CounterDeltas {
    /// Adds a contribution that is new in the ledger.
    pub fn add(&mut self, contribution: &Contribution) {
        self.add_multiple(contribution, 1);
    }

    /// Subtracts a contribution that is no longer in the ledger.
    pub fn subtract(&mut self, contribution: &Contribution) {
        self.add_multiple(contribution, -1);
    }

    fn add_multiple(&mut self, contribution: &Contribution, factor: i32) {
        for (deltas, keys) in [
            (&mut self.products, &contribution.products),
            (&mut self.categories, &contribution.categories),
        ] {
            for &key in keys {
                *deltas.entry((contribution.user, key)).or_default() += factor;
            }
        }
    }

    /// Drops deltas of 0, so that unchanged counters are not locked.
    pub fn drop_zero_deltas(&mut self) {
        self.products.retain(|_, delta| *delta != 0);
        self.categories.retain(|_, delta| *delta != 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn contribution(order_id: i64, version: u8, user: u8, products: &[u8]) -> Contribution {
        let mut products: Vec<Uuid> = products.iter().map(|&n| Uuid::from_u128(n.into())).collect();
        products.sort_unstable();
        products.dedup();
        let categories = products.clone();
        Contribution {
            order_id,
            version: vec![version],
            user: Uuid::from_u128(user.into()),
            products,
            categories,
        }
    }

    /// Counts from scratch, over the latest version of each order.
    fn recount(facts: &[Contribution]) -> Deltas {
        let mut latest: BTreeMap<i64, &Contribution> = BTreeMap::new();
        for fact in facts {
            let current = latest.entry(fact.order_id).or_insert(fact);
            if fact.version > current.version {
                *current = fact;
            }
        }
        let mut deltas = CounterDeltas::default();
        for fact in latest.values() {
            deltas.add(fact);
        }
        deltas.products
    }

    #[test]
    fn a_removed_product_and_a_changed_user_affect_only_that_order() {
        let (old, new) = (contribution(1, 1, 7, &[1, 2]), contribution(1, 2, 8, &[2]));
        let mut deltas = CounterDeltas::default();
        deltas.subtract(&old);
        deltas.add(&new);
        let [one, two] = [1, 2].map(Uuid::from_u128);
        let [seven, eight] = [7, 8].map(Uuid::from_u128);
        assert_eq!(
            deltas.products,
            Deltas::from([((seven, one), -1), ((seven, two), -1), ((eight, two), 1)])
        );
    }

    #[test]
    fn a_contribution_has_as_many_entities_as_products_and_categories() {
        let mut fact = contribution(1, 1, 7, &[1, 2, 3]);
        fact.categories.truncate(2);
        assert_eq!(fact.entity_count(), 5);
    }

    #[test]
    fn deltas_that_cancel_out_are_dropped() {
        let fact = contribution(1, 1, 7, &[1]);
        let mut deltas = CounterDeltas::default();
        deltas.subtract(&fact);
        deltas.add(&fact);
        deltas.drop_zero_deltas();
        assert_eq!(deltas, CounterDeltas::default());
    }

    proptest! {
        /// Any order of arrival, with duplicates, leads to the counts from scratch.
        #[test]
        fn counters_equal_a_recount_for_any_order_of_arrival(
            facts in proptest::collection::vec((0..4_i64, 0..9_u8, 0..3_u8, proptest::collection::vec(0..5_u8, 0..4)), 0..40)
        ) {
            let mut by_version: BTreeMap<(i64, u8), Contribution> = BTreeMap::new();
            let facts: Vec<Contribution> = facts
                .into_iter()
                .map(|(order, version, user, products)| {
                    // One version of an order is one message, so it has the same content every time.
                    by_version
                        .entry((order, version))
                        .or_insert_with(|| contribution(order, version, user, &products))
                        .clone()
                })
                .collect();
            let mut ledger: BTreeMap<i64, Contribution> = BTreeMap::new();
            let mut counters = CounterDeltas::default();
            for fact in &facts {
                if ledger.get(&fact.order_id).is_none_or(|current| current.version < fact.version) {
                    if let Some(previous) = ledger.insert(fact.order_id, fact.clone()) {
                        counters.subtract(&previous);
                    }
                    counters.add(fact);
                }
            }
            counters.drop_zero_deltas();
            prop_assert_eq!(counters.products, recount(&facts));
        }
    }
}
