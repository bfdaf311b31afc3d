//! Model of the vault: hubs, links and satellites as data. Rows, statement and tables are generated from it.
//!
//! The columns of a table are frozen, because the vault is insert-only: an additional column would stay empty in the rows
//! that are stored. A new attribute is a new satellite, which `worker republish` fills. The names are frozen, because
//! those of hubs and links are hashed into stored keys.

use super::order::{Field, Scope, VersionedBy};

/// Model of the order vault.
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
    versioned_by: VersionedBy::User,
    multi_active: None,
    driving_key: None,
    attributes: &[
        from("username", Field::UserName),
        from("userlogin", Field::UserLogin),
    ],
    effectivities: &[],
};

static S_PRODUCT_NAMES: Satellite = Satellite {
    name: "s_product_names",
    parent: Parent::Hub(&H_PRODUCT),
    versioned_by: VersionedBy::Restaurant,
    multi_active: None,
    driving_key: None,
    attributes: &[from("name", Field::ProductName)],
    effectivities: &[
        Effectivity {
            name: "s_product_restaurant_effectivity",
            link: &L_PRODUCT_RESTAURANT,
        },
        Effectivity {
            name: "s_product_category_effectivity",
            link: &L_PRODUCT_CATEGORY,
        },
    ],
};

static S_RESTAURANT_NAMES: Satellite = Satellite {
    name: "s_restaurant_names",
    parent: Parent::Hub(&H_RESTAURANT),
    versioned_by: VersionedBy::Restaurant,
    multi_active: None,
    driving_key: None,
    attributes: &[from("name", Field::RestaurantName)],
    effectivities: &[],
};

static S_ORDER_COST: Satellite = Satellite {
    name: "s_order_cost",
    parent: Parent::Hub(&H_ORDER),
    versioned_by: VersionedBy::Record,
    multi_active: None,
    driving_key: None,
    attributes: &[
        from("order_dt", Field::OrderDate),
        from("cost", Field::Cost),
        from("payment", Field::Payment),
    ],
    effectivities: &[],
};

static S_ORDER_STATUS: Satellite = Satellite {
    name: "s_order_status",
    parent: Parent::Hub(&H_ORDER),
    versioned_by: VersionedBy::Record,
    multi_active: None,
    driving_key: None,
    attributes: &[from("status", Field::Status)],
    effectivities: &[
        Effectivity {
            name: "s_order_user_effectivity",
            link: &L_ORDER_USER,
        },
        Effectivity {
            name: "s_order_restaurant_effectivity",
            link: &L_ORDER_RESTAURANT,
        },
    ],
};

static S_ORDER_ITEM: Satellite = Satellite {
    name: "s_order_item",
    parent: Parent::Link(&L_ORDER_PRODUCT),
    versioned_by: VersionedBy::Record,
    multi_active: Some(from("occurrence", Field::ProductOccurrence)),
    driving_key: Some(DrivingKey {
        hub: &H_ORDER,
        versions: &S_ORDER_STATUS,
    }),
    attributes: &[
        from("name", Field::LineName),
        from("category", Field::ProductCategory),
        from("price", Field::ProductPrice),
        from("quantity", Field::ProductQuantity),
    ],
    effectivities: &[],
};

/// Complete model of a vault.
#[derive(Debug)]
pub struct Model {
    /// Hubs: the business entities of an order.
    pub hubs: &'static [&'static Hub],
    /// Links: relationships between hubs.
    pub links: &'static [&'static Link],
    /// Satellites: descriptive attributes of hubs and links, by version.
    pub satellites: &'static [&'static Satellite],
}

/// Business entity, identified by its business key. A hub has no other attribute.
#[derive(Debug)]
pub struct Hub {
    /// Name of the table.
    pub name: &'static str,
    /// Column of the business key.
    pub business_key: Attribute,
}

/// Relationship between hubs.
#[derive(Debug)]
pub struct Link {
    /// Name of the table.
    pub name: &'static str,
    /// Joined hubs, in the order in which their business keys are hashed.
    pub hubs: &'static [&'static Hub],
}

