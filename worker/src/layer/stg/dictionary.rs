#![expect(
    clippy::disallowed_types,
    reason = "edge: reads guests and restaurants from Redis"
)]
//! The dictionary: guests, restaurants and their menus, by id.
//!
//! One MGET a batch, for the ids that the cache of parsed entries lacks. What is missing is never cached, and an
//! entry is read again after [`CACHED_FOR`], or at once when an order names a dish that a cached menu lacks.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use crds::contract::{RestaurantEntry, UserEntry};
use moka::sync::Cache;
use redis::aio::ConnectionManager;

use crate::layer::DictionaryError;
use crate::layer::stg::decode::Order;
use crate::layer::stg::enrich::{Guest, Known, Restaurant};

/// How long a parsed entry is used before it is read again.
const CACHED_FOR: Duration = Duration::from_mins(1);
/// Entries kept: about 10 MB of guests and 20 MB of menus at the most.
const CACHED_GUESTS: u64 = 50_000;
const CACHED_RESTAURANTS: u64 = 2_000;

/// The dictionary of one stage.
#[derive(Clone)]
pub struct Dictionary {
    redis: ConnectionManager,
    guests: Cache<String, Arc<Guest>>,
    restaurants: Cache<String, Arc<Restaurant>>,
}

impl Dictionary {
    /// A dictionary behind a connection that reconnects by itself.
    #[must_use]
    pub fn new(redis: ConnectionManager) -> Self {
        fn cache<V: Clone + Send + Sync + 'static>(entries: u64) -> Cache<String, V> {
            Cache::builder()
                .max_capacity(entries)
                .time_to_live(CACHED_FOR)
                .build()
        }
        Self {
            redis,
            guests: cache(CACHED_GUESTS),
            restaurants: cache(CACHED_RESTAURANTS),
        }
    }

    /// Everything that the dictionary knows of what these orders need, in one round trip at most.
    ///
    /// # Errors
    /// When Redis does not answer; an entry that is missing, or that is not what it should be, is no error.
    pub async fn lookup(
        &self,
        orders: impl Iterator<Item = &Order> + Send,
    ) -> Result<Known, DictionaryError> {
        let mut known = Known::default();
        let (mut guests, mut restaurants) = (HashSet::new(), HashSet::new());
        for order in orders {
            let payload = &order.event.payload;
            self.recall_guest(&payload.user.id, &mut known, &mut guests);
            let dishes = payload.order_items.iter().map(|line| &line.id);
            self.recall_restaurant(&payload.restaurant.id, dishes, &mut known, &mut restaurants);
        }
        self.fetch(
            guests.into_iter().collect(),
            restaurants.into_iter().collect(),
            &mut known,
        )
        .await?;
        Ok(known)
    }

    /// Takes a guest from the cache, or notes the id as wanted.
    fn recall_guest(&self, id: &String, known: &mut Known, wanted: &mut HashSet<String>) {
        if known.guests.contains_key(id) || wanted.contains(id) {
            return;
        }
        match self.guests.get(id) {
            Some(guest) => drop(known.guests.insert(id.clone(), guest)),
            None => drop(wanted.insert(id.clone())),
        }
    }

    /// Takes a restaurant from the cache, or notes the id as wanted: also when its menu lacks one of the dishes.
    fn recall_restaurant<'o>(
        &self,
        id: &String,
        mut dishes: impl Iterator<Item = &'o String>,
        known: &mut Known,
        wanted: &mut HashSet<String>,
    ) {
        if wanted.contains(id) {
            return;
        }
        let restaurant = known
            .restaurants
            .get(id)
            .cloned()
            .or_else(|| self.restaurants.get(id));
        match restaurant {
            Some(restaurant) if dishes.all(|dish| restaurant.categories.contains_key(dish)) => {
                known.restaurants.entry(id.clone()).or_insert(restaurant);
            }
            _ => drop(wanted.insert(id.clone())),
        }
    }

    /// Reads the wanted entries and remembers those that are there.
    async fn fetch(
        &self,
        guests: Vec<String>,
        restaurants: Vec<String>,
        known: &mut Known,
    ) -> Result<(), DictionaryError> {
        if guests.is_empty() && restaurants.is_empty() {
            return Ok(());
        }
        let mut command = redis::cmd("MGET");
        command.arg(&guests).arg(&restaurants);
        let mut entries: Vec<Option<Vec<u8>>> = command.query_async(&mut self.redis.clone()).await?;
        let menus = entries.split_off(guests.len());
        for (id, entry) in guests.into_iter().zip(entries) {
            if let Some(UserEntry { name, login, .. }) = parsed("user", &id, entry) {
                let guest = Arc::new(Guest { name, login });
                self.guests.insert(id.clone(), Arc::clone(&guest));
                known.guests.insert(id, guest);
            }
        }
        for (id, entry) in restaurants.into_iter().zip(menus) {
            if let Some(RestaurantEntry { name, menu, .. }) = parsed("restaurant", &id, entry) {
                let categories = menu.into_iter().map(|dish| (dish.id, dish.category)).collect();
                let restaurant = Arc::new(Restaurant { name, categories });
                self.restaurants.insert(id.clone(), Arc::clone(&restaurant));
                known.restaurants.insert(id, restaurant);
            }
        }
        Ok(())
    }
}

/// An entry of the dictionary; one that cannot be read counts as missing, and the log says so.
fn parsed<T: serde::de::DeserializeOwned>(kind: &str, id: &str, entry: Option<Vec<u8>>) -> Option<T> {
    let entry = entry?;
    serde_json::from_slice(&entry)
        .map_err(|error| {
            tracing::warn!(
                kind,
                id,
                line = error.line(),
                column = error.column(),
                "the dictionary's entry is not what it should be; it counts as missing"
            );
        })
        .ok()
}
