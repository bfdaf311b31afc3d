//! Decodes a fact: one version of an order, with the hub keys of the vault. Pure.

use crds::contract::{FactRef, OrderFact};
use uuid::Uuid;

use crate::decode::{self, DecodeSettings};
use crate::layer::cdm::ledger::Contribution;
use crate::record::Record;
use crate::rejection::Rejection;
use crate::version::StatusRank;

/// Fact that conforms to its contract.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// Contribution of this version of the order to the counters.
    pub contribution: Contribution,
    /// Hub key and name of the user, the products and the categories of this version.
    pub names: Vec<(Uuid, String)>,
}

/// Decodes one record. `now` is in microseconds since the Unix epoch.
///
/// # Errors
/// The code and the detail of the dead letter.
pub fn decode_fact(settings: &DecodeSettings, record: &Record, now: i64) -> Result<Fact, Rejection> {
    let text = settings.json_text(record)?;
    let fact: OrderFact = decode::parse_typed(text)?;
    decode::check_object_type(&fact.object_type)?;
    decode::check_not_negative("/object_id", fact.object_id)?;
    let payload = fact.payload;
    decode::check_not_negative("/payload/id", payload.id)?;
    decode::check_line_count("/payload/products", payload.products.len())?;
    decode::check_line_count("/payload/categories", payload.categories.len())?;
    let update_ts = settings
        .parse_timestamp("/payload/update_ts", &payload.update_ts)?
        .as_microsecond();
    let version = decode::message_version(record, update_ts, &payload.status, text.as_bytes())?;
    settings.check_clock_skew("/payload/update_ts", version.update_ts(), now)?;

    let mut names = Vec::with_capacity(1 + payload.products.len() + payload.categories.len());
    let mut hub_keys = |pointer: &str, entities: Vec<(String, String)>| {
        let mut keys = Vec::with_capacity(entities.len());
        for (id, name) in entities {
            let key = Uuid::try_parse(&id)
                .map_err(|_| Rejection::contract_violation(pointer, "not a hub key (a UUID)"))?;
            keys.push(key);
            names.push((key, name));
        }
        keys.sort_unstable();
        keys.dedup();
        Ok::<_, Rejection>(keys)
    };
    let user = hub_keys("/payload/user/id", vec![(payload.user.id, payload.user.name)])?[0];
    let key_and_name = |entity: FactRef| (entity.id, entity.name);
    let products = hub_keys(
        "/payload/products",
        payload.products.into_iter().map(key_and_name).collect(),
    )?;
    let categories = hub_keys(
        "/payload/categories",
        payload.categories.into_iter().map(key_and_name).collect(),
    )?;
    let is_closed = StatusRank::from_status(&payload.status) == StatusRank::Closed;
    let counted = |keys: Vec<Uuid>| if is_closed { keys } else { Vec::new() };
    let contribution = Contribution {
        order_id: fact.object_id,
        version: version.as_bytes().to_vec(),
        user,
        products: counted(products),
        categories: counted(categories),
    };
    Ok(Fact { contribution, names })
}
