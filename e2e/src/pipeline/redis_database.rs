//! Redis databases of tests: each test reserves one by number, because a Redis has only a few.
//!
//! Two pipelines must never share a database: the entries of one would answer the lookups of the other.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Result, bail};

use crate::orders::reference_data;
use crate::services::Services;

/// Databases for tests; a Redis that [`Services`] started has 64, and 0 is the one of `examples/local.yaml`.
const DATABASE_NUMBERS: std::ops::Range<u32> = 1..64;
/// Numbers that this process uses at present.
static RESERVED: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// A reserved Redis database. Dropping it removes its keys and releases the number.
#[derive(Debug)]
pub struct RedisDatabase {
    url: String,
    _reservation: Reservation,
}

impl RedisDatabase {
    /// Reserves a database without keys.
    ///
    /// # Errors
    /// When Redis does not answer, or every database is in use.
    pub async fn acquire(services: &Services) -> Result<Self> {
        for number in DATABASE_NUMBERS {
            let Some(reservation) = Reservation::acquire(number) else {
                continue;
            };
            let url = services.redis_url(number);
            // Another process may use it, or a pipeline may have left keys in a Redis that was stopped.
            if reference_data::is_empty(&url).await? {
                return Ok(Self {
                    url,
                    _reservation: reservation,
                });
            }
        }
        bail!("every Redis database from 1 to 63 is in use: use another Redis, or run fewer tests at a time");
    }

    /// URL of the database.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for RedisDatabase {
    fn drop(&mut self) {
        // A stopped Redis keeps its keys; `acquire` then skips the database.
        reference_data::clear(&self.url).unwrap_or_default();
    }
}

/// A number that no other pipeline of this process uses; dropping it releases the number.
#[derive(Debug)]
struct Reservation(u32);

impl Reservation {
    /// Reserves the number; `None` if it is in use.
    fn acquire(number: u32) -> Option<Self> {
        let is_free = reserved_numbers().insert(number);
        // Lazily, because dropping an unused reservation would release the number of its owner.
        is_free.then(|| Self(number))
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        reserved_numbers().remove(&self.0);
    }
}

fn reserved_numbers() -> MutexGuard<'static, BTreeSet<u32>> {
    RESERVED.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::Reservation;

    #[test]
    fn a_number_is_reserved_once_until_it_is_released() {
        // Outside of the range that other tests reserve.
        let first = Reservation::acquire(1000);
        assert!(first.is_some());
        assert!(Reservation::acquire(1000).is_none());
        assert!(
            Reservation::acquire(1000).is_none(),
            "a failed attempt releases nothing"
        );
        drop(first);
        assert!(Reservation::acquire(1000).is_some());
    }
}
