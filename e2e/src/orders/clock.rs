//! Clock of the simulated source system.

use jiff::SignedDuration;
use jiff::civil::DateTime;

/// Time of the first order; the clock of the source system counts from here.
pub(super) const EPOCH: DateTime = jiff::civil::datetime(2024, 2, 24, 8, 0, 0, 0);

/// Formats seconds since [`EPOCH`] as the source system does: `2024-02-24 12:00:05`.
pub(super) fn timestamp(seconds: i64) -> String {
    (EPOCH + SignedDuration::from_secs(seconds))
        .strftime("%Y-%m-%d %H:%M:%S")
        .to_string()
}
