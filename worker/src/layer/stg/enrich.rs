//! Enriches an order with reference data. Pure: the result of the lookup is passed in.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use crate::decode::DecodeSettings;
use crate::encode::write_message;
use crate::layer::order_fields::FIELDS;
use crate::layer::stg::decode::Order;
use crate::layer::stg::entry::{Entry, Product, Restaurant, User};
use crate::output::Output;
use crate::plan::ORDERS;
use crate::rejection::{Code, Rejection};
use crate::vault::{Row, Value};
use crate::version::Version;

/// Maximum number of missing entries that are listed for one order, which may have thousands of lines.
const MAX_LISTED_ENTRIES: usize = 20;
/// Minimum number of orders of a batch that can reveal an outage of the reference data.
const MIN_ORDERS: usize = crate::hold::MIN_RECORDS;
/// Minimum number of entries that are missing or malformed in an outage.
const MIN_MISSING_ENTRIES: usize = 5;

/// Order event after the enrich step, ready to be written.
#[derive(Clone, Debug)]
pub struct Enriched {
    /// Id of the order.
    pub object_id: i64,
    /// `sent_dttm`, in microseconds since the Unix epoch.
    pub sent: i64,
    /// Version of the order.
    pub version: Version,
    /// Result of the enrichment.
    pub enrichment: Enrichment,
}

/// Result of the enrichment of one order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Enrichment {
    /// Message for the next layer; all entries were there.
    Ready(Output),
    /// Entries that cannot be used. The order is pending until they can.
    Missing(MissingEntries),
}

/// Reference data entries that an order needs and that are missing or malformed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MissingEntries {
    /// Each entry once, in the order of the message, like `user 626a…`; a malformed one with its defect.
    pub entries: Vec<String>,
    /// True if one of the entries exists, and is malformed.
    pub has_malformed: bool,
}

impl MissingEntries {
    /// Adds an entry; `defect` is `None` if it does not exist.
    fn add(&mut self, entry: String, defect: Option<&str>) {
        self.has_malformed |= defect.is_some();
        let entry = match defect {
            Some(defect) => format!("{entry} (malformed, {defect})"),
            None => entry,
        };
        if self.entries.len() < MAX_LISTED_ENTRIES {
            if !self.entries.contains(&entry) {
                self.entries.push(entry);
            }
        } else if self.entries.len() == MAX_LISTED_ENTRIES && !self.entries.contains(&entry) {
            self.entries.push("and others".to_owned());
        }
    }

    /// Rejection of an order that has waited for these entries for `waited_seconds`.
    #[must_use]
    pub fn into_rejection(self, waited_seconds: f64) -> Rejection {
        let entries = self.entries.join(", ");
        if self.has_malformed {
            let detail =
                format!("{entries} malformed or missing in the reference data for {waited_seconds:.0} s");
            return Rejection::new(Code::ReferenceDataMalformed, detail);
        }
        let detail = format!("{entries} missing in the reference data for {waited_seconds:.0} s");
        Rejection::new(Code::ReferenceDataMissing, detail)
    }
}

/// Reference data entries that were found for a batch, by id. An id without an entry is missing.
#[derive(Debug, Default)]
pub struct LookupResult {
    /// Users.
    pub users: HashMap<String, Entry<User>>,
    /// Restaurants with their menus.
    pub restaurants: HashMap<String, Entry<Restaurant>>,
    /// Time of the lookup, in microseconds since the Unix epoch.
    pub looked_up_at: i64,
}

/// Reference data of one order.
struct OrderEntries<'l> {
    user: &'l User,
    restaurant: &'l Restaurant,
    /// Product of each line.
    products: Vec<&'l Product>,
}

