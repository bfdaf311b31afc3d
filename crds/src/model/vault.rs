//! Data Vault: hubs, links and satellites.
//!
//! The columns of a table are frozen, because the vault is insert-only: an additional column would stay empty in the rows
//! that are stored. A new attribute is a new satellite. The names are frozen, because those of hubs and links are hashed
//! into stored keys.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::field::{MAX_NAME_LENGTH, NAME_PATTERN};

/// Pattern of the name of a hub.
pub(super) const HUB_PATTERN: &str = "^h_[a-z0-9_]+$";
/// Pattern of the name of a link.
pub(super) const LINK_PATTERN: &str = "^l_[a-z0-9_]+$";
/// Pattern of the name of a satellite.
pub(super) const SATELLITE_PATTERN: &str = "^s_[a-z0-9_]+$";
/// Maximum length of the name of a table. The longest name that is derived from it has 23 characters more, and PostgreSQL
/// cuts off a name of more than 63.
pub(super) const MAX_TABLE_NAME_LENGTH: usize = 40;

/// Tables of the Data Vault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Vault {
    /// Hubs: the business entities.
    #[schemars(length(min = 1, max = 50), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub hubs: Vec<Hub>,

    /// Links: the relationships between hubs. Default: `[]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub links: Vec<Link>,

    /// Satellites: the attributes of hubs and links, by version. Default: `[]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub satellites: Vec<Satellite>,
}

/// Business entity, identified by its business key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Hub {
    /// Name of the table: `h_…`.
    #[schemars(length(min = 3, max = MAX_TABLE_NAME_LENGTH), regex(pattern = HUB_PATTERN))]
    pub name: String,

    /// Columns of the business key, in the order in which they are hashed.
    #[schemars(length(min = 1, max = 5))]
    pub business_key: Vec<Attribute>,
}

/// Relationship between hubs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Link {
    /// Name of the table: `l_…`.
    #[schemars(length(min = 3, max = MAX_TABLE_NAME_LENGTH), regex(pattern = LINK_PATTERN))]
    pub name: String,

    /// Joined hubs, in the order in which their business keys are hashed.
    #[schemars(length(min = 2, max = 8))]
    pub hubs: Vec<String>,

    /// Hub that has one partner at a time. The link gets an effectivity satellite: which row of the link each version of
    /// the driving hub states.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 3, max = MAX_TABLE_NAME_LENGTH))]
    pub driving_hub: Option<String>,

    /// Satellite of the driving hub, whose rows are its versions. Required with `drivingHub`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 3, max = MAX_TABLE_NAME_LENGTH))]
    pub versions: Option<String>,
}

/// Attributes of a hub or a link, one row per version of what describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Satellite {
    /// Name of the table: `s_…`.
    #[schemars(length(min = 3, max = MAX_TABLE_NAME_LENGTH), regex(pattern = SATELLITE_PATTERN))]
    pub name: String,

    /// Hub or link that the satellite describes.
    #[schemars(length(min = 3, max = MAX_TABLE_NAME_LENGTH))]
    pub parent: String,

    /// Lookup whose entry has the versions: one row for each change of the entry, not for each record that mentions it.
    /// Default: the record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = MAX_NAME_LENGTH))]
    pub versioned_by: Option<String>,

    /// Column that numbers the elements of one version with the same parent, from 1. It makes the satellite multi-active,
    /// and requires `drivingHub`, which determines the end of a row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = MAX_NAME_LENGTH), regex(pattern = NAME_PATTERN))]
    pub multi_active: Option<String>,

    /// Hub of the parent link. Only rows of its latest version are current: a row that this version does not repeat has
    /// ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 3, max = MAX_TABLE_NAME_LENGTH))]
    pub driving_hub: Option<String>,

    /// Satellite of the driving hub, whose rows are its versions. Required with `drivingHub`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 3, max = MAX_TABLE_NAME_LENGTH))]
    pub versions: Option<String>,

    /// Descriptive columns, in the order in which they are hashed.
    #[schemars(length(min = 1, max = 100))]
    pub attributes: Vec<Attribute>,
}

/// Column with the field that fills it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Attribute {
    /// Name of the column.
    #[schemars(length(min = 1, max = MAX_NAME_LENGTH), regex(pattern = NAME_PATTERN))]
    pub column: String,

    /// Field that fills the column.
    #[schemars(length(min = 1, max = MAX_NAME_LENGTH))]
    pub field: String,
}

/// Returns the name of the effectivity satellite of a link: `s_a_b_effectivity` for `l_a_b`.
#[must_use]
pub fn effectivity_name(link: &str) -> String {
    format!("s_{}_effectivity", link.strip_prefix("l_").unwrap_or(link))
}
