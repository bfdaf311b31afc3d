//! Coordinators of consumer groups, which are remembered until one of them fails.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use kafka::Metadata;

use super::brokers::{Brokers, Failure};
use super::requests;

/// Broker id of the coordinator of each group.
#[derive(Default)]
pub(super) struct Coordinators(Mutex<HashMap<String, i32>>);

impl Coordinators {
    /// Groups by the broker id of their coordinator, with the causes of those whose coordinator is unknown.
    pub(super) async fn group<'g>(
        &self,
        brokers: &Brokers,
        metadata: &Metadata,
        groups: &[&'g str],
        deadline: Instant,
    ) -> (BTreeMap<i32, Vec<&'g str>>, BTreeMap<&'g str, Failure>) {
        let (mut by_coordinator, unknown) = self.group_known(metadata, groups);
        let mut failed = BTreeMap::new();
        if unknown.is_empty() {
            return (by_coordinator, failed);
        }
        let request = |version| requests::find_coordinators(&unknown, version);
        let responses = brokers
            .request_from(&metadata.answered_by, request, deadline)
            .await;
        let found = match responses {
            Ok(responses) => requests::coordinators(&unknown, &responses),
            Err(cause) => {
                failed.extend(unknown.into_iter().map(|group| (group, cause.clone())));
                return (by_coordinator, failed);
            }
        };
        let mut known = self.lock_known();
        for (group, coordinator) in found {
            match coordinator {
                Ok(broker) => {
                    known.insert(group.to_owned(), broker);
                    by_coordinator.entry(broker).or_default().push(group);
                }
                Err(code) => drop(failed.insert(group, Failure::Code(code))),
            }
        }
        (by_coordinator, failed)
    }

    /// Groups by the broker id of their coordinator, and those without a known one.
    fn group_known<'g>(
        &self,
        metadata: &Metadata,
        groups: &[&'g str],
    ) -> (BTreeMap<i32, Vec<&'g str>>, Vec<&'g str>) {
        let known = self.lock_known();
        let mut by_coordinator = BTreeMap::<i32, Vec<&str>>::new();
        let mut unknown = Vec::new();
        for group in groups {
            match known
                .get(*group)
                .filter(|broker| metadata.brokers.contains_key(broker))
            {
                Some(broker) => by_coordinator.entry(*broker).or_default().push(group),
                None => unknown.push(*group),
            }
        }
        (by_coordinator, unknown)
    }

    /// Forgets the coordinator of a group, because it failed or is another one now.
    pub(super) fn forget(&self, group: &str) {
        self.lock_known().remove(group);
    }

    fn lock_known(&self) -> MutexGuard<'_, HashMap<String, i32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