impl LookupResult {
    /// Finds the entries that an order needs, or lists those that cannot be used.
    fn find_entries(&self, order: &Row<'_>) -> Result<OrderEntries<'_>, MissingEntries> {
        let mut missing = MissingEntries::default();
        let restaurant_id = order.text(FIELDS.restaurant_id);
        let user = find(&self.users, "user", order.text(FIELDS.user_id), &mut missing);
        let restaurant = find(&self.restaurants, "restaurant", restaurant_id, &mut missing);
        let Some(restaurant) = restaurant else {
            return Err(missing);
        };
        let mut products = Vec::with_capacity(order.product_ids().len());
        for product in order.product_ids() {
            match find_product(restaurant, product) {
                Ok(product) => products.push(product),
                Err(defect) => {
                    missing.add(
                        format!("product {product} in the menu of restaurant {restaurant_id}"),
                        defect,
                    );
                }
            }
        }
        match user {
            Some(user) if missing.entries.is_empty() => Ok(OrderEntries {
                user,
                restaurant,
                products,
            }),
            _ => Err(missing),
        }
    }
}

impl LookupResult {
    /// Returns the cause if most of the users, restaurants and products that these orders need are missing or malformed.
    /// A few entries never are a cause, however many orders need them.
    pub(super) fn find_outage<'o>(&self, orders: impl Iterator<Item = &'o Row<'static>>) -> Option<String> {
        let (mut total, mut needed, mut missing) = (0_usize, 0_usize, 0_usize);
        let mut missing_entries: HashSet<(&str, &str)> = HashSet::new();
        for order in orders {
            let (user, restaurant) = (order.text(FIELDS.user_id), order.text(FIELDS.restaurant_id));
            total += 1;
            needed += 2 + order.product_ids().len();
            if !matches!(self.users.get(user), Some(Entry::Usable(_))) {
                missing += 1;
                missing_entries.insert(("user", user));
            }
            let Some(Entry::Usable(entry)) = self.restaurants.get(restaurant) else {
                missing += 1 + order.product_ids().len();
                missing_entries.insert(("restaurant", restaurant));
                continue;
            };
            for product in order.product_ids() {
                if find_product(entry, product).is_err() {
                    missing += 1;
                    missing_entries.insert((restaurant, product));
                }
            }
        }
        let is_outage =
            total >= MIN_ORDERS && missing * 2 > needed && missing_entries.len() >= MIN_MISSING_ENTRIES;
        is_outage.then(|| {
            format!(
                "{missing} of {needed} users, restaurants and products that {total} orders need are missing or malformed; \
                 restore them, or correct spec.referenceData.url"
            )
        })
    }
}

/// Finds an entry, or adds it to `missing`.
fn find<'l, T>(
    entries: &'l HashMap<String, Entry<T>>,
    kind: &str,
    id: &str,
    missing: &mut MissingEntries,
) -> Option<&'l T> {
    let defect = match entries.get(id) {
        Some(Entry::Usable(entry)) => return Some(entry),
        Some(Entry::Malformed(defect)) => Some(defect.as_str()),
        None => None,
    };
    missing.add(format!("{kind} {id}"), defect);
    None
}

/// Finds a product. The error is the defect of the product, or of one that could be it; `None` if the product is not on the
/// menu.
fn find_product<'l>(restaurant: &'l Restaurant, product: &str) -> Result<&'l Product, Option<&'l str>> {
    match restaurant.products.get(product) {
        Some(Ok(product)) => Ok(product),
        Some(Err(defect)) => Err(Some(defect)),
        None => Err(restaurant.unidentified.first().map(String::as_str)),
    }
}

/// Enriches one order, or lists the entries that cannot be used.
#[must_use]
pub(super) fn enrich_order(settings: &DecodeSettings, order: Order, lookup: &LookupResult) -> Enriched {
    let Order { mut row, version } = order;
    let (object_id, sent) = (row.order_id(), row.time(FIELDS.sent).as_microsecond());
    let enrichment = match lookup.find_entries(&row) {
        Ok(entries) => {
            fill_lookups(settings, &mut row, &entries, lookup.looked_up_at);
            Enrichment::Ready(Output {
                object_id,
                payload: write_message(&ORDERS.enriched_message, &row),
                version,
            })
        }
        Err(missing) => Enrichment::Missing(missing),
    };
    Enriched {
        object_id,
        sent,
        version,
        enrichment,
    }
}

