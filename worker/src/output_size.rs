//! Rejects the outputs of a batch that are larger than the output topic accepts.
//!
//! A record is never rejected by a guess, nor by an outdated limit: the limit is read again first. If it cannot be read,
//! the brokers decide.

use crate::batch::{Batch, Enriched};
use crate::layer::interface::Layer;
use crate::publish::Publisher;

/// Rejects the items whose output exceeds the limit of the topic.
pub async fn reject_oversized<L: Layer>(publisher: &Publisher, batch: &mut Batch<Enriched<L::Enriched>>) {
    let outputs = batch.state.items.iter().filter_map(|item| L::output(&item.value));
    let largest = outputs.map(|output| output.payload.len()).max();
    if let Some(limit) = publisher.exceeded_limit(largest.unwrap_or_default()).await {
        batch.reject(|value| L::output(value)?.find_rejection(limit));
    }
}
