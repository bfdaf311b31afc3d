//! Typed decoders of orders: the oracle of the reader.

use crds::contract::{EnrichedOrder, OrderEvent};
use crds::timestamp::Timestamp;

use crate::decode::{self, DecodeSettings};
use crate::rejection::Rejection;
use crate::strict;
use crate::vault::Value;

/// Values of a message in the order of the slots: those of the record, and those of all lines.
pub(super) type Slots = (Vec<Value<'static>>, Vec<Value<'static>>);

fn text(text: &str) -> Value<'static> {
    Value::Text(text.to_owned().into())
}

/// Decodes an order event.
pub(super) fn decode_event(settings: &DecodeSettings, value: &[u8]) -> Result<Slots, Rejection> {
    let event: OrderEvent = decode::parse_typed(strict::check(value)?)?;
    decode::check_object_type(&event.object_type)?;
    decode::check_not_negative("/object_id", event.object_id)?;
    let payload = &event.payload;
    decode::check_amount("/payload/cost", &payload.cost)?;
    decode::check_amount("/payload/payment", &payload.payment)?;
    decode::check_line_count("/payload/order_items", payload.order_items.len())?;
    for (index, line) in payload.order_items.iter().enumerate() {
        decode::check_amount(format_args!("/payload/order_items/{index}/price"), &line.price)?;
        let pointer = format_args!("/payload/order_items/{index}/quantity");
        decode::check_not_negative(pointer, line.quantity.into())?;
    }
    let date = settings.parse_source_timestamp("/payload/date", &payload.date)?;
    let sent = settings.parse_source_timestamp("/sent_dttm", &event.sent_dttm)?;
    let update_ts = settings.parse_source_timestamp("/payload/update_ts", &payload.update_ts)?;
    let record = vec![
        Value::BigInt(event.object_id),
        text(&payload.restaurant.id),
        text(&payload.user.id),
        Value::Time(date),
        Value::Time(sent),
        Value::money(payload.cost.0),
        Value::money(payload.payment.0),
        text(&payload.final_status),
        Value::Time(update_ts),
        Value::Null,
        Value::Null,
        Value::Null,
    ];
    let lines = payload.order_items.iter().flat_map(|line| {
        let (price, quantity) = (Value::money(line.price.0), Value::Integer(line.quantity));
        [
            text(&line.id),
            text(&line.name),
            price,
            quantity,
            Value::Null,
            Value::Null,
        ]
    });
    Ok((record, lines.collect()))
}

/// Decodes an enriched order. The second value has the times of the user and the restaurant.
pub(super) fn decode_enriched(
    settings: &DecodeSettings,
    value: &[u8],
) -> Result<(Slots, Vec<Option<Timestamp>>), Rejection> {
    let message: EnrichedOrder = decode::parse_typed(strict::check(value)?)?;
    decode::check_object_type(&message.object_type)?;
    decode::check_not_negative("/object_id", message.object_id)?;
    let payload = &message.payload;
    decode::check_not_negative("/payload/id", payload.id)?;
    decode::check_amount("/payload/cost", &payload.cost)?;
    decode::check_amount("/payload/payment", &payload.payment)?;
    decode::check_line_count("/payload/products", payload.products.len())?;
    for (index, line) in payload.products.iter().enumerate() {
        decode::check_amount(format_args!("/payload/products/{index}/price"), &line.price)?;
        let pointer = format_args!("/payload/products/{index}/quantity");
        decode::check_not_negative(pointer, line.quantity.into())?;
    }
    let date = settings.parse_timestamp("/payload/date", &payload.date)?;
    let update_ts = match &payload.update_ts {
        Some(update_ts) => settings.parse_timestamp("/payload/update_ts", update_ts)?,
        None => date,
    };
    let (user, restaurant) = (&payload.user, &payload.restaurant);
    let entry_times = [
        ("/payload/user/update_ts", &user.update_ts),
        ("/payload/restaurant/update_ts", &restaurant.update_ts),
    ];
    let entry_times = entry_times.map(|(pointer, text)| {
        let time = text
            .as_deref()
            .map(|text| settings.parse_timestamp(pointer, text));
        time.transpose()
    });
    let entry_times = entry_times.into_iter().collect::<Result<_, _>>()?;
    let record = vec![
        Value::BigInt(message.object_id),
        text(&restaurant.id),
        text(&user.id),
        Value::Time(date),
        Value::Null,
        Value::money(payload.cost.0),
        Value::money(payload.payment.0),
        text(&payload.status),
        Value::Time(update_ts),
        text(&user.name),
        text(&user.login),
        text(&restaurant.name),
    ];
    let lines = payload.products.iter().flat_map(|line| {
        [
            text(&line.id),
            text(&line.name),
            Value::money(line.price.0),
            Value::Integer(line.quantity),
            text(line.menu_name.as_deref().unwrap_or(&line.name)),
            text(&line.category),
        ]
    });
    Ok(((record, lines.collect()), entry_times))
}
