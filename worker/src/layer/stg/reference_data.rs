#![expect(
    clippy::disallowed_methods,
    reason = "edge: looks up entries in Redis at a time"
)]
//! Reference data in Redis: users, and restaurants with their menus, by normalized id.
//!
//! A batch needs two requests for the ids that are not in the cache of parsed entries: their sizes, so that an entry that is
//! too large is not read, and their values. If an entry is missing, a third one shows whether it has another type. Neither
//! a missing nor a malformed entry is ever cached. A cached entry is read again after [`CACHE_TTL`]. A restaurant is also
//! read again when an order has a product that is not on the cached menu.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use moka::sync::Cache;

use crate::layer::interface::LookupError;
use crate::layer::order_fields::FIELDS;
use crate::layer::stg::decode::Order;
use crate::layer::stg::enrich::LookupResult;
use crate::layer::stg::entry::{Entry, Restaurant, User};
use crate::layer::stg::known_entries::{KnownEntries, MAX_ENTRIES};
use crate::layer::stg::sized_read::{MAX_ENTRY_BYTES, StoredSize, fetch_sizes, fetch_values, split_requests};
use crate::metrics::Metrics;
use crate::redis_connection::RedisConnection;

/// Cause and remedy if Redis is a cluster.
pub const REDIS_CLUSTER_UNSUPPORTED: &str = "a Redis Cluster rejects the lookup of entries of other servers (MOVED, \
     CROSSSLOT); set spec.referenceData.url to a single server, or to a proxy";

/// Type that Redis reports for a key that does not exist.
const ABSENT: &str = "none";
/// Lifetime of a cached entry, and interval between two log lines about a malformed entry.
const CACHE_TTL: Duration = Duration::from_mins(1);
/// Maximum size of the cached users.
const USER_CACHE_BYTES: usize = 12 << 20;
/// Maximum size of the cached restaurants.
const RESTAURANT_CACHE_BYTES: usize = 24 << 20;
/// Maximum number of malformed entries whose log lines are remembered.
const REPORTED_CAPACITY: u64 = 10_000;
/// Bytes of a cached entry or of a product besides its texts, about.
const OVERHEAD_BYTES: usize = 150;

/// Reference data of one stage, with a cache of parsed entries.
#[derive(Clone)]
pub struct ReferenceDataStore {
    redis: RedisConnection,
    users: Cache<String, Arc<User>>,
    restaurants: Cache<String, Arc<Restaurant>>,
    /// Entries that were found last, common to the clones.
    known: Arc<Mutex<KnownEntries>>,
    /// Malformed entries that were logged, by key and defect.
    reported: Cache<(String, String), ()>,
    stage: String,
    metrics: Metrics,
}

impl ReferenceDataStore {
    /// Creates a store with an empty cache.
    #[must_use]
    pub fn new(redis: RedisConnection, stage: &str, metrics: Metrics) -> Self {
        let user_bytes =
            |id: &String, user: &Arc<User>| id.len() + user.name.len() + user.login.len() + OVERHEAD_BYTES;
        let restaurant_bytes = |id: &String, restaurant: &Arc<Restaurant>| {
            id.len() + restaurant.size_bytes() + (restaurant.products.len() + 1) * OVERHEAD_BYTES
        };
        Self {
            redis,
            users: cache(USER_CACHE_BYTES, user_bytes),
            restaurants: cache(RESTAURANT_CACHE_BYTES, restaurant_bytes),
            known: Arc::default(),
            reported: Cache::builder()
                .max_capacity(REPORTED_CAPACITY)
                .time_to_live(CACHE_TTL)
                .build(),
            stage: stage.to_owned(),
            metrics,
        }
    }

    /// Returns true if the server is a Redis Cluster, and false if it does not respond or does not tell.
    pub async fn is_cluster(&self) -> bool {
        let mut command = redis::cmd("INFO");
        let info: Result<String, _> = command.arg("cluster").query_async(&mut self.redis.clone()).await;
        info.is_ok_and(|info| info.lines().any(|line| line == "cluster_enabled:1"))
    }

    /// Looks up the entries that these orders need, in two or three round trips, and one more for every 8 MiB.
    ///
    /// # Errors
    /// If Redis fails, or has lost most of the entries that were found before. A missing or malformed entry is not an
    /// error.
    pub async fn look_up(
        &self,
        orders: impl Iterator<Item = &Order> + Send,
    ) -> Result<LookupResult, LookupError> {
        let mut result = LookupResult {
            looked_up_at: Timestamp::now().as_microsecond(),
            ..LookupResult::default()
        };
        let (mut users, mut restaurants) = (HashSet::new(), HashSet::new());
        for order in orders {
            let (user, restaurant) = (
                order.row.text(FIELDS.user_id),
                order.row.text(FIELDS.restaurant_id),
            );
            self.take_cached_user(user, &mut result, &mut users);
            self.take_cached_restaurant(restaurant, order.row.product_ids(), &mut result, &mut restaurants);
        }
        let users = users.into_iter().map(|id| (Kind::User, id));
        let restaurants = restaurants.into_iter().map(|id| (Kind::Restaurant, id));
        let keys: Vec<(Kind, String)> = users.chain(restaurants).collect();
        if !keys.is_empty() {
            self.fetch(&keys, &mut result).await?;
        }
        Ok(result)
    }

