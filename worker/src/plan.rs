//! Plan: a model, compiled once at start. Names become indices of slots, so that no record is processed by name. Pure.
//!
//! The other modules know a model only by its plan. The built-in model is `models/orders.yaml`.

pub mod kind;
pub mod layout;
pub mod message;
mod record;
pub mod slots;
pub mod vault;

use std::sync::LazyLock;

use crds::StreamModel;
use crds::document::parse_model;

use self::layout::{Layout, PointerConflict};
use self::message::{ReadPlan, WrittenObject};
use self::record::record_layout;
use self::slots::Slots;
use self::vault::VaultPlan;

/// Text of the built-in model.
pub const ORDERS_MODEL: &str = include_str!("../../models/orders.yaml");

/// Plan of the built-in model.
pub static ORDERS: LazyLock<Plan> = LazyLock::new(|| {
    let model = parse_model(ORDERS_MODEL).unwrap_or_else(|error| unreachable!("the built-in model: {error}"));
    Plan::compile(&model)
});

/// Compiled model.
#[derive(Debug)]
pub struct Plan {
    /// Slots of a row.
    pub slots: Slots,
    /// Layout of a record of the source topic.
    pub record: Layout,
    /// Plan by which DDS reads the message of STG.
    pub enriched: ReadPlan,
    /// Message that STG writes.
    pub enriched_message: WrittenObject,
    /// Message that DDS writes.
    pub fact_message: WrittenObject,
    /// Tables of the Data Vault, and the fields that fill them.
    pub vault: VaultPlan,
}

impl Plan {
    /// Compiles a model that has passed [`crds::model::check`].
    ///
    /// # Panics
    /// If a name is not declared, which the check rejects.
    #[must_use]
    pub fn compile(model: &StreamModel) -> Self {
        let (spec, slots) = (&model.spec, Slots::new(&model.spec));
        let messages = &spec.messages;
        Self {
            record: record_layout(spec, &slots).unwrap_or_else(pointer_conflict),
            enriched: ReadPlan::compile(&messages.enriched, spec, &slots).unwrap_or_else(pointer_conflict),
            enriched_message: WrittenObject::compile(&messages.enriched, spec, &slots),
            fact_message: WrittenObject::compile(&messages.fact, spec, &slots),
            vault: VaultPlan::compile(spec, &slots),
            slots,
        }
    }
}

fn pointer_conflict<T>(_: PointerConflict) -> T {
    unreachable!("the check has found two values at one pointer")
}
