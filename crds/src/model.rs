//! Custom resource `StreamModel` (`streamstage.dev/v1alpha1`): what a record is, what orders its versions, what is looked
//! up, and which Data Vault comes of it.
//!
//! A declaration, not a language: JSON pointers and closed lists of types. Everything that is hashed or that determines
//! an order is a list, because Kubernetes does not keep the order of the keys of a map.

mod check;
mod field;
mod lookup;
mod message;
mod record;
mod spec;
mod vault;

pub use self::{
    check::check,
    field::{Field, FieldOrigin, FieldScope, FieldType, ModelField},
    lookup::{Lookup, LookupIndex, LookupVersion},
    message::{ItemPart, MessagePart, Messages},
    record::{Accept, Array, RecordModel, VersionPart},
    spec::{StreamModel, StreamModelSpec},
    vault::{Attribute, Hub, Link, Satellite, Vault, effectivity_name},
};
