//! Stages whose lags are known, for the tests of whoever tells of them.

use k8s_openapi::ByteString;

use super::*;
use crate::lag::{PartitionReading, Unknown, UnknownReason};

fn stage() -> StreamStage {
    let spec =
        "{layer: cdm, source: {bootstrapServers: [k:9092], topic: facts}, warehouse: {host: h, database: d}}";
    let status = "{desiredReplicas: 2, readyReplicas: 1, scaling: {limitedBy: Max}}";
    let text = format!(
        "{{apiVersion: streamstage.dev/v1alpha1, kind: StreamStage, metadata: {{name: cdm, namespace: orders, uid: '1'}}, spec: {spec}, status: {status}}}"
    );
    serde_saphyr::from_str(&text).expect("a stage")
}

fn connection(user: &str) -> Connection {
    let data = [("username", user), ("password", "secret")];
    let data = data.map(|(key, value)| (key.to_owned(), ByteString(value.into())));
    Connection::new(&["k:9092".to_owned()], &data.into()).expect("settings")
}

/// A stage that is being read.
pub(crate) fn taken(lags: &Lags) -> Vec<Arc<Poll>> {
    lags.view(&stage(), Some(&connection("one")));
    lags.take_due(Instant::now()).remove(0).1
}

/// Has a stage read twice.
pub(crate) fn read(lags: &Lags) -> Arc<Poll> {
    let poll = taken(lags).remove(0);
    let now = Timestamp::now();
    for (seconds, committed) in [(1, 5), (0, 7)] {
        let reading = Reading {
            partitions: vec![PartitionReading {
                partition: 0,
                start: 0,
                end: 9,
                committed: Some(committed),
            }],
        };
        let then = now - SignedDuration::from_secs(seconds);
        lags.note(&poll, &connection("one"), &stage().into(), Ok(reading), then);
    }
    poll
}

/// Has the readings of the stage fail.
pub(crate) fn fail(lags: &Lags, poll: &Poll) {
    for _ in 0..2 {
        let unknown = Unknown::new(UnknownReason::Unreachable, "no broker answers");
        lags.note(
            poll,
            &connection("one"),
            &stage().into(),
            Err(unknown),
            Timestamp::now(),
        );
    }
}

#[test]
fn new_credentials_are_tried_at_once_even_while_the_old_ones_fail() {
    let lags = Lags::default();
    let poll = taken(&lags).remove(0);
    lags.view(&stage(), Some(&connection("two")));
    assert!(lags.take_due(Instant::now()).is_empty(), "it is being read");
    fail(&lags, &poll);
    let (used, _) = lags.take_due(Instant::now()).remove(0);
    assert_eq!(*used, connection("two"));
    assert!(
        lags.known(&poll, Timestamp::now()).unknown().is_none(),
        "what the old ones met is forgotten"
    );
}

#[test]
fn the_tails_of_a_stage_are_looked_into_once_at_a_time() {
    let lags = Lags::default();
    let poll = taken(&lags).remove(0);
    let look = lags.begin_look(&poll);
    assert!(look.is_some() && lags.begin_look(&poll).is_none());
    drop(look);
    assert!(lags.begin_look(&poll).is_some());
}
