//! The model: hubs, links and satellites as data. Everything else in the vault is generated from it.
//!
//! A new attribute is one entry here and one migration. A name that stands here is frozen: it is hashed into keys.

use super::order::{Field, Scope};

/// The vault of orders.
pub static MODEL: Model = Model {
    hubs: &[&H_USER, &H_PRODUCT, &H_CATEGORY, &H_RESTAURANT, &H_ORDER],
    links: &[
        &L_ORDER_USER,
        &L_ORDER_PRODUCT,
        &L_PRODUCT_RESTAURANT,
        &L_PRODUCT_CATEGORY,
        &L_ORDER_RESTAURANT,
    ],
    satellites: &[
        &S_USER_NAMES,
        &S_PRODUCT_NAMES,
        &S_RESTAURANT_NAMES,
        &S_ORDER_COST,
        &S_ORDER_STATUS,
        &S_ORDER_ITEM,
    ],
};

pub(super) static H_USER: Hub = Hub {
    name: "h_user",
    business_key: from("user_id", Field::UserId),
};
pub(super) static H_PRODUCT: Hub = Hub {
    name: "h_product",
    business_key: from("product_id", Field::ProductId),
};
pub(super) static H_CATEGORY: Hub = Hub {
    name: "h_category",
    business_key: from("category_name", Field::ProductCategory),
};
static H_RESTAURANT: Hub = Hub {
    name: "h_restaurant",
    business_key: from("restaurant_id", Field::RestaurantId),
};
pub(super) static H_ORDER: Hub = Hub {
    name: "h_order",
    business_key: from("order_id", Field::OrderId),
};

static L_ORDER_USER: Link = Link {
    name: "l_order_user",
    hubs: &[&H_ORDER, &H_USER],
};
static L_ORDER_PRODUCT: Link = Link {
    name: "l_order_product",
    hubs: &[&H_ORDER, &H_PRODUCT],
};
static L_PRODUCT_RESTAURANT: Link = Link {
    name: "l_product_restaurant",
    hubs: &[&H_PRODUCT, &H_RESTAURANT],
};
static L_PRODUCT_CATEGORY: Link = Link {
    name: "l_product_category",
    hubs: &[&H_PRODUCT, &H_CATEGORY],
};
static L_ORDER_RESTAURANT: Link = Link {
    name: "l_order_restaurant",
    hubs: &[&H_ORDER, &H_RESTAURANT],
};

static S_USER_NAMES: Satellite = Satellite {
    name: "s_user_names",
    parent: Parent::Hub(&H_USER),
    multi_active: None,
    driving_key: None,
    attributes: &[
        from("username", Field::UserName),
        from("userlogin", Field::UserLogin),
    ],
};

static S_PRODUCT_NAMES: Satellite = Satellite {
    name: "s_product_names",
    parent: Parent::Hub(&H_PRODUCT),
    multi_active: None,
    driving_key: None,
    attributes: &[from("name", Field::ProductName)],
};

static S_RESTAURANT_NAMES: Satellite = Satellite {
    name: "s_restaurant_names",
    parent: Parent::Hub(&H_RESTAURANT),
    multi_active: None,
    driving_key: None,
    attributes: &[from("name", Field::RestaurantName)],
};

static S_ORDER_COST: Satellite = Satellite {
    name: "s_order_cost",
    parent: Parent::Hub(&H_ORDER),
    multi_active: None,
    driving_key: None,
    attributes: &[
        from("order_dt", Field::OrderDate),
        from("cost", Field::Cost),
        from("payment", Field::Payment),
    ],
};

static S_ORDER_STATUS: Satellite = Satellite {
    name: "s_order_status",
    parent: Parent::Hub(&H_ORDER),
    multi_active: None,
    driving_key: None,
    attributes: &[from("status", Field::Status)],
};

static S_ORDER_ITEM: Satellite = Satellite {
    name: "s_order_item",
    parent: Parent::Link(&L_ORDER_PRODUCT),
    multi_active: Some(from("line_no", Field::LineNumber)),
    driving_key: Some(DrivingKey {
        hub: &H_ORDER,
        versions: &S_ORDER_STATUS,
    }),
    attributes: &[
        from("price", Field::ProductPrice),
        from("quantity", Field::ProductQuantity),
    ],
};

/// A whole vault.
#[derive(Debug)]
pub struct Model {
    /// Hubs: the things that orders speak of.
    pub hubs: &'static [&'static Hub],
    /// Links: which of them were seen together.
    pub links: &'static [&'static Link],
    /// Satellites: what each version of an order said about them.
    pub satellites: &'static [&'static Satellite],
}

