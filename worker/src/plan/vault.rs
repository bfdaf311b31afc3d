//! Plan of the Data Vault: hubs, links and satellites with the slots that fill their columns. Rows, statement and tables
//! are generated from it.

use crds::model::{self, FieldOrigin, FieldType, StreamModelSpec, effectivity_name};

use super::kind::Kind;
use super::slots::{Scope, Slot, Slots, index_of};

/// Complete plan of a vault.
#[derive(Debug)]
pub struct VaultPlan {
    /// Hubs: the business entities.
    pub hubs: Vec<Hub>,
    /// Links: relationships between hubs.
    pub links: Vec<Link>,
    /// Satellites: descriptive attributes of hubs and links, by version.
    pub satellites: Vec<Satellite>,
}

/// Business entity, identified by its business key. A hub has no other attribute.
#[derive(Debug)]
pub struct Hub {
    /// Name of the table.
    pub name: String,
    /// Columns of the business key.
    pub business_key: Vec<Attribute>,
    /// Number of rows per record.
    pub scope: Scope,
}

/// Relationship between hubs.
#[derive(Debug)]
pub struct Link {
    /// Name of the table.
    pub name: String,
    /// Indices of the joined hubs, in the order in which their business keys are hashed.
    pub hubs: Vec<usize>,
    /// Number of rows per record: one per element if any of the hubs has one per element.
    pub scope: Scope,
}

/// Descriptive attributes of a hub or a link, one row per version of what describes it.
#[derive(Debug)]
pub struct Satellite {
    /// Name of the table.
    pub name: String,
    /// Hub or link that the satellite describes.
    pub parent: Parent,
    /// Source of the versions. A name that is looked up has a row for every change of the entry,
    /// not for every record that mentions it.
    pub versioned_by: VersionedBy,
    /// Integer column that distinguishes the rows of a multi-active satellite, which has several rows per parent and
    /// version: the number of the element among those with the same parent. Requires a driving key, which determines the
    /// end of a row.
    pub multi_active: Option<String>,
    /// Driving key, for rows that end if a later version omits them.
    pub driving_key: Option<DrivingKey>,
    /// Descriptive columns.
    pub attributes: Vec<Attribute>,
    /// Effectivity satellites of links whose driving hub is the parent. A satellite of a hub, with one row per version.
    pub effectivities: Vec<Effectivity>,
    /// Number of rows per record: that of the parent.
    pub scope: Scope,
}

/// Effectivity satellite of a link whose driving hub has one partner at a time: which row of the link each version of
/// the driving hub states. The latest version decides, so a version that arrives late does not.
///
/// It has the rows of the satellite that it belongs to, with the same key: the hash key of the driving hub, and the
/// version. A version therefore has one partner, even if elements of one record contradict each other.
#[derive(Debug)]
pub struct Effectivity {
    /// Name of the table.
    pub name: String,
    /// Index of the link between the driving hub and its partners.
    pub link: usize,
}

/// Parent of a satellite, by index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parent {
    /// A hub.
    Hub(usize),
    /// A link.
    Link(usize),
}

/// Driving key of a link's satellite. Only rows of the driving hub's latest version are current: a row that this version
/// does not repeat has ended, without a row that marks its end.
#[derive(Clone, Copy, Debug)]
pub struct DrivingKey {
    /// Index of the driving hub, one of the hubs that the link joins.
    pub hub: usize,
    /// Index of the satellite of the driving hub with a row for every version, including a version without elements.
    pub versions: usize,
}

/// Source of the version of a satellite row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionedBy {
    /// The record: a row for every version.
    Record,
    /// Entry of the lookup with this index: a row for every change of it. The record, if the entry has no time.
    Entry(usize),
}

/// Column with the slot that fills it.
#[derive(Clone, Debug)]
pub struct Attribute {
    /// Name of the column.
    pub column: String,
    /// Slot of the value.
    pub slot: Slot,
    /// Type of the column.
    pub kind: Kind,
    /// True if the value is looked up, and so is not in the record as received.
    pub is_looked_up: bool,
}

impl VaultPlan {
    /// Compiles the vault of a checked model.
    pub(super) fn compile(spec: &StreamModelSpec, slots: &Slots) -> Self {
        let compiler = Compiler(slots);
        let hubs: Vec<Hub> = spec.vault.hubs.iter().map(|hub| compiler.hub(hub)).collect();
        let links: Vec<Link> = spec
            .vault
            .links
            .iter()
            .map(|link| plan_link(link, &hubs))
            .collect();
        let satellites = spec
            .vault
            .satellites
            .iter()
            .map(|satellite| compiler.satellite(satellite, spec, &hubs, &links));
        let satellites = satellites.collect();
        Self {
            hubs,
            links,
            satellites,
        }
    }

    /// Name of the table of a parent.
    #[must_use]
    pub fn parent_name(&self, parent: Parent) -> &str {
        match parent {
            Parent::Hub(hub) => &self.hubs[hub].name,
            Parent::Link(link) => &self.links[link].name,
        }
    }

    /// Joined hubs of a link.
    pub fn hubs_of<'p>(&'p self, link: &'p Link) -> impl Iterator<Item = &'p Hub> + Clone {
        link.hubs.iter().map(|&hub| &self.hubs[hub])
    }

