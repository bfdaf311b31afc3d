//! Size limit of the output topic, shared by the publisher and the layers. Pure.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of a producer batch besides the value: batch header, key and version.
pub(super) const RECORD_OVERHEAD_BYTES: usize = 512;

/// Largest value that the output topic accepts, in bytes. Clones share the value, which the publisher refreshes.
#[derive(Clone, Debug)]
pub struct OutputLimit(Arc<AtomicUsize>);

impl OutputLimit {
    /// Limit that is not known yet. Nothing exceeds it: a guess must never reject a record.
    #[must_use]
    pub fn unknown() -> Self {
        Self(Arc::new(AtomicUsize::new(usize::MAX)))
    }

    /// Limit of a topic with this `max.message.bytes`.
    #[must_use]
    pub fn from_max_message_bytes(max_message_bytes: usize) -> Self {
        let limit = Self(Arc::default());
        limit.set_max_message_bytes(max_message_bytes);
        limit
    }

    /// Maximum bytes of a value; `usize::MAX` if the limit is unknown.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn forget(&self) {
        self.0.store(usize::MAX, Ordering::Relaxed);
    }

    pub(super) fn set_max_message_bytes(&self, max_message_bytes: usize) {
        let bytes = max_message_bytes.saturating_sub(RECORD_OVERHEAD_BYTES);
        self.0.store(bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_exceeds_an_unknown_limit() {
        let limit = OutputLimit::unknown();
        assert_eq!(limit.bytes(), usize::MAX);
        limit.set_max_message_bytes(1_048_588);
        assert_eq!(limit.bytes(), 1_048_588 - RECORD_OVERHEAD_BYTES);
        limit.forget();
        assert_eq!(limit.bytes(), usize::MAX);
    }
}