    /// Copies a user from the cache to the result, or adds its id to `missing`.
    fn take_cached_user(&self, id: &str, result: &mut LookupResult, missing: &mut HashSet<String>) {
        if result.users.contains_key(id) || missing.contains(id) {
            return;
        }
        match self.users.get(id) {
            Some(user) => drop(result.users.insert(id.to_owned(), Entry::Usable(user))),
            None => drop(missing.insert(id.to_owned())),
        }
    }

    /// Copies a restaurant from the cache to the result, or adds its id to `missing`, also if one of the products is not
    /// on its menu, or is malformed.
    fn take_cached_restaurant<'o>(
        &self,
        id: &str,
        mut products: impl Iterator<Item = &'o str>,
        result: &mut LookupResult,
        missing: &mut HashSet<String>,
    ) {
        if missing.contains(id) {
            return;
        }
        let restaurant = match result.restaurants.get(id) {
            Some(Entry::Usable(restaurant)) => Some(Arc::clone(restaurant)),
            _ => self.restaurants.get(id),
        };
        let has = |restaurant: &Restaurant, product| matches!(restaurant.products.get(product), Some(Ok(_)));
        match restaurant {
            Some(restaurant) if products.all(|product| has(&restaurant, product)) => {
                let entry = result.restaurants.entry(id.to_owned());
                entry.or_insert(Entry::Usable(restaurant));
            }
            _ => drop(missing.insert(id.to_owned())),
        }
    }

    fn add_user(&self, id: String, entry: Entry<User>, result: &mut LookupResult) {
        match &entry {
            Entry::Usable(user) => self.users.insert(id.clone(), Arc::clone(user)),
            Entry::Malformed(defect) => self.report_malformed("user", &id, defect),
        }
        result.users.insert(id, entry);
    }

    fn add_restaurant(&self, id: String, entry: Entry<Restaurant>, result: &mut LookupResult) {
        match &entry {
            Entry::Usable(restaurant) => {
                let products = restaurant.products.values();
                let defects = products.filter_map(|product| product.as_ref().err());
                for defect in defects.chain(&restaurant.unidentified) {
                    self.report_malformed("product", &id, defect);
                }
                self.restaurants.insert(id.clone(), Arc::clone(restaurant));
            }
            Entry::Malformed(defect) => self.report_malformed("restaurant", &id, defect),
        }
        result.restaurants.insert(id, entry);
    }

    /// Counts a malformed entry, and logs it once per [`CACHE_TTL`].
    fn report_malformed(&self, kind: &'static str, key: &str, defect: &str) {
        self.metrics.record_malformed_entry(&self.stage, kind);
        let reported = self.reported.entry((key.to_owned(), defect.to_owned()));
        if reported.or_insert(()).is_fresh() {
            tracing::warn!(
                kind,
                key,
                defect,
                "malformed reference data entry, treated as missing"
            );
        }
    }

    /// Reads entries from Redis, and adds them to the result. Holds the bytes of one request at a time.
    async fn fetch(&self, keys: &[(Kind, String)], result: &mut LookupResult) -> Result<(), LookupError> {
        let mut redis = self.redis.clone();
        let ids: Vec<&String> = keys.iter().map(|(_, id)| id).collect();
        let sizes = fetch_sizes(&mut redis, &ids).await?;
        self.remember(keys, &sizes);
        let (mut readable, mut absent) = (Vec::new(), Vec::new());
        for (key, size) in keys.iter().zip(sizes) {
            match size {
                StoredSize::Bytes(bytes) if bytes > MAX_ENTRY_BYTES => {
                    self.add(key, StoredValue::TooLarge(bytes), result);
                }
                StoredSize::Bytes(bytes) => readable.push((key, bytes)),
                StoredSize::Empty | StoredSize::OtherType => absent.push(key),
            }
        }
        if !absent.is_empty() {
            let ids: Vec<&String> = absent.iter().map(|(_, id)| id).collect();
            let types = self.fetch_types(&ids).await?;
            for key in absent {
                let kind = types.get(&key.1).map_or(ABSENT, String::as_str);
                self.add(key, StoredValue::without_text(kind), result);
            }
        }
        for request in split_requests(&readable) {
            let ids = request.iter().map(|((_, id), bytes)| (id, *bytes));
            let values = fetch_values(&mut redis, ids).await?;
            for ((key, _), value) in request.iter().zip(values) {
                self.add(key, StoredValue::Text(value), result);
            }
        }
        Ok(())
    }

    /// Adds the entry of a value to the result, unless it is missing.
    fn add(&self, (kind, id): &(Kind, String), value: StoredValue, result: &mut LookupResult) {
        match kind {
            Kind::User => {
                if let Some(entry) = value.parse(User::parse) {
                    self.add_user(id.clone(), entry, result);
                }
            }
            Kind::Restaurant => {
                if let Some(entry) = value.parse(Restaurant::parse) {
                    self.add_restaurant(id.clone(), entry, result);
                }
            }
        }
    }

    /// Reads the Redis types of these keys, and checks that the known entries still exist. Empty if the stage may not
    /// read the type of a key.
    async fn fetch_types(&self, keys: &[&String]) -> Result<HashMap<String, String>, LookupError> {
        let known = self.lock_known_entries().keys();
        let keys: Vec<&String> = keys.iter().copied().chain(&known).collect();
        let mut pipeline = redis::pipe();
        for key in &keys {
            pipeline.cmd("TYPE").arg(key);
        }
        let mut redis = self.redis.clone();
        let types = pipeline.query_async::<Vec<String>>(&mut redis).await;
        let types: HashMap<String, String> = match types {
            Ok(types) => keys.into_iter().cloned().zip(types).collect(),
            Err(error) if error.code() == Some("NOPERM") => return Ok(HashMap::new()),
            Err(error) => return Err(error.into()),
        };
        let exists = |key: &String| types.get(key).is_some_and(|kind| kind != ABSENT);
        match self.lock_known_entries().find_loss(exists) {
            Some(loss) => Err(LookupError::Vanished(format!("{loss} are missing"))),
            None => Ok(types),
        }
    }

    /// Fails if Redis has no key at all: then it says nothing about the entries of an order.
    ///
    /// # Errors
    /// If Redis fails, or is empty.
    pub async fn check_not_empty(&self) -> Result<(), LookupError> {
        let keys: u64 = redis::cmd("DBSIZE").query_async(&mut self.redis.clone()).await?;
        if keys == 0 {
            return Err(LookupError::Vanished("Redis has no key".to_owned()));
        }
        Ok(())
    }

    /// Makes entries known that existed before the start of this worker.
    pub fn recall(&self, users: &[String], restaurants: &[String]) {
        let mut known = self.lock_known_entries();
        for id in users {
            known.remember_user(id);
        }
        for id in restaurants {
            known.remember_restaurant(id);
        }
    }

    /// Remembers the entries that have a value.
    fn remember(&self, keys: &[(Kind, String)], sizes: &[StoredSize]) {
        let mut known = self.lock_known_entries();
        let exist = keys
            .iter()
            .zip(sizes)
            .filter(|(_, size)| matches!(size, StoredSize::Bytes(_)));
        let existing = |wanted: Kind| {
            let ids = exist.clone().filter(move |((kind, _), _)| *kind == wanted);
            ids.map(|((_, id), _)| id).take(MAX_ENTRIES)
        };
        existing(Kind::User).for_each(|id| known.remember_user(id));
        existing(Kind::Restaurant).for_each(|id| known.remember_restaurant(id));
    }

    fn lock_known_entries(&self) -> MutexGuard<'_, KnownEntries> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Kind of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    User,
    Restaurant,
}