    /// Returns all effectivity satellites, each with the satellite whose rows it has.
    pub fn effectivities(&self) -> impl Iterator<Item = (&Satellite, &Effectivity)> {
        self.satellites.iter().flat_map(|satellite| {
            let effectivities = satellite.effectivities.iter();
            effectivities.map(move |effectivity| (satellite, effectivity))
        })
    }
}

/// Compiles hubs and satellites.
struct Compiler<'c>(&'c Slots);

impl Compiler<'_> {
    fn attribute(&self, attribute: &model::Attribute) -> Attribute {
        let field = self.0.field(&attribute.field);
        Attribute {
            column: attribute.column.clone(),
            slot: field.slot,
            kind: column_kind(field.type_),
            is_looked_up: field.origin != FieldOrigin::Record,
        }
    }

    fn hub(&self, hub: &model::Hub) -> Hub {
        let business_key: Vec<Attribute> = hub
            .business_key
            .iter()
            .map(|column| self.attribute(column))
            .collect();
        Hub {
            name: hub.name.clone(),
            scope: widest(business_key.iter().map(|column| column.slot.scope)),
            business_key,
        }
    }

    fn satellite(
        &self,
        satellite: &model::Satellite,
        spec: &StreamModelSpec,
        hubs: &[Hub],
        links: &[Link],
    ) -> Satellite {
        let hub_names = || hubs.iter().map(|hub| &hub.name);
        let (parent, scope) = if let Some(hub) = hub_names().position(|hub| *hub == satellite.parent) {
            (Parent::Hub(hub), hubs[hub].scope)
        } else {
            let link = index_of(links.iter().map(|link| &link.name), &satellite.parent);
            (Parent::Link(link), links[link].scope)
        };
        let names = || spec.vault.satellites.iter().map(|satellite| &satellite.name);
        let driving_key = satellite.driving_hub.as_ref().zip(satellite.versions.as_ref());
        let stated = spec.vault.links.iter().enumerate().filter(|(_, link)| {
            link.driving_hub.is_some() && link.versions.as_ref() == Some(&satellite.name)
        });
        let lookups = || spec.lookups.iter().map(|lookup| &lookup.name);
        Satellite {
            name: satellite.name.clone(),
            parent,
            versioned_by: satellite
                .versioned_by
                .as_ref()
                .map_or(VersionedBy::Record, |name| {
                    VersionedBy::Entry(index_of(lookups(), name))
                }),
            multi_active: satellite.multi_active.clone(),
            driving_key: driving_key.map(|(hub, versions)| DrivingKey {
                hub: index_of(hub_names(), hub),
                versions: index_of(names(), versions),
            }),
            attributes: satellite
                .attributes
                .iter()
                .map(|column| self.attribute(column))
                .collect(),
            effectivities: stated
                .map(|(index, link)| Effectivity {
                    name: effectivity_name(&link.name),
                    link: index,
                })
                .collect(),
            scope,
        }
    }
}

fn plan_link(link: &model::Link, hubs: &[Hub]) -> Link {
    let names = || hubs.iter().map(|hub| &hub.name);
    let joined: Vec<usize> = link.hubs.iter().map(|hub| index_of(names(), hub)).collect();
    Link {
        name: link.name.clone(),
        scope: widest(joined.iter().map(|&hub| hubs[hub].scope)),
        hubs: joined,
    }
}

/// Returns the scope of a row with values of these scopes: one row per element if any of the values is one per element.
fn widest(scopes: impl Iterator<Item = Scope>) -> Scope {
    scopes.max().unwrap_or(Scope::Record)
}

fn column_kind(type_: FieldType) -> Kind {
    match type_ {
        FieldType::Key | FieldType::Text => Kind::Text,
        FieldType::Bigint => Kind::BigInt,
        FieldType::Integer => Kind::Integer,
        FieldType::Money => Kind::Numeric,
        FieldType::Timestamp => Kind::Timestamp,
    }
}

#[cfg(test)]
mod tests {
    use super::super::ORDERS;
    use super::*;

    #[test]
    fn a_table_with_a_hub_of_an_element_has_one_row_per_element() {
        let plan = &ORDERS.vault;
        let scope = |name: &str| {
            let links = plan.links.iter().map(|link| (link.name.as_str(), link.scope));
            let satellites = plan.satellites.iter();
            let satellites = satellites.map(|satellite| (satellite.name.as_str(), satellite.scope));
            links
                .chain(satellites)
                .find(|(other, _)| *other == name)
                .expect(name)
                .1
        };
        assert_eq!(scope("l_order_product"), Scope::Element(0));
        assert_eq!(scope("l_order_user"), Scope::Record);
        assert_eq!(scope("s_product_names"), Scope::Element(0));
        assert_eq!(scope("s_order_status"), Scope::Record);
    }

    #[test]
    fn effectivities_are_in_the_order_of_their_satellites() {
        let names: Vec<(&str, &str)> = ORDERS
            .vault
            .effectivities()
            .map(|(satellite, effectivity)| (satellite.name.as_str(), effectivity.name.as_str()))
            .collect();
        assert_eq!(
            names,
            [
                ("s_product_names", "s_product_restaurant_effectivity"),
                ("s_product_names", "s_product_category_effectivity"),
                ("s_order_status", "s_order_user_effectivity"),
                ("s_order_status", "s_order_restaurant_effectivity"),
            ]
        );
    }
}
