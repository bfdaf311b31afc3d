//! Guests, restaurants and menus: what the dictionary holds and the orders name. Pure.

use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, RngExt};
use serde::Serialize;

use super::json;
pub use super::json::Money;
use super::words::{CATEGORIES, FAMILIES, MEN, RESTAURANTS, WOMEN};

/// Dishes that a menu has of each category.
const DISHES_OF_A_CATEGORY: usize = 5;
/// When the dictionary was last changed: before the first order.
const UPDATED: &str = "2024-02-01 00:00:00";

/// A user of the dictionary.
#[derive(Clone, Debug, Serialize)]
pub struct Guest {
    /// 24 hexadecimal digits.
    #[serde(rename = "_id")]
    pub id: String,
    /// First and family name.
    pub name: String,
    /// Unique.
    pub login: String,
    update_ts: &'static str,
}

/// A restaurant of the dictionary.
#[derive(Clone, Debug, Serialize)]
pub struct Restaurant {
    /// 24 hexadecimal digits.
    #[serde(rename = "_id")]
    pub id: String,
    /// Unique.
    pub name: String,
    /// Some of each category.
    pub menu: Vec<Dish>,
    update_ts: &'static str,
}

/// A dish of one menu; another restaurant's dish of the same name is another product.
#[derive(Clone, Debug, Serialize)]
pub struct Dish {
    /// 24 hexadecimal digits.
    #[serde(rename = "_id")]
    pub id: String,
    /// In capitals, as the source has it.
    pub name: &'static str,
    /// Price of one.
    pub price: Money,
    /// One of eight.
    pub category: &'static str,
}

/// All that the orders name.
#[derive(Clone, Debug)]
pub struct Catalogue {
    /// The guests; the first ones order most.
    pub guests: Vec<Guest>,
    /// The restaurants.
    pub restaurants: Vec<Restaurant>,
}

impl Catalogue {
    pub(super) fn new(random: &mut impl Rng, guests: usize, restaurants: usize) -> Self {
        let guests = (0..guests).map(|index| guest(random, index)).collect();
        let restaurants = (0..restaurants).map(|index| restaurant(random, index)).collect();
        Self { guests, restaurants }
    }

    /// What the dictionary holds: pairs of id and JSON. The last `withheld` guests are left out.
    pub fn entries(&self, withheld: usize) -> impl Iterator<Item = (&str, String)> {
        let known = &self.guests[..self.guests.len().saturating_sub(withheld)];
        let guests = known.iter().map(|guest| (guest.id.as_str(), json::text(guest)));
        guests.chain(
            self.restaurants
                .iter()
                .map(|restaurant| (restaurant.id.as_str(), json::text(restaurant))),
        )
    }
}

fn guest(random: &mut impl Rng, index: usize) -> Guest {
    let woman: bool = random.random();
    let names = if woman { &WOMEN } else { &MEN };
    let (first, latin) = names[random.random_range(0..names.len())];
    let family = FAMILIES[random.random_range(0..FAMILIES.len())];
    let name = format!("{first} {family}{}", if woman { "а" } else { "" });
    Guest {
        id: object_id(random),
        name,
        login: format!("{latin}{}", index + 1),
        update_ts: UPDATED,
    }
}

fn restaurant(random: &mut impl Rng, index: usize) -> Restaurant {
    let name = RESTAURANTS[index % RESTAURANTS.len()];
    let branch = index / RESTAURANTS.len() + 1;
    let name = if branch == 1 {
        name.to_owned()
    } else {
        format!("{name}, филиал {branch}")
    };
    let mut menu = Vec::with_capacity(CATEGORIES.len() * DISHES_OF_A_CATEGORY);
    for (category, cheapest, dearest, dishes) in &CATEGORIES {
        for name in dishes.sample(random, DISHES_OF_A_CATEGORY) {
            let roubles = random.random_range(*cheapest..=*dearest) / 5 * 5;
            let kopecks = *[0, 0, 0, 0, 0, 0, 50, 90, 25].choose(random).unwrap_or(&0);
            menu.push(Dish {
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
        update_ts: UPDATED,
    }
}

/// An id as the source's document store makes them.
fn object_id(random: &mut impl Rng) -> String {
    format!("{:016x}{:08x}", random.random::<u64>(), random.random::<u32>())
}
