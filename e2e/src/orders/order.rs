//! One order: how it goes from open to closed or cancelled, and the message that each step publishes. Pure.

use rand::seq::{IndexedRandom, index};
use rand::{Rng, RngExt};
use serde::Serialize;

use super::catalogue::{Catalogue, Dish, Guest, Money, Restaurant};
use super::{json, timestamp};

/// How an order goes when nothing goes wrong.
const COURSE: [&str; 4] = ["OPEN", "COOKING", "DELIVERING", "CLOSED"];
/// Statuses that the pipeline does not know.
const UNKNOWN: [&str; 3] = ["ON_HOLD", "COURIER_ASSIGNED", "REFUND_REQUESTED"];
/// Most versions that one order publishes.
const MOST_VERSIONS: usize = 5;

/// Which order, and when it is placed, in seconds since the opening.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) object_id: i64,
    pub(super) at: i64,
}

/// A published state of an order.
#[derive(Clone, Debug)]
pub(super) struct Version {
    /// When it is sent, in seconds since the opening.
    pub(super) sent: i64,
    /// The message.
    pub(super) value: Vec<u8>,
}

#[derive(Serialize)]
struct Envelope<'a> {
    object_id: i64,
    object_type: &'static str,
    sent_dttm: String,
    payload: Payload<'a>,
    /// A field that no contract names.
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
    statuses: Vec<Status>,
    final_status: &'static str,
    update_ts: String,
    /// A field that no contract names.
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
struct Status {
    status: &'static str,
    dttm: String,
}

#[derive(Serialize)]
struct Courier {
    id: u32,
    vehicle: Option<&'static str>,
}

/// A status and when it was reached.
type Step = (&'static str, i64);

/// What an order holds at one moment.
struct Order<'c> {
    object_id: i64,
    guest: &'c Guest,
    restaurant: &'c Restaurant,
    lines: Vec<Line<'c>>,
    bonus_percent: u32,
}

/// The published versions of an order, oldest first: at least one, the last status always among them.
pub(super) fn versions(
    random: &mut impl Rng,
    catalogue: &Catalogue,
    place: Place,
    cancelled: f64,
) -> Vec<Version> {
    let mut order = fresh(random, catalogue, place.object_id);
    if random.random_bool(0.03)
        && let Some(line) = order.lines.choose(random)
    {
        order.lines.push(Line { quantity: 1, ..*line });
    }
    if random.random_bool(0.005) {
        order.lines.clear();
    }
    let course = course(random, cancelled);
    let steps = steps(random, &course, place.at);
    let last = steps.len() - 1;
    let mut published: Vec<usize> = (0..last).filter(|_| random.random_bool(0.8)).collect();
    published.truncate(MOST_VERSIONS - 1);
    published.push(last);
    let mut versions = Vec::with_capacity(published.len());
    for (version, step) in published.into_iter().enumerate() {
        if version > 0 {
            change(random, catalogue, &mut order);
        }
        versions.push(publish(random, &order, &steps[..=step], true));
    }
    versions
}

/// An ordinary order as one message: some lines, closed, nothing unusual. What bad messages are made of.
pub(super) fn plain(random: &mut impl Rng, catalogue: &Catalogue, place: Place) -> String {
    let order = fresh(random, catalogue, place.object_id);
    let steps = steps(random, &COURSE, place.at);
    String::from_utf8_lossy(&publish(random, &order, &steps, false).value).into_owned()
}

/// Two to six different dishes of one menu.
fn fresh<'c>(random: &mut impl Rng, catalogue: &'c Catalogue, object_id: i64) -> Order<'c> {
    let guest = guest(random, catalogue);
    // Most guests have a place that they return to.
    let usual = guest * 7 % catalogue.restaurants.len();
    let restaurant = if random.random_bool(0.6) {
        usual
    } else {
        random.random_range(0..catalogue.restaurants.len())
    };
    let restaurant = &catalogue.restaurants[restaurant];
    // Rather many than few: a message of the source has 1.4 KB.
    let count = random.random_range(2..=6).max(random.random_range(2..=6));
    let mut lines = Vec::with_capacity(count + 1);
    for chosen in index::sample(random, restaurant.menu.len(), count) {
        let Dish { id, name, price, .. } = &restaurant.menu[chosen];
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
        guest: &catalogue.guests[guest],
        restaurant,
        lines,
        bonus_percent,
    }
}

/// The first guests order more often than the last ones.
fn guest(random: &mut impl Rng, catalogue: &Catalogue) -> usize {
    let guests = catalogue.guests.len();
    random.random_range(0..guests).min(random.random_range(0..guests))
}

/// The statuses that an order runs through.
fn course(random: &mut impl Rng, cancelled: f64) -> Vec<&'static str> {
    let mut course = COURSE.to_vec();
    if random.random_bool(cancelled) {
        if random.random() {
            course.truncate(random.random_range(1..COURSE.len()));
        }
        course.push("CANCELLED");
    }
    if random.random_bool(0.01) {
        let unknown = UNKNOWN.choose(random).unwrap_or(&UNKNOWN[0]);
        course.insert(random.random_range(1..=course.len()), unknown);
    }
    course
}

/// When each status is reached; now and then two within one second.
fn steps(random: &mut impl Rng, course: &[&'static str], placed: i64) -> Vec<Step> {
    let mut at = placed;
    let mut steps = Vec::with_capacity(course.len());
    for (number, status) in course.iter().enumerate() {
        if number > 0 && !random.random_bool(0.03) {
            at += random.random_range(60..=1200);
        }
        steps.push((*status, at));
    }
    steps
}

/// What a later version may say differently.
fn change<'c>(random: &mut impl Rng, catalogue: &'c Catalogue, order: &mut Order<'c>) {
    if order.lines.len() > 1 && random.random_bool(0.02) {
        order.lines.remove(random.random_range(0..order.lines.len()));
    }
    if random.random_bool(0.005) {
        order.guest = &catalogue.guests[guest(random, catalogue)];
    }
}

fn publish(random: &mut impl Rng, order: &Order, steps: &[Step], unusual: bool) -> Version {
    let (final_status, updated) = steps[steps.len() - 1];
    let placed = steps[0].1;
    let sent = updated + random.random_range(1..=20);
    let cost: u32 = order.lines.iter().map(|line| line.price.0 * line.quantity).sum();
    // Bonuses are whole roubles.
    let bonus_payment = cost / 100 * order.bonus_percent / 100 * 100;
    let payload = Payload {
        restaurant: Id {
            id: &order.restaurant.id,
        },
        user: Id { id: &order.guest.id },
        date: timestamp(placed),
        order_items: &order.lines,
        bonus_payment: Money(bonus_payment),
        cost: Money(cost),
        payment: Money(cost - bonus_payment),
        bonus_grant: Money((cost - bonus_payment) / 20),
        statuses: steps
            .iter()
            .map(|(status, at)| Status {
                status,
                dttm: timestamp(*at),
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
        value: json::text(&envelope).into_bytes(),
    }
}
