//! Users, restaurants and menus: the reference data that the orders refer to. Pure.

use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, RngExt};
use serde::Serialize;

use super::json;
pub use super::json::Money;
use super::names::{CATEGORIES, FAMILY_NAMES, MEN, RESTAURANTS, WOMEN};

/// Products per category of a menu.
const PRODUCTS_PER_CATEGORY: usize = 5;
/// Update time of every reference data entry: before the first order.
const UPDATE_TS: &str = "2024-02-01 00:00:00";

/// A user entry of the reference data.
#[derive(Clone, Debug, Serialize)]
pub struct User {
    /// 24 hexadecimal digits.
    #[serde(rename = "_id")]
    pub id: String,
    /// First and family name.
    pub name: String,
    /// Unique login.
    pub login: String,
    update_ts: &'static str,
}

/// A restaurant entry of the reference data.
#[derive(Clone, Debug, Serialize)]
pub struct Restaurant {
    /// 24 hexadecimal digits.
    #[serde(rename = "_id")]
    pub id: String,
    /// Unique name.
    pub name: String,
    /// Products of every category.
    pub menu: Vec<Product>,
    update_ts: &'static str,
}

/// A product of one menu; the same name on another menu is another product.
#[derive(Clone, Debug, Serialize)]
pub struct Product {
    /// 24 hexadecimal digits.
    #[serde(rename = "_id")]
    pub id: String,
    /// Name in capitals, as in the source system.
    pub name: &'static str,
    /// Price of one piece.
    pub price: Money,
    /// One of eight categories.
    pub category: &'static str,
}

/// All users and restaurants that the orders refer to.
#[derive(Clone, Debug)]
pub struct Catalogue {
    /// Users; the first ones order most.
    pub users: Vec<User>,
    /// Restaurants with their menus.
    pub restaurants: Vec<Restaurant>,
}

impl Catalogue {
    pub(super) fn new(random: &mut impl Rng, users: usize, restaurants: usize) -> Self {
        let users = (0..users).map(|index| random_user(random, index)).collect();
        let restaurants = (0..restaurants)
            .map(|index| random_restaurant(random, index))
            .collect();
        Self { users, restaurants }
    }

    /// Reference data entries: pairs of id and JSON, without the last `withheld` users.
    pub fn entries(&self, withheld: usize) -> impl Iterator<Item = (&str, String)> {
        let users = &self.users[..self.users.len().saturating_sub(withheld)];
        let users = users.iter().map(|user| (user.id.as_str(), json::to_json(user)));
        users.chain(
            self.restaurants
                .iter()
                .map(|restaurant| (restaurant.id.as_str(), json::to_json(restaurant))),
        )
    }
}

fn random_user(random: &mut impl Rng, index: usize) -> User {
    let woman: bool = random.random();
    let names = if woman { &WOMEN } else { &MEN };
    let (first, latin) = names[random.random_range(0..names.len())];
    let family = FAMILY_NAMES[random.random_range(0..FAMILY_NAMES.len())];
    let name = format!("{first} {family}{}", if woman { "а" } else { "" });
    User {
        id: object_id(random),
        name,
        login: format!("{latin}{}", index + 1),
        update_ts: UPDATE_TS,
    }
}

fn random_restaurant(random: &mut impl Rng, index: usize) -> Restaurant {
    let name = RESTAURANTS[index % RESTAURANTS.len()];
    let branch = index / RESTAURANTS.len() + 1;
    let name = if branch == 1 {
        name.to_owned()
    } else {
        format!("{name}, филиал {branch}")
    };
    let mut menu = Vec::with_capacity(CATEGORIES.len() * PRODUCTS_PER_CATEGORY);
    for (category, min_price, max_price, products) in &CATEGORIES {
        for name in products.sample(random, PRODUCTS_PER_CATEGORY) {
            let roubles = random.random_range(*min_price..=*max_price) / 5 * 5;
            let kopecks = *[0, 0, 0, 0, 0, 0, 50, 90, 25].choose(random).unwrap_or(&0);
            menu.push(Product {
                id: object_id(random),
                name,
                price: Money(roubles * 100 + kopecks),
                category,
            });
        }
    }
    menu.shuffle(random);
    Restaurant {
        id: object_id(random),
        name,
        menu,
        update_ts: UPDATE_TS,
    }
}

/// Random id in the format of the source system's document store.
fn object_id(random: &mut impl Rng) -> String {
    format!("{:016x}{:08x}", random.random::<u64>(), random.random::<u32>())
}