/// Value of a key in Redis.
enum StoredValue {
    /// The key does not exist.
    Missing,
    /// A string, of any bytes.
    Text(Vec<u8>),
    /// The size of a string that is not read.
    TooLarge(usize),
    /// The type of a value that is not a string, such as `hash`.
    OtherType(String),
}

impl StoredValue {
    /// Value of a key without bytes, of this type.
    fn without_text(kind: &str) -> Self {
        match kind {
            ABSENT => Self::Missing,
            "string" => Self::Text(Vec::new()),
            other => Self::OtherType(other.to_owned()),
        }
    }

    /// Parses the value as an entry; `None` if it is missing.
    fn parse<T>(self, parse: impl Fn(&[u8]) -> Result<T, String>) -> Option<Entry<T>> {
        match self {
            Self::Missing => None,
            Self::Text(text) => Some(Entry::new(parse(&text))),
            Self::TooLarge(bytes) => {
                let defect = format!("{bytes} bytes, the maximum is {MAX_ENTRY_BYTES}");
                Some(Entry::Malformed(defect))
            }
            Self::OtherType(kind) => Some(Entry::Malformed(format!("a Redis {kind}, not a string"))),
        }
    }
}

/// Creates a cache of at most `max_bytes`, in which an entry has the size that `size_bytes` returns.
fn cache<K: Hash + Eq + Send + Sync + 'static, V: Clone + Send + Sync + 'static>(
    max_bytes: usize,
    size_bytes: impl Fn(&K, &V) -> usize + Send + Sync + 'static,
) -> Cache<K, V> {
    Cache::builder()
        .max_capacity(max_bytes as u64)
        .weigher(move |key, value| u32::try_from(size_bytes(key, value)).unwrap_or(u32::MAX))
        .time_to_live(CACHE_TTL)
        .build()
}