/// A thing, by its business key. A hub holds nothing else.
#[derive(Debug)]
pub struct Hub {
    /// Name of the table.
    pub name: &'static str,
    /// The column that holds the business key.
    pub business_key: Attribute,
}

/// Things that were seen together.
#[derive(Debug)]
pub struct Link {
    /// Name of the table.
    pub name: &'static str,
    /// The hubs it joins, in the order in which their business keys are hashed.
    pub hubs: &'static [&'static Hub],
}

/// What each version of an order said about a hub or a link.
#[derive(Debug)]
pub struct Satellite {
    /// Name of the table.
    pub name: &'static str,
    /// What it describes.
    pub parent: Parent,
    /// For a parent that one version may describe several times: the integer that tells these rows apart. Only beside a
    /// driving key, which tells when one of them has ended.
    pub multi_active: Option<Attribute>,
    /// For rows that end when a later version leaves them out.
    pub driving_key: Option<DrivingKey>,
    /// The descriptive columns.
    pub attributes: &'static [Attribute],
}

/// What a satellite describes.
#[derive(Clone, Copy, Debug)]
pub enum Parent {
    /// A hub.
    Hub(&'static Hub),
    /// A link.
    Link(&'static Link),
}

/// The hub of a link whose newest version decides which rows of the link's satellite are current: a row that this
/// version does not repeat has ended, although nothing says so of the row itself.
#[derive(Debug)]
pub struct DrivingKey {
    /// The hub, one of those that the link joins.
    pub hub: &'static Hub,
    /// The satellite of this hub that has a row for every version, also for one that leaves every line out.
    pub versions: &'static Satellite,
}

/// A column and the field that it comes from.
#[derive(Clone, Copy, Debug)]
pub struct Attribute {
    /// Name of the column.
    pub column: &'static str,
    /// Where its value comes from.
    pub field: Field,
}

const fn from(column: &'static str, field: Field) -> Attribute {
    Attribute { column, field }
}

impl Link {
    /// How many rows an order gives: one per line as soon as one of its hubs is that of a line.
    #[must_use]
    pub fn scope(&self) -> Scope {
        self.hubs
            .iter()
            .map(|hub| hub.business_key.field.scope())
            .max()
            .unwrap_or(Scope::Order)
    }
}

impl Satellite {
    /// How many rows an order gives: one per line as soon as its parent or one of its columns is that of a line.
    #[must_use]
    pub fn scope(&self) -> Scope {
        let columns = self.attributes.iter().chain(&self.multi_active);
        columns
            .map(|column| column.field.scope())
            .fold(self.parent.scope(), Scope::max)
    }
}

impl Parent {
    /// Name of the parent's table.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Hub(hub) => hub.name,
            Self::Link(link) => link.name,
        }
    }

    fn scope(self) -> Scope {
        match self {
            Self::Hub(hub) => hub.business_key.field.scope(),
            Self::Link(link) => link.scope(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::vault::Kind;

    #[test]
    fn every_table_has_a_name_of_its_own() {
        let tables = MODEL.tables();
        assert_eq!(
            tables
                .iter()
                .map(|table| table.name)
                .collect::<HashSet<_>>()
                .len(),
            tables.len()
        );
    }

    #[test]
    fn a_driving_key_is_a_hub_of_the_link_and_knows_every_version() {
        for satellite in MODEL.satellites {
            let Some(driving) = &satellite.driving_key else {
                continue;
            };
            let Parent::Link(link) = satellite.parent else {
                panic!("{} is not on a link", satellite.name)
            };
            assert!(link.hubs.iter().any(|hub| hub.name == driving.hub.name));
            assert_eq!(driving.versions.parent.name(), driving.hub.name);
            assert_eq!(
                (driving.versions.scope(), driving.versions.multi_active.is_none()),
                (Scope::Order, true)
            );
        }
    }

    #[test]
    fn multi_active_rows_are_told_apart_by_an_integer_and_ended_by_a_driving_key() {
        for satellite in MODEL.satellites {
            let Some(column) = satellite.multi_active else {
                continue;
            };
            assert_eq!(column.field.kind(), Kind::Integer);
            assert!(satellite.driving_key.is_some());
        }
    }

    #[test]
    fn a_row_of_a_line_is_not_written_once_per_order() {
        assert_eq!(L_ORDER_PRODUCT.scope(), Scope::Line);
        assert_eq!(L_ORDER_USER.scope(), Scope::Order);
        assert_eq!(S_PRODUCT_NAMES.scope(), Scope::Line);
        assert_eq!(S_ORDER_STATUS.scope(), Scope::Order);
    }
}
