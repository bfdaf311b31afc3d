//! Fact of an order version: the message that the marts need, with the hub keys of the vault. Pure.

use super::decode::Order;
use crate::encode::write_message;
use crate::output::Output;
use crate::plan::ORDERS;

/// Order with its fact, ready to be written.
#[derive(Clone, Debug)]
pub struct OrderWithFact {
    /// Decoded order.
    pub order: Order,
    /// Message for the marts.
    pub fact: Output,
}

/// Builds the fact of an order as the message for the marts. A product on two lines counts once, and its first line names
/// it.
#[must_use]
pub(super) fn build_fact(order: &Order) -> Output {
    Output {
        object_id: order.row.order_id(),
        payload: write_message(&ORDERS.fact_message, &order.row),
        version: order.version,
    }
}
