//! One order: its statuses from open to closed or cancelled, and the message for each published status. Pure.

use rand::seq::{IndexedRandom, index};
use rand::{Rng, RngExt};
use serde::Serialize;

use super::catalogue::{Catalogue, Money, Product, Restaurant, User};
use super::clock::timestamp;
use super::json;

/// Statuses of an order that is not cancelled.
const STATUSES: [&str; 4] = ["OPEN", "COOKING", "DELIVERING", "CLOSED"];
/// Statuses that the pipeline does not know.
const UNKNOWN_STATUSES: [&str; 3] = ["ON_HOLD", "COURIER_ASSIGNED", "REFUND_REQUESTED"];
/// Maximum number of versions that one order publishes.
const MAX_VERSIONS: usize = 5;

/// Id of an order and the time when it is placed, in seconds since [`super::clock::EPOCH`].
#[derive(Clone, Copy)]
pub(super) struct NewOrder {
    pub(super) object_id: i64,
    pub(super) placed_at: i64,
}

/// A published version of an order.
#[derive(Clone, Debug)]
pub(super) struct Version {
    /// Send time, in seconds since [`super::clock::EPOCH`].
    pub(super) sent: i64,
    /// Value of the record.
    pub(super) value: Vec<u8>,
}

#[derive(Serialize)]
struct Envelope<'a> {
    object_id: i64,
    object_type: &'static str,
    sent_dttm: String,
    payload: Payload<'a>,
    /// A field that is in no contract.
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<&'static str>,
}

#[derive(Serialize)]
struct Payload<'a> {
    restaurant: Id<'a>,
    user: Id<'a>,
    date: String,
    order_items: &'a [Line<'a>],
    bonus_payment: Money,
    cost: Money,
    payment: Money,
    bonus_grant: Money,
    statuses: Vec<StatusEntry>,
    final_status: &'static str,
    update_ts: String,
    /// A field that is in no contract.
    #[serde(skip_serializing_if = "Option::is_none")]
    courier: Option<Courier>,
}

#[derive(Serialize)]
struct Id<'a> {
    id: &'a str,
}

#[derive(Clone, Copy, Serialize)]
struct Line<'a> {
    id: &'a str,
    name: &'a str,
    price: Money,
    quantity: u32,
}

#[derive(Serialize)]
struct StatusEntry {
    status: &'static str,
    dttm: String,
}

#[derive(Serialize)]
struct Courier {
    id: u32,
    vehicle: Option<&'static str>,
}

/// A status and the time when it was reached, in seconds since [`super::clock::EPOCH`].
type StatusChange = (&'static str, i64);

/// Content of an order, without its statuses.
struct Order<'c> {
    object_id: i64,
    user: &'c User,
    restaurant: &'c Restaurant,
    lines: Vec<Line<'c>>,
    bonus_percent: u32,
}

/// Published versions of an order, oldest first: at least one, and always the one with the last status.
pub(super) fn published_versions(
    random: &mut impl Rng,
    catalogue: &Catalogue,
    new_order: NewOrder,
    cancelled: f64,
) -> Vec<Version> {
    let mut order = random_order(random, catalogue, new_order.object_id);
    if random.random_bool(0.03)
        && let Some(line) = order.lines.choose(random)
    {
        order.lines.push(Line { quantity: 1, ..*line });
    }
    if random.random_bool(0.005) {
        order.lines.clear();
    }
    let statuses = random_statuses(random, cancelled);
    let changes = random_status_changes(random, &statuses, new_order.placed_at);
    let last = changes.len() - 1;
    let mut published: Vec<usize> = (0..last).filter(|_| random.random_bool(0.8)).collect();
    published.truncate(MAX_VERSIONS - 1);
    published.push(last);
    let mut versions = Vec::with_capacity(published.len());
    for (version, change) in published.into_iter().enumerate() {
        if version > 0 {
            edit_order(random, catalogue, &mut order);
        }
        versions.push(render_version(random, &order, &changes[..=change], true));
    }
    versions
}

/// Message of an ordinary closed order without unusual fields; malformed messages are derived from it.
pub(super) fn plain_message(random: &mut impl Rng, catalogue: &Catalogue, new_order: NewOrder) -> String {
    let order = random_order(random, catalogue, new_order.object_id);
    let changes = random_status_changes(random, &STATUSES, new_order.placed_at);
    String::from_utf8_lossy(&render_version(random, &order, &changes, false).value).into_owned()
}

