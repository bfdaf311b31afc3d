#![expect(
    clippy::disallowed_types,
    reason = "edge: reads users and restaurants from Redis"
)]
//! Reference data in Redis: users, and restaurants with their menus, by id.
//!
//! A batch needs at most one MGET, for the ids that are not in the cache of parsed entries. A missing entry is never
//! cached. A cached entry is read again after [`CACHE_TTL`]. A restaurant is also read again when an order has a product
//! that is not on the cached menu.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use crds::contract::{RestaurantEntry, UserEntry};
use moka::sync::Cache;

use crate::layer::interface::LookupError;
use crate::layer::stg::decode::Order;
use crate::layer::stg::enrich::{LookupResult, Restaurant, User};
use crate::redis_connection::RedisConnection;

/// Lifetime of a cached entry.
const CACHE_TTL: Duration = Duration::from_mins(1);
/// Maximum number of cached users, which need about 10 MB.
const USER_CACHE_CAPACITY: u64 = 50_000;
/// Maximum number of cached restaurants, which need about 20 MB with their menus.
const RESTAURANT_CACHE_CAPACITY: u64 = 2_000;

/// Reference data of one stage, with a cache of parsed entries.
#[derive(Clone)]
pub struct ReferenceDataStore {
    redis: RedisConnection,
    users: Cache<String, Arc<User>>,
    restaurants: Cache<String, Arc<Restaurant>>,
}

impl ReferenceDataStore {
    /// Creates a store with an empty cache.
    #[must_use]
    pub fn new(redis: RedisConnection) -> Self {
        fn cache<V: Clone + Send + Sync + 'static>(capacity: u64) -> Cache<String, V> {
            Cache::builder()
                .max_capacity(capacity)
                .time_to_live(CACHE_TTL)
                .build()
        }
        Self {
            redis,
            users: cache(USER_CACHE_CAPACITY),
            restaurants: cache(RESTAURANT_CACHE_CAPACITY),
        }
    }

    /// Looks up the entries that these orders need, in at most one round trip.
    ///
    /// # Errors
    /// If Redis fails. A missing or malformed entry is not an error: the result does not contain it.
    pub async fn look_up(
        &self,
        orders: impl Iterator<Item = &Order> + Send,
    ) -> Result<LookupResult, LookupError> {
        let mut result = LookupResult::default();
        let (mut missing_users, mut missing_restaurants) = (HashSet::new(), HashSet::new());
        for order in orders {
            let payload = &order.event.payload;
            self.take_cached_user(&payload.user.id, &mut result, &mut missing_users);
            let products = payload.order_items.iter().map(|line| &line.id);
            self.take_cached_restaurant(
                &payload.restaurant.id,
                products,
                &mut result,
                &mut missing_restaurants,
            );
        }
        self.fetch(
            missing_users.into_iter().collect(),
            missing_restaurants.into_iter().collect(),
            &mut result,
        )
        .await?;
        Ok(result)
    }

    /// Copies a user from the cache to the result, or adds its id to `missing`.
    fn take_cached_user(&self, id: &String, result: &mut LookupResult, missing: &mut HashSet<String>) {
        if result.users.contains_key(id) || missing.contains(id) {
            return;
        }
        match self.users.get(id) {
            Some(user) => drop(result.users.insert(id.clone(), user)),
            None => drop(missing.insert(id.clone())),
        }
    }

    /// Copies a restaurant from the cache to the result, or adds its id to `missing`, also if one of the products is not
    /// on its menu.
    fn take_cached_restaurant<'o>(
        &self,
        id: &String,
        mut products: impl Iterator<Item = &'o String>,
        result: &mut LookupResult,
        missing: &mut HashSet<String>,
    ) {
        if missing.contains(id) {
            return;
        }
        let restaurant = result
            .restaurants
            .get(id)
            .cloned()
            .or_else(|| self.restaurants.get(id));
        match restaurant {
            Some(restaurant) if products.all(|product| restaurant.categories.contains_key(product)) => {
                result.restaurants.entry(id.clone()).or_insert(restaurant);
            }
            _ => drop(missing.insert(id.clone())),
        }
    }

    /// Reads entries from Redis into the cache and the result.
    async fn fetch(
        &self,
        users: Vec<String>,
        restaurants: Vec<String>,
        result: &mut LookupResult,
    ) -> Result<(), LookupError> {
        if users.is_empty() && restaurants.is_empty() {
            return Ok(());
        }
        let mut command = redis::cmd("MGET");
        command.arg(&users).arg(&restaurants);
        let mut entries: Vec<Option<Vec<u8>>> = command.query_async(&mut self.redis.clone()).await?;
        let restaurant_entries = entries.split_off(users.len());
        for (id, entry) in users.into_iter().zip(entries) {
            if let Some(UserEntry { name, login, .. }) = parse_entry("user", &id, entry) {
                let user = Arc::new(User { name, login });
                self.users.insert(id.clone(), Arc::clone(&user));
                result.users.insert(id, user);
            }
        }
        for (id, entry) in restaurants.into_iter().zip(restaurant_entries) {
            if let Some(RestaurantEntry { name, menu, .. }) = parse_entry("restaurant", &id, entry) {
                let categories = menu
                    .into_iter()
                    .map(|product| (product.id, product.category))
                    .collect();
                let restaurant = Arc::new(Restaurant { name, categories });
                self.restaurants.insert(id.clone(), Arc::clone(&restaurant));
                result.restaurants.insert(id, restaurant);
            }
        }
        Ok(())
    }
}

/// Parses an entry. A malformed entry is logged and treated as missing, because a later update can repair it.
fn parse_entry<T: serde::de::DeserializeOwned>(kind: &str, id: &str, entry: Option<Vec<u8>>) -> Option<T> {
    let entry = entry?;
    serde_json::from_slice(&entry)
        .map_err(|error| {
            tracing::warn!(
                kind,
                id,
                line = error.line(),
                column = error.column(),
                "malformed reference data entry, treated as missing"
            );
        })
        .ok()
}
