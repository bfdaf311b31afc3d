//! Entries of the reference data, parsed as strictly as records. Pure.
//!
//! Only the fields that the pipeline uses are parsed. A malformed product of a menu concerns only the orders that
//! contain it. A defect is text with the JSON pointer of the field, or with the byte position, and its cause.

use std::collections::HashMap;
use std::sync::Arc;

use crds::contract::{MenuItem, RestaurantEntry, UserEntry};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{decode, strict};

/// Maximum size of a name, login, category or product id. A larger one is a defect of the entry, which would otherwise
/// make every output message that contains it too large.
const MAX_TEXT_BYTES: usize = 16 << 10;

/// Maximum size of a time, which a longer text is not.
const MAX_TIME_BYTES: usize = 64;

/// Maximum number of products of a menu.
const MAX_PRODUCTS: usize = 50_000;

/// User of the reference data.
#[derive(Debug, PartialEq, Eq)]
pub struct User {
    /// Full name.
    pub name: String,
    /// Login name.
    pub login: String,
    /// Time of the last change, as stored; `None` if the entry has no time.
    pub update_ts: Option<String>,
}

/// Restaurant of the reference data.
#[derive(Debug, PartialEq, Eq)]
pub struct Restaurant {
    /// Name of the restaurant.
    pub name: String,
    /// Time of the last change, as stored; `None` if the entry has no time.
    pub update_ts: Option<String>,
    /// Products on the menu by id, or the defect of the product.
    pub products: HashMap<String, Result<Product, String>>,
    /// Defects of products whose id cannot be read. Each could be any product that is not on the menu.
    pub unidentified: Vec<String>,
}

/// Product of a menu.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Product {
    /// Name of the category.
    pub category: String,
    /// Name on the menu, which may lack it.
    pub name: Option<String>,
}

/// Entry that exists in the reference data.
#[derive(Debug)]
pub enum Entry<T> {
    /// Entry that orders can be enriched with.
    Usable(Arc<T>),
    /// Entry with this defect. It behaves like a missing one, because a later update can repair it.
    Malformed(String),
}

impl<T> Entry<T> {
    /// Entry of a parsed value.
    pub(super) fn new(parsed: Result<T, String>) -> Self {
        match parsed {
            Ok(value) => Self::Usable(Arc::new(value)),
            Err(defect) => Self::Malformed(defect),
        }
    }
}

impl User {
    /// Parses the entry of a user.
    ///
    /// # Errors
    /// The defect.
    pub fn parse(entry: &[u8]) -> Result<Self, String> {
        let text = utf8(entry)?;
        let check = |user: &UserEntry| {
            check_text("/name", &user.name)?;
            check_text("/login", &user.login)
        };
        let user = parse_strictly(text, text, check)?;
        Ok(Self {
            name: user.name,
            login: user.login,
            update_ts: bounded_time(user.update_ts),
        })
    }
}

impl Restaurant {
    /// Parses the entry of a restaurant, each product of the menu on its own.
    ///
    /// # Errors
    /// The defect of the entry; a defect of a product is part of the result.
    pub fn parse(entry: &[u8]) -> Result<Self, String> {
        let text = utf8(entry)?;
        let without_products = text_without_products(text);
        let check = |restaurant: &RestaurantEntry<&RawValue>| {
            check_text("/name", &restaurant.name)?;
            check_product_count(restaurant.menu.len())
        };
        let RestaurantEntry {
            name,
            menu,
            update_ts,
        } = parse_strictly(text, &without_products, check)?;
        let mut restaurant = Self {
            name,
            update_ts: bounded_time(update_ts),
            products: HashMap::with_capacity(menu.len()),
            unidentified: Vec::new(),
        };
        for (index, product) in menu.into_iter().enumerate() {
            let check = |product: &MenuItem| {
                check_text("/_id", &product.id)?;
                check_text("/category", &product.category)
            };
            let parsed = parse_strictly(product.get(), product.get(), check);
            restaurant.add_product(index, product.get(), parsed);
        }
        Ok(restaurant)
    }

    fn add_product(&mut self, index: usize, text: &str, parsed: Result<MenuItem, String>) {
        let defect = match parsed {
            Ok(MenuItem { id, category, name }) => {
                // The order has a name, so one that cannot be stored is not a defect.
                let name = name.filter(|name| check_text("/name", name).is_ok());
                return drop(self.products.insert(id, Ok(Product { category, name })));
            }
            Err(defect) if defect.starts_with('/') => format!("/menu/{index}{defect}"),
            Err(defect) => format!("/menu/{index}: {defect}"),
        };
        match serde_json::from_str(text) {
            Ok(ProductId { id }) => drop(self.products.insert(id, Err(defect))),
            Err(_) => self.unidentified.push(defect),
        }
    }

    /// Number of bytes of its texts.
    pub(super) fn size_bytes(&self) -> usize {
        let product = |(id, product): (&String, &Result<Product, String>)| {
            let bytes =
                |product: &Product| product.category.len() + product.name.as_ref().map_or(0, String::len);
            id.len() + product.as_ref().map_or_else(String::len, bytes)
        };
        self.name.len()
            + self.products.iter().map(product).sum::<usize>()
            + self.unidentified.iter().map(String::len).sum::<usize>()
    }
}

