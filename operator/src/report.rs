#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "edge: writes statuses and events to the cluster"
)]
//! Last step: tells the resource's status, and what happened, to the cluster.
//!
//! Must never write a status that is there already, nor an event that was told within half an hour.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crds::{StreamStage, StreamStageStatus};
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder};
use kube::{Client, Resource as _};
use serde_json::json;

use crate::events::Happened;
use crate::metrics::Metrics;
use crate::owned::FIELD_MANAGER;
use crate::poll::Place;
use crate::status::is_stalled;

/// How long an event is not repeated.
const QUIET: Duration = Duration::from_mins(30);
/// The longest note that the API server takes, in bytes.
const LONGEST_NOTE: usize = 1024;

/// Events that were told, with when.
#[derive(Debug, Default)]
pub struct Told(Mutex<HashMap<(String, Happened), Instant>>);

impl Told {
    /// Whether an event of the stage `uid` is new, or was told long ago.
    fn is_news(&self, uid: &str, happened: &Happened) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        told.retain(|_, when| now.duration_since(*when) < QUIET);
        let event = (uid.to_owned(), happened.clone());
        let is_news = !told.contains_key(&event);
        told.entry(event).or_insert(now);
        is_news
    }
}

/// Writes the status of `stage`, if it changed.
///
/// # Errors
/// When the API server does not answer, or refuses.
pub async fn write_status(
    stage: &StreamStage,
    status: &StreamStageStatus,
    client: &Client,
    metrics: &Metrics,
) -> kube::Result<()> {
    let place = Place::new(stage.name()).within(stage.namespace());
    metrics.stalled(&place, is_stalled(status));
    if stage.status.clone().map(in_order) == Some(in_order(status.clone())) {
        return Ok(());
    }
    let resource = ApiResource::erase::<StreamStage>(&());
    // The answer is not read as a stage: an older operator must not stumble over a newer field.
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
    metrics.wrote("StreamStage/status");
    Ok(())
}

/// The API server may keep the conditions in an order of its own.
fn in_order(mut status: StreamStageStatus) -> StreamStageStatus {
    status
        .conditions
        .sort_by(|one, other| one.type_.cmp(&other.type_));
    status
}

/// Publishes what happened to `stage`. An event that cannot be told is logged, and changes nothing else.
pub async fn publish(stage: &StreamStage, happened: Vec<Happened>, recorder: &Recorder, told: &Told) {
    let uid = stage.metadata.uid.as_deref().unwrap_or_default();
    for happened in happened
        .into_iter()
        .filter(|happened| told.is_news(uid, happened))
    {
        let Happened {
            is_warning,
            reason,
            note,
        } = happened;
        tracing::info!(
            namespace = stage.namespace(),
            stage = stage.name(),
            reason,
            note,
            "event"
        );
        let event = Event {
            type_: if is_warning {
                EventType::Warning
            } else {
                EventType::Normal
            },
            action: "Reconcile".to_owned(),
            note: Some(shortened(note)),
            reason,
            secondary: None,
        };
        if let Err(error) = recorder.publish(&event, &stage.object_ref(&())).await {
            tracing::warn!(namespace = stage.namespace(), stage = stage.name(), %error, "event not published");
        }
    }
}

fn shortened(mut note: String) -> String {
    if note.len() > LONGEST_NOTE {
        note.truncate(note.floor_char_boundary(LONGEST_NOTE));
    }
    note
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_news_once_for_each_stage() {
        let told = Told::default();
        let happened = |note: &str| Happened {
            is_warning: true,
            reason: "ImagePull".to_owned(),
            note: note.to_owned(),
        };
        assert!(told.is_news("1", &happened("a")));
        assert!(!told.is_news("1", &happened("a")));
        assert!(told.is_news("1", &happened("b")));
        assert!(told.is_news("2", &happened("a")));
    }

    #[test]
    fn a_long_note_is_cut_between_characters() {
        let note = shortened("ж".repeat(LONGEST_NOTE));
        assert_eq!(note.len(), LONGEST_NOTE);
        assert_eq!(shortened("short".to_owned()), "short");
    }
}
