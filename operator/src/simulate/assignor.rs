//! Sticky assignor: deals partitions by number, and reassigns as few as that takes. Pure.

use std::collections::BTreeMap;

/// Assigns partitions to `members`, ordered by their age. `owners` is the member of each partition; `None` without one.
///
/// The numbers of partitions of two members differ by one at most.
pub(super) fn assign(members: &[usize], owners: &[Option<usize>]) -> Vec<Option<usize>> {
    if members.is_empty() {
        return vec![None; owners.len()];
    }
    let (low, extra) = (owners.len() / members.len(), owners.len() % members.len());
    let mut owned: BTreeMap<usize, Vec<usize>> = members.iter().map(|member| (*member, Vec::new())).collect();
    let mut free = Vec::new();
    for (partition, owner) in owners.iter().enumerate() {
        match owner.and_then(|owner| owned.get_mut(&owner)) {
            Some(partitions) => partitions.push(partition),
            None => free.push(partition),
        }
    }
    // Those that have most receive the rest of the division, so that they lose the fewest.
    let mut order: Vec<usize> = members.to_vec();
    order.sort_by_key(|member| (std::cmp::Reverse(owned[member].len()), *member));
    let quota = |member: &usize| {
        let position = order.iter().position(|other| other == member);
        low + usize::from(position.is_some_and(|position| position < extra))
    };
    for member in members {
        if let Some(partitions) = owned.get_mut(member) {
            let kept = quota(member).min(partitions.len());
            free.extend(partitions.drain(kept..));
        }
    }
    free.sort_unstable();
    let mut free = free.into_iter();
    let mut assigned = vec![None; owners.len()];
    let mut needy: Vec<usize> = members.to_vec();
    needy.sort_by_key(|member| {
        let missing = quota(member).saturating_sub(owned[member].len());
        std::cmp::Reverse(missing)
    });
    for member in needy {
        let partitions = owned.remove(&member).unwrap_or_default();
        let missing = quota(&member).saturating_sub(partitions.len());
        for partition in partitions.into_iter().chain(free.by_ref().take(missing)) {
            assigned[partition] = Some(member);
        }
    }
    assigned
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_new_member_takes_as_few_partitions_as_possible() {
        let one = assign(&[0], &[None; 6]);
        assert_eq!(one, [Some(0); 6]);
        let two = assign(&[0, 1], &one);
        assert_eq!(two, [Some(0), Some(0), Some(0), Some(1), Some(1), Some(1)]);
        let three = assign(&[0, 1, 2], &two);
        assert_eq!(three, [Some(0), Some(0), Some(2), Some(1), Some(1), Some(2)]);
        assert_eq!(assign(&[], &two), [None; 6]);
        assert_eq!(assign(&[0], &three), [Some(0); 6]);
    }

    proptest! {
        #[test]
        fn numbers_differ_by_one_at_most(partitions in 1_usize..40, counts in prop::collection::vec(1_usize..20, 1..6)) {
            let mut owners = vec![None; partitions];
            for count in counts {
                let members: Vec<usize> = (0..count).collect();
                owners = assign(&members, &owners);
                let numbers: Vec<usize> = members
                    .iter()
                    .map(|member| owners.iter().filter(|owner| **owner == Some(*member)).count())
                    .collect();
                let (min, max) = (numbers.iter().min(), numbers.iter().max());
                prop_assert!(max.zip(min).is_some_and(|(max, min)| max - min <= 1), "{numbers:?}");
                prop_assert_eq!(numbers.iter().sum::<usize>(), partitions);
            }
        }
    }
}