/// Drops a text that is too long for a time, so that the cache does not hold it.
fn bounded_time(text: Option<String>) -> Option<String> {
    text.filter(|time| time.len() <= MAX_TIME_BYTES)
}

/// Id of a product whose other fields may be malformed.
#[derive(Deserialize)]
struct ProductId {
    #[serde(rename = "_id", deserialize_with = "crds::contract::deserialize_id")]
    id: String,
}

fn utf8(entry: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(entry).map_err(|error| format!("byte {}: not UTF-8", error.valid_up_to()))
}

/// Parses a typed object from `text`, checks it with `check`, and scans `scanned` for defects that a typed parse accepts.
///
/// A defect of a used field is reported with its JSON pointer, any other one with its byte position.
fn parse_strictly<'t, T: Deserialize<'t>>(
    text: &'t str,
    scanned: &str,
    check: impl Fn(&T) -> Result<(), String>,
) -> Result<T, String> {
    let parsed = decode::parse_typed::<T>(text)
        // The pointer of the object itself is empty.
        .map_err(|rejection| rejection.detail.trim_start_matches(": ").to_owned());
    let parsed = parsed.and_then(|value| check(&value).map(|()| value));
    match (strict::check(scanned.as_bytes()), parsed) {
        (Ok(_), parsed) => parsed,
        (Err(_), Err(defect)) if defect.starts_with('/') => Err(defect),
        (Err(rejection), _) => Err(rejection.detail),
    }
}

/// Returns the text of a restaurant with `null` in place of each product, so that a scan finds only the defects of the
/// restaurant itself.
fn text_without_products(text: &str) -> String {
    #[derive(Deserialize)]
    struct Menu<'t> {
        #[serde(borrow)]
        menu: Vec<&'t RawValue>,
    }
    let mut without_products = String::new();
    let mut rest = text;
    // Without a menu, the typed parse reports the defect.
    let menu = serde_json::from_str::<Menu<'_>>(text).map_or_else(|_| Vec::new(), |menu| menu.menu);
    for product in menu {
        let start = product.get().as_ptr().addr() - rest.as_ptr().addr();
        without_products.push_str(&rest[..start]);
        without_products.push_str("null");
        rest = &rest[start + product.get().len()..];
    }
    without_products + rest
}

/// Rejects a menu with more than [`MAX_PRODUCTS`] products.
fn check_product_count(products: usize) -> Result<(), String> {
    if products > MAX_PRODUCTS {
        return Err(format!(
            "/menu: {products} products, the maximum is {MAX_PRODUCTS}"
        ));
    }
    Ok(())
}