/// Order of two to six different products of one menu.
fn random_order<'c>(random: &mut impl Rng, catalogue: &'c Catalogue, object_id: i64) -> Order<'c> {
    let user = pick_user(random, catalogue);
    // Most users have a favorite restaurant.
    let favorite = user * 7 % catalogue.restaurants.len();
    let restaurant = if random.random_bool(0.6) {
        favorite
    } else {
        random.random_range(0..catalogue.restaurants.len())
    };
    let restaurant = &catalogue.restaurants[restaurant];
    // The maximum of two draws, because a message of the real source has 1.4 KB on average.
    let count = random.random_range(2..=6).max(random.random_range(2..=6));
    let mut lines = Vec::with_capacity(count + 1);
    for product in index::sample(random, restaurant.menu.len(), count) {
        let Product { id, name, price, .. } = &restaurant.menu[product];
        let quantity = *[1, 1, 1, 1, 2, 2, 3].choose(random).unwrap_or(&1);
        lines.push(Line {
            id,
            name,
            price: *price,
            quantity,
        });
    }
    let bonus_percent = if random.random_bool(0.2) {
        random.random_range(5..=30)
    } else {
        0
    };
    Order {
        object_id,
        user: &catalogue.users[user],
        restaurant,
        lines,
        bonus_percent,
    }
}

/// Picks the index of a user; the first users order more often than the last ones.
fn pick_user(random: &mut impl Rng, catalogue: &Catalogue) -> usize {
    let users = catalogue.users.len();
    random.random_range(0..users).min(random.random_range(0..users))
}

/// Sequence of statuses of an order.
fn random_statuses(random: &mut impl Rng, cancelled: f64) -> Vec<&'static str> {
    let mut statuses = STATUSES.to_vec();
    if random.random_bool(cancelled) {
        if random.random() {
            statuses.truncate(random.random_range(1..STATUSES.len()));
        }
        statuses.push("CANCELLED");
    }
    if random.random_bool(0.01) {
        let unknown = UNKNOWN_STATUSES.choose(random).unwrap_or(&UNKNOWN_STATUSES[0]);
        statuses.insert(random.random_range(1..=statuses.len()), unknown);
    }
    statuses
}

/// Times of the statuses; sometimes two have the same second.
fn random_status_changes(
    random: &mut impl Rng,
    statuses: &[&'static str],
    placed_at: i64,
) -> Vec<StatusChange> {
    let mut time = placed_at;
    let mut changes = Vec::with_capacity(statuses.len());
    for (number, status) in statuses.iter().enumerate() {
        if number > 0 && !random.random_bool(0.03) {
            time += random.random_range(60..=1200);
        }
        changes.push((*status, time));
    }
    changes
}

/// Edits an order between two versions: rarely a line is removed, or the user changes.
fn edit_order<'c>(random: &mut impl Rng, catalogue: &'c Catalogue, order: &mut Order<'c>) {
    if order.lines.len() > 1 && random.random_bool(0.02) {
        order.lines.remove(random.random_range(0..order.lines.len()));
    }
    if random.random_bool(0.005) {
        order.user = &catalogue.users[pick_user(random, catalogue)];
    }
}

/// Renders the message of the latest of the status changes; `unusual` allows fields that are in no contract.
fn render_version(random: &mut impl Rng, order: &Order, changes: &[StatusChange], unusual: bool) -> Version {
    let (final_status, updated) = changes[changes.len() - 1];
    let placed_at = changes[0].1;
    let sent = updated + random.random_range(1..=20);
    let cost: u32 = order.lines.iter().map(|line| line.price.0 * line.quantity).sum();
    // Bonuses are whole roubles.
    let bonus_payment = cost / 100 * order.bonus_percent / 100 * 100;
    let payload = Payload {
        restaurant: Id {
            id: &order.restaurant.id,
        },
        user: Id { id: &order.user.id },
        date: timestamp(placed_at),
        order_items: &order.lines,
        bonus_payment: Money(bonus_payment),
        cost: Money(cost),
        payment: Money(cost - bonus_payment),
        bonus_grant: Money((cost - bonus_payment) / 20),
        statuses: changes
            .iter()
            .map(|(status, time)| StatusEntry {
                status,
                dttm: timestamp(*time),
            })
            .collect(),
        final_status,
        update_ts: timestamp(updated),
        courier: (unusual && random.random_bool(0.01)).then(|| Courier {
            id: random.random_range(1..900),
            vehicle: random.random_bool(0.5).then_some("bicycle"),
        }),
    };
    let source = (unusual && random.random_bool(0.01)).then_some("mobile-app");
    let sent_dttm = timestamp(sent);
    let envelope = Envelope {
        object_id: order.object_id,
        object_type: "order",
        sent_dttm,
        payload,
        source,
    };
    Version {
        sent,
        value: json::to_json(&envelope).into_bytes(),
    }
}