/// Descriptive attributes of a hub or a link, one row per version of what describes it.
#[derive(Debug)]
pub struct Satellite {
    /// Name of the table.
    pub name: &'static str,
    /// Hub or link that the satellite describes.
    pub parent: Parent,
    /// Source of the versions. A name that is looked up has a row for every change of the entry,
    /// not for every order that mentions it.
    pub versioned_by: VersionedBy,
    /// Integer column that distinguishes the rows of a multi-active satellite, which has several rows per parent and
    /// version. Requires a driving key, which determines the end of a row.
    pub multi_active: Option<Attribute>,
    /// Driving key, for rows that end if a later version omits them.
    pub driving_key: Option<DrivingKey>,
    /// Descriptive columns.
    pub attributes: &'static [Attribute],
    /// Effectivity satellites of links whose driving hub is the parent. A satellite of a hub, with one row per version.
    pub effectivities: &'static [Effectivity],
}

/// Effectivity satellite of a link whose driving hub has one partner at a time: which row of the link each version of
/// the driving hub states. The latest version decides, so a version that arrives late does not.
///
/// It has the rows of the satellite that it belongs to, with the same key: the hash key of the driving hub, and the
/// version. A version therefore has one partner, even if lines of one message contradict each other.
#[derive(Debug)]
pub struct Effectivity {
    /// Name of the table.
    pub name: &'static str,
    /// Link between the driving hub and its partners.
    pub link: &'static Link,
}

/// Parent of a satellite.
#[derive(Clone, Copy, Debug)]
pub enum Parent {
    /// A hub.
    Hub(&'static Hub),
    /// A link.
    Link(&'static Link),
}

/// Driving key of a link's satellite. Only rows of the driving hub's latest version are current: a row that this version
/// does not repeat has ended, without a row that marks its end.
#[derive(Debug)]
pub struct DrivingKey {
    /// Driving hub, one of the hubs that the link joins.
    pub hub: &'static Hub,
    /// Satellite of the driving hub with a row for every version, including a version without lines.
    pub versions: &'static Satellite,
}

/// Column with the field that fills it.
#[derive(Clone, Copy, Debug)]
pub struct Attribute {
    /// Name of the column.
    pub column: &'static str,
    /// Field that fills the column.
    pub field: Field,
}

const fn from(column: &'static str, field: Field) -> Attribute {
    Attribute { column, field }
}

impl Link {
    /// Returns the scope of the rows: one per line if any of the hubs is one per line.
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
    /// Returns the scope of the rows: one per line if the parent or any column is one per line.
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
    use super::super::kind::Kind;
    use super::*;

    #[test]
    fn a_driving_key_is_a_hub_of_the_link_and_has_a_row_per_version() {
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
            assert_eq!(driving.versions.versioned_by, VersionedBy::Record);
            assert_eq!(satellite.versioned_by, VersionedBy::Record);
        }
    }

    #[test]
    fn an_effectivity_has_a_row_for_each_version_of_the_driving_hub() {
        let mut links = std::collections::HashSet::new();
        for satellite in MODEL.satellites {
            for Effectivity { name, link } in satellite.effectivities {
                assert!(
                    links.insert(link.name),
                    "{name} is the second effectivity of its link"
                );
                let driving_hub = satellite.parent.name();
                assert!(link.hubs.iter().any(|hub| hub.name == driving_hub), "{name}");
                // The link key of the row is that of the order or line that the row describes.
                assert_eq!(link.scope(), satellite.scope(), "{name}");
                assert!(satellite.multi_active.is_none(), "{name}");
            }
        }
        let without: Vec<&str> = MODEL
            .links
            .iter()
            .map(|link| link.name)
            .filter(|link| !links.contains(link))
            .collect();
        // An order has several products at a time; a product that a version omits ends in `s_order_item`.
        assert_eq!(without, ["l_order_product"]);
    }

    #[test]
    fn multi_active_rows_have_an_integer_column_and_a_driving_key() {
        for satellite in MODEL.satellites {
            let Some(column) = satellite.multi_active else {
                continue;
            };
            assert_eq!(column.field.kind(), Kind::Integer);
            assert!(satellite.driving_key.is_some());
        }
    }

    #[test]
    fn a_table_with_a_field_of_a_line_has_one_row_per_line() {
        assert_eq!(L_ORDER_PRODUCT.scope(), Scope::Line);
        assert_eq!(L_ORDER_USER.scope(), Scope::Order);
        assert_eq!(S_PRODUCT_NAMES.scope(), Scope::Line);
        assert_eq!(S_ORDER_STATUS.scope(), Scope::Order);
    }
}
