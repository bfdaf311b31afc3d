//! The vault: hubs, links and satellites, and the columns of their tables.

use std::collections::BTreeSet;

use super::keywords::is_reserved;
use super::known_fields::{KnownField, KnownFields, unknown};
use super::names::is_name;
use super::violations::Violations;
use crate::model::field::{FieldOrigin, FieldScope};
use crate::model::spec::StreamModelSpec;
use crate::model::vault::{Attribute, Hub, Link, Satellite, Vault};

/// Columns that every table has.
const METADATA_COLUMNS: [&str; 2] = ["load_dt", "load_src"];
/// Columns that every satellite has.
const SATELLITE_COLUMNS: [&str; 3] = ["version", "update_ts", "hash_diff"];

/// Checks every table of the vault.
pub(super) fn check(model: &StreamModelSpec, fields: &KnownFields, violations: &mut Violations) {
    let mut checker = Checker {
        model,
        vault: &model.vault,
        fields,
        violations,
    };
    for (index, hub) in model.vault.hubs.iter().enumerate() {
        checker.check_hub(hub, &format!("spec.vault.hubs[{index}]"));
    }
    for (index, link) in model.vault.links.iter().enumerate() {
        checker.check_link(link, &format!("spec.vault.links[{index}]"));
    }
    for (index, satellite) in model.vault.satellites.iter().enumerate() {
        checker.check_satellite(satellite, &format!("spec.vault.satellites[{index}]"));
    }
}

struct Checker<'c> {
    model: &'c StreamModelSpec,
    vault: &'c Vault,
    fields: &'c KnownFields,
    violations: &'c mut Violations,
}