/// Rejects a text that PostgreSQL cannot store, or that is too long.
fn check_text(pointer: &str, text: &str) -> Result<(), String> {
    if text.contains('\0') {
        return Err(format!(
            "{pointer}: contains U+0000, which PostgreSQL cannot store"
        ));
    }
    if text.len() > MAX_TEXT_BYTES {
        return Err(format!(
            "{pointer}: {} bytes, the maximum is {MAX_TEXT_BYTES}",
            text.len()
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn user_defect(entry: &[u8]) -> String {
        User::parse(entry).expect_err("a malformed entry")
    }

    #[test]
    fn a_malformed_user_has_a_defect_with_its_location() {
        let long = format!(
            r#"{{"name": "{}", "login": "k"}}"#,
            "x".repeat(MAX_TEXT_BYTES + 1)
        );
        let cases: [(&[u8], &str); 19] = [
            (br#"{"name": "a\u0000b", "login": "k"}"#, "/name: contains U+0000"),
            (br#"{"name": "K", "login": "\u0000"}"#, "/login: contains U+0000"),
            (br#"{"name": "\ud800", "login": "k"}"#, "/name: "),
            (b"{\"name\": \"\xff\", \"login\": \"k\"}", "byte 10: not UTF-8"),
            (br#"{"name": null, "login": "k"}"#, "/name: invalid type: null"),
            (br#"{"name": 7, "login": "k"}"#, "/name: invalid type: integer"),
            (
                br#"{"name": ["K"], "login": "k"}"#,
                "/name: invalid type: sequence",
            ),
            (br#"{"login": "k"}"#, "missing field `name`"),
            (br#"{"name": "K"}"#, "missing field `login`"),
            (
                br#"{"name": "K", "name": "L", "login": "k"}"#,
                "duplicate key \"name\"",
            ),
            (
                br#"{"name": "K", "login": "k", "x": {"a": 1, "a": 2}}"#,
                "duplicate key \"a\"",
            ),
            (
                br#"{"name": "K", "login": "k", "x": "\u0000"}"#,
                "a string contains U+0000",
            ),
            (
                br#"{"name": "K", "login": "k"} {}"#,
                "byte 28: trailing characters",
            ),
            (
                b"\xef\xbb\xbf{\"name\": \"K\", \"login\": \"k\"}",
                "byte 0: expected value",
            ),
            (b"", "byte 0: EOF"),
            (b"[]", ""),
            (b"\"K\"", ""),
            (b"null", ""),
            (long.as_bytes(), "/name: 16385 bytes"),
        ];
        for (entry, expected) in cases {
            let defect = user_defect(entry);
            assert!(
                defect.starts_with(expected),
                "{}: {defect}",
                String::from_utf8_lossy(entry)
            );
        }
    }

    #[test]
    fn a_field_that_is_not_used_may_have_any_type() {
        let entry = br#"{"_id": 7, "name": "K", "login": "k", "update_ts": [], "extra": {"a": null}}"#;
        let user = User {
            name: "K".into(),
            login: "k".into(),
            update_ts: None,
        };
        assert_eq!(User::parse(entry), Ok(user));
        let timed = User::parse(br#"{"name": "K", "login": "k", "update_ts": "2024-01-02 03:04:05"}"#);
        assert_eq!(
            timed.expect("a user").update_ts.as_deref(),
            Some("2024-01-02 03:04:05")
        );
    }

    #[test]
    fn a_malformed_product_concerns_only_itself() {
        let menu = [
            r#"{"_id": "a", "price": null, "category": "X", "name": "A"}"#,
            r#"{"_id": " b\t", "price": "100.00", "category": " \u0418\u0306огурт", "name": ["B"]}"#,
            r#"{"_id": "c", "category": "X\u0000"}"#,
            r#"{"_id": "d", "category": 7}"#,
            r#"{"_id": "e", "category": "X", "category": "Y"}"#,
            r#"{"_id": "f"}"#,
            r#"{"_id": "g", "category": "X", "name": "\u0000"}"#,
            r#"{"_id": "h", "category": "X", "price": 1e400}"#,
            r#"{"_id": "i", "category": " "}"#,
            r#"{"_id": 17, "category": "X"}"#,
            "null",
            r#"{"_id": "", "category": "X"}"#,
        ];
        let entry = format!(r#"{{"name": "R", "menu": [{}], "_id": null}}"#, menu.join(" , "));
        let restaurant = Restaurant::parse(entry.as_bytes()).expect("a restaurant");
        assert_eq!(restaurant.name, "R");
        let usable = |id: &str| restaurant.products[id].clone();
        let product = |category: &str, name: Option<&str>| {
            let (category, name) = (category.to_owned(), name.map(str::to_owned));
            Ok(Product { category, name })
        };
        assert_eq!(usable("a"), product("X", Some("A")));
        assert_eq!(usable("b"), product("Йогурт", None));
        for (id, expected) in [
            ("c", "/menu/2/category: contains U+0000"),
            ("d", "/menu/3/category: invalid type: integer"),
            ("e", "/menu/4: duplicate key \"category\""),
            ("f", "/menu/5: missing field `category`"),
            ("g", "/menu/6: a string contains U+0000"),
            ("h", "/menu/7: byte "),
            ("i", "/menu/8/category: invalid value"),
        ] {
            let defect = usable(id).expect_err(id);
            assert!(defect.starts_with(expected), "{id}: {defect}");
        }
        let unidentified: Vec<&str> = restaurant
            .unidentified
            .iter()
            .map(|defect| &defect[..8])
            .collect();
        assert_eq!(unidentified, ["/menu/9/", "/menu/10", "/menu/11"]);
    }

    #[test]
    fn a_menu_has_at_most_50_000_products() {
        let menu = |products: usize| format!(r#"{{"name":"R","menu":[{}]}}"#, vec!["{}"; products].join(","));
        assert!(Restaurant::parse(menu(MAX_PRODUCTS).as_bytes()).is_ok());
        let defect = Restaurant::parse(menu(MAX_PRODUCTS + 1).as_bytes()).expect_err("too many products");
        assert_eq!(defect, "/menu: 50001 products, the maximum is 50000");
    }

    #[test]
    fn a_defect_of_the_restaurant_itself_concerns_every_product() {
        for (entry, expected) in [
            (r#"{"name": "\u0000", "menu": []}"#, "/name: contains U+0000"),
            (r#"{"name": "R", "menu": null}"#, "/menu: invalid type: null"),
            (r#"{"name": "R"}"#, "missing field `menu`"),
            (
                r#"{"name": "R", "menu": [], "menu": []}"#,
                "duplicate key \"menu\"",
            ),
            (
                r#"{"name": "R", "menu": [{}], "x": "\u0000"}"#,
                "a string contains U+0000",
            ),
            (r#"{"name": "R", "menu": [{]}"#, "/menu/0: key must be a string"),
        ] {
            let defect = Restaurant::parse(entry.as_bytes()).expect_err(entry);
            assert!(defect.starts_with(expected), "{entry}: {defect}");
        }
    }

    proptest! {
        #[test]
        fn no_entry_causes_a_panic(bytes: Vec<u8>, menu in r#"\{"name":"R","menu":\[(\{?"?[_ida:,"0-9\]\[{}]{0,12}\}?,?){0,4}\]\}"#) {
            for entry in [bytes.as_slice(), menu.as_bytes()] {
                let _user = User::parse(entry);
                let _restaurant = Restaurant::parse(entry);
            }
        }
    }
}
