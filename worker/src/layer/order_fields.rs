//! Fields of orders that the layers use by name: their slots in the built-in model.

use std::sync::LazyLock;

use crds::timestamp::Timestamp;

use crate::plan::ORDERS;
use crate::plan::slots::Slots;
use crate::vault::{Row, Value};

/// Slots of the fields.
pub(super) static FIELDS: LazyLock<OrderFields> = LazyLock::new(|| OrderFields::new(&ORDERS.slots));

/// Slots of the fields, by name.
pub(super) struct OrderFields {
    pub(super) order_id: usize,
    pub(super) sent: usize,
    pub(super) update_ts: usize,
    pub(super) status: usize,
    pub(super) user_id: usize,
    pub(super) user_name: usize,
    pub(super) user_login: usize,
    pub(super) restaurant_id: usize,
    pub(super) restaurant_name: usize,
    pub(super) product_id: usize,
    pub(super) menu_name: usize,
    pub(super) category: usize,
}

impl OrderFields {
    fn new(slots: &Slots) -> Self {
        let slot = |name: &str| slots.field(name).slot.index;
        Self {
            order_id: slot("order_id"),
            sent: slot("sent"),
            update_ts: slot("update_ts"),
            status: slot("status"),
            user_id: slot("user_id"),
            user_name: slot("user_name"),
            user_login: slot("user_login"),
            restaurant_id: slot("restaurant_id"),
            restaurant_name: slot("restaurant_name"),
            product_id: slot("product_id"),
            menu_name: slot("menu_name"),
            category: slot("category"),
        }
    }
}

/// Values of the fields.
impl Row<'_> {
    /// Order number.
    pub(crate) fn order_id(&self) -> i64 {
        match self.record[FIELDS.order_id] {
            Value::BigInt(number) => number,
            _ => unreachable!("a row has its key"),
        }
    }

    pub(super) fn text(&self, slot: usize) -> &str {
        text_of(&self.record[slot])
    }

    pub(super) fn time(&self, slot: usize) -> Timestamp {
        match self.record[slot] {
            Value::Time(time) => time,
            _ => unreachable!("a row has the times of its record"),
        }
    }

    /// Products of the lines.
    pub(super) fn product_ids(&self) -> impl ExactSizeIterator<Item = &str> {
        self.arrays[0]
            .elements()
            .map(|line| text_of(&line[FIELDS.product_id]))
    }
}

fn text_of<'v>(value: &'v Value<'_>) -> &'v str {
    match value {
        Value::Text(text) => text,
        _ => unreachable!("a row has the texts of its record"),
    }
}