impl Checker<'_> {
    fn check_hub(&mut self, hub: &Hub, path: &str) {
        let reserved = [format!("{}_pk", hub.name)];
        self.check_columns(&hub.business_key, &format!("{path}.businessKey"), &reserved);
        let mut scopes = BTreeSet::new();
        for (index, column) in hub.business_key.iter().enumerate() {
            let Some(field) = self.fields.0.get(&column.field) else {
                continue;
            };
            scopes.insert(field.scope);
            let path = format!("{path}.businessKey[{index}].field");
            self.violations.require(field.type_.is_business_key(), &path, || {
                format!(
                    "`{}` cannot be a business key: use a field of the type key, bigint or integer",
                    column.field
                )
            });
        }
        self.check_scopes(&scopes, &format!("{path}.businessKey"));
    }

    fn check_link(&mut self, link: &Link, path: &str) {
        let (mut seen, mut scopes) = (BTreeSet::new(), BTreeSet::new());
        self.violations
            .require(link.hubs.len() >= 2, &format!("{path}.hubs"), || {
                "joins fewer than two hubs: add one".to_owned()
            });
        for (index, hub) in link.hubs.iter().enumerate() {
            let path = format!("{path}.hubs[{index}]");
            self.violations.require(seen.insert(hub), &path, || {
                format!("`{hub}` is joined twice: remove one")
            });
            if let Some(hub) = self.find_hub(hub, &path) {
                scopes.extend(self.scope_of_hub(&hub));
            }
        }
        self.check_scopes(&scopes, &format!("{path}.hubs"));
        let driving = Driving {
            path,
            link,
            hub: link.driving_hub.as_deref(),
            versions: link.versions.as_deref(),
            // The key of the link is that of the record or element that the row of the satellite describes.
            scope: scopes.last().copied().unwrap_or(FieldScope::Record),
        };
        self.check_driving(&driving);
    }

    fn check_satellite(&mut self, satellite: &Satellite, path: &str) {
        let parent = format!("{path}.parent");
        let link = self.vault.links.iter().find(|link| link.name == satellite.parent);
        let hub = self.vault.hubs.iter().find(|hub| hub.name == satellite.parent);
        let parent_scope = match (hub, link) {
            (Some(hub), _) => self.scope_of_hub(hub),
            (None, Some(link)) => self.scope_of_link(link),
            (None, None) => {
                let hubs = self.vault.hubs.iter().map(|hub| hub.name.as_str());
                let links = self.vault.links.iter().map(|link| link.name.as_str());
                let tables: Vec<&str> = hubs.chain(links).collect();
                self.violations
                    .add(parent, unknown("a hub or link", &satellite.parent, &tables));
                return;
            }
        };
        let mut reserved: Vec<String> = SATELLITE_COLUMNS.map(str::to_owned).into();
        reserved.push(format!("{}_pk", satellite.parent));
        reserved.extend(satellite.multi_active.clone());
        let attributes = format!("{path}.attributes");
        self.check_columns(&satellite.attributes, &attributes, &reserved);
        for (index, column) in satellite.attributes.iter().enumerate() {
            let Some(field) = self.fields.0.get(&column.field) else {
                continue;
            };
            self.violations.require(
                field.scope == FieldScope::Record || Some(field.scope) == parent_scope,
                &format!("{attributes}[{index}].field"),
                || {
                    format!(
                        "`{}` has one value per element, and `{}` has none of that array: describe a link with a hub of the \
                         element",
                        column.field, satellite.parent
                    )
                },
            );
        }
        self.check_versions_of(satellite, path);
        self.check_multi_active(satellite, link, parent_scope, path);
    }

    /// Checks that a satellite with the versions of an entry has the attributes of that entry alone: another attribute could
    /// change without a new version.
    fn check_versions_of(&mut self, satellite: &Satellite, path: &str) {
        let Some(name) = &satellite.versioned_by else {
            return;
        };
        let path = format!("{path}.versionedBy");
        let lookups = &self.model.lookups;
        let Some(number) = lookups.iter().position(|lookup| lookup.name == *name) else {
            let names: Vec<&str> = lookups.iter().map(|lookup| lookup.name.as_str()).collect();
            self.violations.add(path, unknown("a lookup", name, &names));
            return;
        };
        self.violations
            .require(lookups[number].version.is_some(), &path, || {
                format!("the entries of `{name}` have no version: add spec.lookups[{number}].version")
            });
        let is_foreign = |column: &&Attribute| {
            let field = self.fields.0.get(&column.field);
            field.is_some_and(|field| field.origin != FieldOrigin::Lookup(number))
        };
        if let Some(column) = satellite.attributes.iter().find(is_foreign) {
            self.violations.add(
                &path,
                format!(
                    "`{}` is not a field of the lookup `{name}`, so it can change without a new version: move it to another \
                     satellite",
                    column.field
                ),
            );
        }
    }

    fn check_multi_active(
        &mut self,
        satellite: &Satellite,
        link: Option<&Link>,
        parent_scope: Option<FieldScope>,
        path: &str,
    ) {
        if let Some(column) = &satellite.multi_active {
            let path = format!("{path}.multiActive");
            self.check_column_name(column, &path);
            self.violations
                .require(satellite.driving_hub.is_some(), &path, || {
                    "needs drivingHub, which determines when a row has ended: add it".to_owned()
                });
            self.violations
                .require(parent_scope != Some(FieldScope::Record), &path, || {
                    format!(
                        "`{}` has one row per record: remove multiActive",
                        satellite.parent
                    )
                });
        }
        let Some(link) = link else {
            self.violations.require(
                satellite.driving_hub.is_none(),
                &format!("{path}.drivingHub"),
                || "is for a satellite of a link: remove it".to_owned(),
            );
            return;
        };
        self.violations.require(
            satellite.driving_hub.is_none() || satellite.versioned_by.is_none(),
            &format!("{path}.versionedBy"),
            || "a satellite with drivingHub has the versions of the record: remove it".to_owned(),
        );
        let driving = Driving {
            path,
            link,
            hub: satellite.driving_hub.as_deref(),
            versions: satellite.versions.as_deref(),
            scope: FieldScope::Record,
        };
        self.check_driving(&driving);
        let mut satellites = self.vault.satellites.iter();
        let versions = satellites.find(|other| Some(&other.name) == satellite.versions.as_ref());
        if let Some(versions) = versions {
            self.violations.require(
                versions.versioned_by.is_none(),
                &format!("{path}.versions"),
                || {
                    format!(
                        "`{}` has the versions of an entry: use a satellite with those of the record",
                        versions.name
                    )
                },
            );
        }
    }

    /// Checks that the driving hub is joined, and that its satellite has one row per version.
    fn check_driving(&mut self, driving: &Driving<'_>) {
        let (hub_path, versions_path) = (
            format!("{}.drivingHub", driving.path),
            format!("{}.versions", driving.path),
        );
        let (hub, versions) = match (driving.hub, driving.versions) {
            (None, None) => return,
            (None, Some(_)) => {
                let message = "is for a driving hub: add drivingHub, or remove versions";
                return self.violations.add(versions_path, message);
            }
            (Some(hub), None) => {
                let message =
                    format!("is missing: name a satellite of `{hub}` with a row for each of its versions");
                return self.violations.add(versions_path, message);
            }
            (Some(hub), Some(versions)) => (hub, versions),
        };
        self.violations.require(
            driving.link.hubs.iter().any(|joined| joined == hub),
            &hub_path,
            || {
                format!(
                    "`{}` does not join `{hub}`: use one of {}",
                    driving.link.name,
                    driving.link.hubs.join(", ")
                )
            },
        );
        let satellites = self.vault.satellites.iter();
        let of_hub = satellites.filter(|satellite| satellite.parent == hub);
        let Some(satellite) = of_hub.clone().find(|satellite| satellite.name == versions) else {
            let names: Vec<&str> = of_hub.map(|satellite| satellite.name.as_str()).collect();
            let message = unknown(&format!("a satellite of `{hub}`"), versions, &names);
            return self.violations.add(versions_path, message);
        };
        self.violations
            .require(satellite.multi_active.is_none(), &versions_path, || {
                format!("`{versions}` is multi-active: use a satellite with one row per version")
            });
        let hub = self.vault.hubs.iter().find(|other| other.name == hub);
        let scope = hub.and_then(|hub| self.scope_of_hub(hub));
        self.violations.require(
            scope.is_none() || scope == Some(driving.scope),
            &versions_path,
            || {
                format!(
                    "the rows of `{versions}` are not those of `{}`: use another driving hub",
                    driving.link.name
                )
            },
        );
    }

    fn check_columns(&mut self, columns: &[Attribute], path: &str, reserved: &[String]) {
        let mut seen = BTreeSet::new();
        self.violations
            .require(!columns.is_empty(), path, || "is empty: add a column".to_owned());
        for (index, Attribute { column, field }) in columns.iter().enumerate() {
            let path = format!("{path}[{index}]");
            let column_path = format!("{path}.column");
            self.check_column_name(column, &column_path);
            let is_reserved = reserved.contains(column) || METADATA_COLUMNS.contains(&column.as_str());
            self.violations.require(!is_reserved, &column_path, || {
                format!("the table has a column `{column}` of its own: use another name")
            });
            self.violations.require(seen.insert(column), &column_path, || {
                format!("`{column}` is the name of two columns: rename one")
            });
            let field_path = format!("{path}.field");
            self.fields
                .get(field, &field_path, self.violations, |_: &KnownField| true);
        }
    }

    fn check_column_name(&mut self, column: &str, path: &str) {
        self.violations.require(is_name(column), path, || {
            format!("`{column}` is not the name of a column: use lower-case letters, digits and `_`, a letter first")
        });
        self.violations.require(!is_reserved(column), path, || {
            format!("`{column}` is a keyword of SQL: use another name")
        });
    }

    /// Adds a violation if values of two arrays would be in one row.
    fn check_scopes(&mut self, scopes: &BTreeSet<FieldScope>, path: &str) {
        let arrays = scopes.iter().filter(|scope| **scope != FieldScope::Record);
        self.violations.require(arrays.count() <= 1, path, || {
            "combines the elements of two arrays: use one of the arrays".to_owned()
        });
    }

    fn find_hub(&mut self, name: &str, path: &str) -> Option<Hub> {
        let hub = self.vault.hubs.iter().find(|hub| hub.name == name);
        if hub.is_none() {
            let names: Vec<&str> = self.vault.hubs.iter().map(|hub| hub.name.as_str()).collect();
            self.violations.add(path, unknown("a hub", name, &names));
        }
        hub.cloned()
    }

    /// Scope of the rows of a hub: one per element if any of its columns is; `None` if none of its fields is known.
    fn scope_of_hub(&self, hub: &Hub) -> Option<FieldScope> {
        let fields = hub
            .business_key
            .iter()
            .filter_map(|column| self.fields.0.get(&column.field));
        fields.map(|field| field.scope).max()
    }

    fn scope_of_link(&self, link: &Link) -> Option<FieldScope> {
        let hubs = self.vault.hubs.iter().filter(|hub| link.hubs.contains(&hub.name));
        hubs.filter_map(|hub| self.scope_of_hub(hub)).max()
    }
}

/// Driving hub of a link or of its satellite, and the satellite with its versions.
struct Driving<'d> {
    path: &'d str,
    link: &'d Link,
    hub: Option<&'d str>,
    versions: Option<&'d str>,
    /// Scope that the rows of the versions must have.
    scope: FieldScope,
}
