#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "edge: writes statuses and events to the cluster"
)]
//! Step 6 of a reconcile: writes the status and publishes the events.
//!
//! Must never write an unchanged status, nor repeat an event within `EVENT_REPEAT_INTERVAL`.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crds::{StreamStage, StreamStageStatus};
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder};
use kube::{Client, Resource as _};
use serde_json::json;

use crate::events::StageEvent;
use crate::metrics::Metrics;
use crate::owned::FIELD_MANAGER;
use crate::stage_summary::StageRef;
use crate::status::is_stalled;

/// Minimum time between two identical events of a stage.
const EVENT_REPEAT_INTERVAL: Duration = Duration::from_mins(30);
/// Maximum size of an event's note; the API server rejects a longer one.
const MAX_NOTE_BYTES: usize = 1024;

/// Events of the last `EVENT_REPEAT_INTERVAL`, by the UID of their stage, with the time of publishing.
#[derive(Debug, Default)]
pub struct PublishedEvents(Mutex<HashMap<(String, StageEvent), Instant>>);

impl PublishedEvents {
    /// Records the event; returns true if it was not published within the interval.
    fn should_publish(&self, uid: &str, event: &StageEvent) -> bool {
        let mut published = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        published.retain(|_, time| now.duration_since(*time) < EVENT_REPEAT_INTERVAL);
        let key = (uid.to_owned(), event.clone());
        let is_new = !published.contains_key(&key);
        published.entry(key).or_insert(now);
        is_new
    }
}

/// Writes the status of `stage`, if it differs from the present one.
///
/// # Errors
/// Fails if the API server is unreachable or rejects the status.
pub async fn write_status(
    stage: &StreamStage,
    status: &StreamStageStatus,
    client: &Client,
    metrics: &Metrics,
) -> kube::Result<()> {
    let stage_ref = StageRef::new(stage.name()).within(stage.namespace());
    metrics.stages.set_stalled(&stage_ref, is_stalled(status));
    if stage.status.clone().map(sort_conditions) == Some(sort_conditions(status.clone())) {
        return Ok(());
    }
    let resource = ApiResource::erase::<StreamStage>(&());
    // The response is not parsed as a StreamStage: a newer CRD may have fields that this operator does not know.
    let stages: Api<DynamicObject> = Api::namespaced_with(client.clone(), stage.namespace(), &resource);
    let patch = json!({
        "apiVersion": StreamStage::api_version(&()),
        "kind": StreamStage::kind(&()),
        "metadata": {"name": stage.name(), "uid": stage.metadata.uid},
        "status": status,
    });
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    stages
        .patch_status(stage.name(), &parameters, &Patch::Apply(patch))
        .await?;
    metrics.record_api_write("StreamStage/status");
    Ok(())
}

/// Sorts the conditions by type: the API server may return them in another order than they were applied in.
fn sort_conditions(mut status: StreamStageStatus) -> StreamStageStatus {
    status
        .conditions
        .sort_by(|left, right| left.type_.cmp(&right.type_));
    status
}

/// Publishes and logs the events of `stage`. An event that cannot be published is logged and dropped.
pub async fn publish(
    stage: &StreamStage,
    events: Vec<StageEvent>,
    recorder: &Recorder,
    published: &PublishedEvents,
) {
    let uid = stage.metadata.uid.as_deref().unwrap_or_default();
    for event in events
        .into_iter()
        .filter(|event| published.should_publish(uid, event))
    {
        let StageEvent {
            is_warning,
            reason,
            note,
        } = event;
        tracing::info!(reason, note, "event");
        let event = Event {
            type_: if is_warning {
                EventType::Warning
            } else {
                EventType::Normal
            },
            action: "Reconcile".to_owned(),
            note: Some(truncate_note(note)),
            reason,
            secondary: None,
        };
        if let Err(error) = recorder.publish(&event, &stage.object_ref(&())).await {
            tracing::warn!(reason = event.reason, %error, "failed to publish event");
        }
    }
}

/// Cuts a note to [`MAX_NOTE_BYTES`], between two characters.
fn truncate_note(mut note: String) -> String {
    if note.len() > MAX_NOTE_BYTES {
        note.truncate(note.floor_char_boundary(MAX_NOTE_BYTES));
    }
    note
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_published_once_per_stage_and_note() {
        let published = PublishedEvents::default();
        let event = |note: &str| StageEvent {
            is_warning: true,
            reason: "ImagePullFailed".to_owned(),
            note: note.to_owned(),
        };
        assert!(published.should_publish("1", &event("a")));
        assert!(!published.should_publish("1", &event("a")));
        assert!(published.should_publish("1", &event("b")));
        assert!(published.should_publish("2", &event("a")));
    }

    #[test]
    fn a_long_note_is_cut_between_characters() {
        let note = truncate_note("ж".repeat(MAX_NOTE_BYTES));
        assert_eq!(note.len(), MAX_NOTE_BYTES);
        assert_eq!(truncate_note("short".to_owned()), "short");
    }
}
