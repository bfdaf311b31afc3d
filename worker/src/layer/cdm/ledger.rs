//! The ledger's arithmetic: what counters change when an order's contribution is replaced. Pure.

use std::collections::BTreeMap;

use uuid::Uuid;

/// What one order adds to the counters: one to each of its dishes and categories, for its guest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contribution {
    /// The order.
    pub order_id: i64,
    /// The version that says so, as [`crate::version::Version`] encodes it.
    pub version: Vec<u8>,
    /// Hub key of the guest.
    pub user: Uuid,
    /// Hub keys of the dishes, each once, sorted; none when the order is not closed.
    pub products: Vec<Uuid>,
    /// Hub keys of the categories, each once, sorted; none when the order is not closed.
    pub categories: Vec<Uuid>,
}

/// How counters move, by guest and counted entity; sorted, so that workers lock in one order.
pub(super) type Deltas = BTreeMap<(Uuid, Uuid), i32>;

/// The movements of both marts for one batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Movements of `cdm.product_order_count`.
    pub products: Deltas,
    /// Movements of `cdm.category_order_count`.
    pub categories: Deltas,
}

impl Change {
    /// Adds what `contribution` counts.
    pub fn add(&mut self, contribution: &Contribution) {
        self.shift(contribution, 1);
    }

    /// Takes back what `contribution` counted.
    pub fn take_back(&mut self, contribution: &Contribution) {
        self.shift(contribution, -1);
    }

    fn shift(&mut self, contribution: &Contribution, by: i32) {
        for (deltas, keys) in [
            (&mut self.products, &contribution.products),
            (&mut self.categories, &contribution.categories),
        ] {
            for &key in keys {
                *deltas.entry((contribution.user, key)).or_default() += by;
            }
        }
    }

    /// Leaves out what cancels itself.
    pub fn settle(&mut self) {
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

    /// Counters by the definition: over the newest version of each order.
    fn recount(facts: &[Contribution]) -> Deltas {
        let mut newest: BTreeMap<i64, &Contribution> = BTreeMap::new();
        for fact in facts {
            let held = newest.entry(fact.order_id).or_insert(fact);
            if fact.version > held.version {
                *held = fact;
            }
        }
        let mut change = Change::default();
        for fact in newest.values() {
            change.add(fact);
        }
        change.products
    }

    #[test]
    fn a_removed_dish_and_a_changed_guest_move_that_order_alone() {
        let (old, new) = (contribution(1, 1, 7, &[1, 2]), contribution(1, 2, 8, &[2]));
        let mut change = Change::default();
        change.take_back(&old);
        change.add(&new);
        let [one, two] = [1, 2].map(Uuid::from_u128);
        let [seven, eight] = [7, 8].map(Uuid::from_u128);
        assert_eq!(
            change.products,
            Deltas::from([((seven, one), -1), ((seven, two), -1), ((eight, two), 1)])
        );
    }

    #[test]
    fn what_cancels_itself_is_left_out() {
        let fact = contribution(1, 1, 7, &[1]);
        let mut change = Change::default();
        change.take_back(&fact);
        change.add(&fact);
        change.settle();
        assert_eq!(change, Change::default());
    }

    proptest! {
        /// Any order of arrival, with repetitions, moves the counters to what the definition gives.
        #[test]
        fn arrivals_in_any_order_reach_the_recount(
            facts in proptest::collection::vec((0..4_i64, 0..9_u8, 0..3_u8, proptest::collection::vec(0..5_u8, 0..4)), 0..40)
        ) {
            let mut by_version: BTreeMap<(i64, u8), Contribution> = BTreeMap::new();
            let facts: Vec<Contribution> = facts
                .into_iter()
                .map(|(order, version, user, products)| {
                    // One version of an order is one message, so it has one content.
                    by_version
                        .entry((order, version))
                        .or_insert_with(|| contribution(order, version, user, &products))
                        .clone()
                })
                .collect();
            let mut ledger: BTreeMap<i64, Contribution> = BTreeMap::new();
            let mut counters = Change::default();
            for fact in &facts {
                if ledger.get(&fact.order_id).is_none_or(|held| held.version < fact.version) {
                    if let Some(held) = ledger.insert(fact.order_id, fact.clone()) {
                        counters.take_back(&held);
                    }
                    counters.add(fact);
                }
            }
            counters.settle();
            prop_assert_eq!(counters.products, recount(&facts));
        }
    }
}
