//! Root of the resource: the spec of a `StreamModel`.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::field::{Field, FieldOrigin, FieldScope, ModelField};
use super::lookup::Lookup;
use super::message::Messages;
use super::record::RecordModel;
use super::vault::Vault;
use crate::schema::make_structural;

/// Model of a stream, as users write it.
#[derive(Clone, Debug, PartialEq, Eq, CustomResource, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "streamstage.dev",
    version = "v1alpha1",
    kind = "StreamModel",
    plural = "streammodels",
    shortname = "model",
    shortname = "models",
    category = "streamstage",
    namespaced,
    derive = "PartialEq",
    doc = "The model of a stream: its records, the versions of a record, and the Data Vault that they fill."
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = make_structural)]
pub struct StreamModelSpec {
    /// Record of the source topic.
    pub record: RecordModel,

    /// Entries of the reference data in Redis that a record is enriched with. Default: `[]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    pub lookups: Vec<Lookup>,

    /// Tables of the Data Vault.
    pub vault: Vault,

    /// Messages between the stages.
    pub messages: Messages,
}

impl StreamModelSpec {
    /// Returns all fields. The fields of one scope are in the order of their slots: those of the record or the array, then
    /// those of the lookups.
    #[must_use]
    pub fn fields(&self) -> Vec<ModelField<'_>> {
        let record = &self.record;
        let mut fields = located(
            &record.fields,
            FieldScope::Record,
            FieldOrigin::Record,
            "spec.record",
        );
        for (index, array) in record.arrays.iter().enumerate() {
            let (scope, path) = (FieldScope::Element(index), format!("spec.record.arrays[{index}]"));
            fields.extend(located(&array.fields, scope, FieldOrigin::Record, &path));
        }
        for (number, lookup) in self.lookups.iter().enumerate() {
            let (origin, path) = (FieldOrigin::Lookup(number), format!("spec.lookups[{number}]"));
            fields.extend(located(
                &lookup.fields,
                record.scope_of(&lookup.key),
                origin,
                &path,
            ));
            if let Some(index) = &lookup.index {
                let (scope, path) = (record.scope_of(&index.key), format!("{path}.index"));
                fields.extend(located(&index.fields, scope, origin, &path));
            }
        }
        fields
    }
}

fn located<'m>(
    fields: &'m [Field],
    scope: FieldScope,
    origin: FieldOrigin,
    path: &str,
) -> Vec<ModelField<'m>> {
    let fields = fields.iter().enumerate();
    let located = fields.map(|(index, field)| ModelField {
        field,
        scope,
        origin,
        path: format!("{path}.fields[{index}]"),
    });
    located.collect()
}

impl StreamModel {
    /// Name of the model.
    #[must_use]
    pub fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }
}