/// Fills the slots of the looked-up fields.
fn fill_lookups<'l>(
    settings: &DecodeSettings,
    row: &mut Row<'l>,
    entries: &OrderEntries<'l>,
    looked_up_at: i64,
) {
    let text = |text: &'l str| Value::Text(Cow::Borrowed(text));
    row.record[FIELDS.user_name] = text(&entries.user.name);
    row.record[FIELDS.user_login] = text(&entries.user.login);
    row.record[FIELDS.restaurant_name] = text(&entries.restaurant.name);
    let lines = row.arrays[0].elements_mut();
    for (line, product) in lines.zip(&entries.products) {
        line[FIELDS.category] = text(&product.category);
        line[FIELDS.menu_name] = product.name.as_deref().map_or(Value::Null, text);
    }
    let entry_time = |text: &Option<String>| settings.entry_time(text.as_deref()?, looked_up_at);
    row.entry_times = vec![
        entry_time(&entries.user.update_ts),
        entry_time(&entries.restaurant.update_ts),
    ];
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::vault::Elements;

    fn order(user: &str, restaurant: &str, products: &[&str]) -> Row<'static> {
        let text = |text: &str| Value::Text(Cow::Owned(text.to_owned()));
        let slots = &ORDERS.slots;
        let mut record = vec![Value::Null; slots.record_width];
        record[FIELDS.user_id] = text(user);
        record[FIELDS.restaurant_id] = text(restaurant);
        let width = slots.element_widths[0];
        let lines = products.iter().flat_map(|product| {
            let mut line = vec![Value::Null; width];
            line[FIELDS.product_id] = text(product);
            line
        });
        Row {
            record,
            arrays: vec![Elements {
                width,
                values: lines.collect(),
            }],
            entry_times: Vec::new(),
        }
    }

    /// The users `u0` to `u9`, and the restaurant `r` with the products `p0` to `p9`.
    fn lookup() -> LookupResult {
        let user = || User {
            name: "A".into(),
            login: "a".into(),
            update_ts: None,
        };
        let product = || Product {
            category: "C".into(),
            name: None,
        };
        let restaurant = Restaurant {
            name: "R".into(),
            update_ts: None,
            products: (0..10)
                .map(|number| (format!("p{number}"), Ok(product())))
                .collect(),
            unidentified: Vec::new(),
        };
        LookupResult {
            users: (0..10)
                .map(|number| (format!("u{number}"), Entry::Usable(Arc::new(user()))))
                .collect(),
            restaurants: HashMap::from([("r".into(), Entry::Usable(Arc::new(restaurant)))]),
            looked_up_at: 0,
        }
    }

    #[test]
    fn each_missing_entry_is_listed_once_and_a_malformed_one_with_its_defect() {
        let mut lookup = lookup();
        let missing = lookup
            .find_entries(&order("u", "r", &["p1", "x", "x", "y"]))
            .err()
            .expect("missing entries");
        let products = [
            "product x in the menu of restaurant r",
            "product y in the menu of restaurant r",
        ];
        assert_eq!(missing.entries, ["user u", products[0], products[1]]);
        assert_eq!(missing.into_rejection(7.0).code, Code::ReferenceDataMissing);
        lookup
            .users
            .insert("u".into(), Entry::Malformed("/name: invalid".into()));
        let missing = lookup
            .find_entries(&order("u", "q", &[]))
            .err()
            .expect("missing entries");
        assert_eq!(
            missing.entries,
            ["user u (malformed, /name: invalid)", "restaurant q"]
        );
        assert_eq!(missing.into_rejection(7.0).code, Code::ReferenceDataMalformed);
    }

    #[test]
    fn the_list_of_missing_entries_is_bounded() {
        let products: Vec<String> = (0..9000).map(|number| format!("x{number}")).collect();
        let products: Vec<&str> = products.iter().map(String::as_str).collect();
        let missing = lookup()
            .find_entries(&order("u1", "r", &products))
            .err()
            .expect("missing entries");
        assert_eq!(missing.entries.len(), MAX_LISTED_ENTRIES + 1);
        assert_eq!(missing.entries.last().map(String::as_str), Some("and others"));
    }

    #[test]
    fn an_outage_is_found_if_most_of_what_the_orders_need_is_missing() {
        let outage = |orders: &[Row<'static>]| lookup().find_outage(orders.iter()).is_some();
        let orders =
            |count: usize, order: &dyn Fn(usize) -> Row<'static>| (0..count).map(order).collect::<Vec<_>>();
        let unknown = |number: usize| order(&format!("x{number}"), &format!("y{number}"), &["p1"]);
        let usable = |number: usize| order(&format!("u{}", number % 10), "r", &["p1"]);
        assert!(outage(&orders(100, &unknown)));
        assert!(outage(&orders(100, &|number| order(
            "u1",
            &format!("x{number}"),
            &["p1"]
        ))));
        let unknown_products = |number: usize| order("u1", "r", &["a", "b", &format!("x{number}")]);
        assert!(outage(&orders(100, &unknown_products)));
        assert!(!outage(&orders(100, &usable)));
        assert!(!outage(&orders(99, &unknown)), "too few orders");
        assert!(
            !outage(&orders(1000, &|_| order("x", "y", &[]))),
            "two missing entries"
        );
        // Most of what the orders need is there, although none of them can be enriched.
        assert!(!outage(&orders(100, &|number| order(
            &format!("x{number}"),
            "r",
            &["p1"]
        ))));
        assert!(!outage(&[orders(60, &unknown), orders(60, &usable)].concat()));
        assert!(outage(&[orders(61, &unknown), orders(60, &usable)].concat()));
    }
}
