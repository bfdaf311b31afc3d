//! Plan: a model, compiled once at start. Names become indices of slots, so that no record is processed by name. Pure.
//!
//! The other modules know a model only by its plan. The built-in model is `models/orders.yaml`.

pub mod kind;
pub mod vault;

use std::sync::LazyLock;

use crds::StreamModel;
use crds::document::parse_model;

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
        Self {
            vault: VaultPlan::compile(&model.spec),
        }
    }
}
