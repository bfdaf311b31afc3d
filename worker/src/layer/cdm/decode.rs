//! Reads a fact: one version of an order, with the keys of the vault. Pure.

use crds::contract::OrderFact;
use uuid::Uuid;

use crate::decode::{self, Rules};
use crate::layer::cdm::ledger::Contribution;
use crate::record::Record;
use crate::rejection::Rejection;
use crate::version::{StatusRank, Version};

/// A fact that keeps its contract.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// What the order adds to the counters by this version.
    pub contribution: Contribution,
    /// The guest, the dishes and the categories that the version names: hub key and name.
    pub names: Vec<(Uuid, String)>,
}

/// Decodes one record; `now` in microseconds since the Unix epoch.
pub(super) fn fact(rules: &Rules, record: &Record, now: i64) -> Result<Fact, Rejection> {
    let text = rules.text(record)?;
    let fact: OrderFact = decode::typed(text)?;
    decode::supported(&fact.object_type)?;
    let payload = fact.payload;
    decode::few_enough("/payload/products", payload.products.len())?;
    let update_ts = rules.update_ts("/payload/update_ts", &payload.update_ts, now)?;
    let version = Version::new(update_ts, &payload.status, decode::source_digest(record, text)?);

    let mut names = Vec::with_capacity(1 + payload.products.len() + payload.categories.len());
    let mut keys = |pointer: &str, entities: Vec<(String, String)>| {
        let mut keys = Vec::with_capacity(entities.len());
        for (id, name) in entities {
            let key =
                Uuid::try_parse(&id).map_err(|_| Rejection::contract(pointer, "not a hub key (a UUID)"))?;
            keys.push(key);
            names.push((key, name));
        }
        keys.sort_unstable();
        keys.dedup();
        Ok::<_, Rejection>(keys)
    };
    let user = keys("/payload/user/id", vec![(payload.user.id, payload.user.name)])?[0];
    let key_and_name = |entity: crds::contract::FactRef| (entity.id, entity.name);
    let products = keys(
        "/payload/products",
        payload.products.into_iter().map(key_and_name).collect(),
    )?;
    let categories = keys(
        "/payload/categories",
        payload.categories.into_iter().map(key_and_name).collect(),
    )?;
    let closed = StatusRank::of(&payload.status) == StatusRank::Closed;
    let counted = |keys: Vec<Uuid>| if closed { keys } else { Vec::new() };
    let contribution = Contribution {
        order_id: fact.object_id,
        version: version.as_bytes().to_vec(),
        user,
        products: counted(products),
        categories: counted(categories),
    };
    Ok(Fact { contribution, names })
}
