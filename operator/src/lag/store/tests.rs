//! Tests of the store, and stages with a known lag for the tests of the metrics and of the poller.

use k8s_openapi::ByteString;

use super::*;
use crate::lag::offsets::{LagError, LagErrorReason, OffsetSnapshot, PartitionSnapshot};

fn stage() -> StreamStage {
    let spec =
        "{layer: cdm, source: {bootstrapServers: [k:9092], topic: facts}, warehouse: {host: h, database: d}}";
    let status = "{desiredReplicas: 2, readyReplicas: 1, recommendedReplicas: 3, scaling: {limitedBy: Max}}";
    let text = format!(
        "{{apiVersion: streamstage.dev/v1alpha1, kind: StreamStage, metadata: {{name: cdm, namespace: orders, uid: '1'}}, spec: {spec}, status: {status}}}"
    );
    serde_saphyr::from_str(&text).expect("a stage")
}

fn connection(user: &str) -> KafkaConnection {
    let data = [("username", user), ("password", "secret")];
    let data = data.map(|(key, value)| (key.to_owned(), ByteString(value.into())));
    KafkaConnection::new(&["k:9092".to_owned()], &data.into()).expect("settings")
}

/// Registers a stage and starts its first poll.
pub(crate) fn start_poll(lag_store: &LagStore) -> Vec<Arc<PollTarget>> {
    lag_store.register(&stage(), Some(&connection("one")));
    lag_store.take_due(Instant::now()).remove(0).1
}

/// Registers a stage and records two snapshots of it.
pub(crate) fn record_two_snapshots(lag_store: &LagStore) -> Arc<PollTarget> {
    let target = start_poll(lag_store).remove(0);
    let now = Timestamp::now();
    for (seconds_ago, committed) in [(1, 5), (0, 7)] {
        let snapshot = OffsetSnapshot {
            partitions: vec![PartitionSnapshot {
                partition: 0,
                start: 0,
                end: 9,
                committed: Some(committed),
            }],
        };
        let time = now - SignedDuration::from_secs(seconds_ago);
        lag_store.record(
            &target,
            &connection("one"),
            &stage().into(),
            (Ok(snapshot), None),
            time,
        );
    }
    target
}

/// Records two failed polls: enough for the error to be reported.
pub(crate) fn record_failures(lag_store: &LagStore, target: &PollTarget) {
    for _ in 0..2 {
        let error = LagError::new(LagErrorReason::Unreachable, "no broker responds");
        lag_store.record(
            target,
            &connection("one"),
            &stage().into(),
            (Err(error), None),
            Timestamp::now(),
        );
    }
}

#[test]
fn a_cluster_id_is_known_until_the_connection_changes() {
    let lag_store = LagStore::default();
    let target = start_poll(&lag_store).remove(0);
    let id = |lag_store: &LagStore| lag_store.cluster_id(&target.stage);
    let set = |user: &str, id: &str| lag_store.set_cluster_id(&target, &connection(user), &Arc::from(id));
    assert_eq!(id(&lag_store), None);
    assert!(set("one", "x"), "it is new");
    assert!(!set("one", "x"), "it is known");
    assert!(!set("two", "y"), "a poll over another connection");
    assert_eq!(id(&lag_store).as_deref(), Some("x"));
    lag_store.register(&stage(), Some(&connection("one")));
    assert_eq!(id(&lag_store).as_deref(), Some("x"));
    lag_store.register(&stage(), Some(&connection("two")));
    assert_eq!(id(&lag_store), None);
}

#[test]
fn new_credentials_are_used_at_once_even_while_the_old_ones_fail() {
    let lag_store = LagStore::default();
    let target = start_poll(&lag_store).remove(0);
    lag_store.register(&stage(), Some(&connection("two")));
    assert!(lag_store.take_due(Instant::now()).is_empty(), "a poll is running");
    record_failures(&lag_store, &target);
    let (used, _) = lag_store.take_due(Instant::now()).remove(0);
    assert_eq!(*used, connection("two"));
    assert!(
        lag_store
            .current_view(&target, Timestamp::now())
            .lasting_error()
            .is_none(),
        "errors of the old credentials are dropped"
    );
}

#[test]
fn a_report_waits_for_its_interval_after_the_last_one() {
    let lag_store = LagStore::default();
    let target = start_poll(&lag_store).remove(0);
    for (second, interval, expected) in [
        (100, 60, true),
        (159, 60, false),
        (160, 60, true),
        (170, 0, true),
        (180, 0, true),
        (239, 60, false),
        (240, 60, true),
        // The clock stepped back.
        (10, 60, true),
        (69, 60, false),
    ] {
        let now = Timestamp::from_second(second).expect("a time");
        let interval = SignedDuration::from_secs(interval);
        let is_due = lag_store.begin_report(&target, interval, now);
        assert_eq!(is_due, expected, "{interval:?} at {second} s");
    }
}
