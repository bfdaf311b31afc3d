//! CEL rules of the resource's schema, which the API server evaluates.
//!
//! Never use a function that Kubernetes 1.33 lacks, and bound every string and list that a rule reads: the API
//! server rejects a CRD whose rules could cost too much.
//! [`super::validate()`] repeats every rule in Rust, with the same messages.

use kube::core::Rule;

/// Rejects a value for which `expression` is false; `message` gives the cause and the remedy.
pub(super) fn rule(expression: &str, message: &str) -> Rule {
    Rule::new(expression).message(message)
}

/// Same as [`rule`], reported at `path` relative to the object that has the rule.
pub(super) fn rule_at(path: &str, expression: &str, message: &str) -> Rule {
    rule(expression, message).field_path(path)
}

/// Rejects any change of a required field.
pub(super) fn immutable(field: &str) -> [Rule; 1] {
    [rule(
        "self == oldSelf",
        &format!("{field} is immutable: create another StreamStage instead"),
    )]
}

/// Rejects a duration outside `shortest..=longest`.
pub(super) fn duration_between(shortest: &str, longest: &str) -> [Rule; 1] {
    [rule(
        &format!("duration(self) >= duration('{shortest}') && duration(self) <= duration('{longest}')"),
        &format!("must be between {shortest} and {longest}"),
    )]
}

/// Rejects a size outside `smallest..=largest`.
pub(super) fn size_between(smallest: &str, largest: &str) -> [Rule; 1] {
    let size = "quantity(string(self)).compareTo(quantity";
    [rule(
        &format!("{size}('{smallest}')) >= 0 && {size}('{largest}')) <= 0"),
        &format!("must be between {smallest} and {largest}"),
    )]
}

/// Rejects any change of the database: the positions are in it, so with another one the stage would read everything again.
pub(super) fn immutable_database() -> [Rule; 1] {
    [rule(
        "self == oldSelf",
        "warehouse.database is immutable: another database has no positions, so the stage would read its topic again; \
         create another StreamStage instead",
    )]
}

/// Messages of the rules between fields, used here and by [`super::validate()`].
pub(super) mod message {
    pub(crate) const NAME: &str =
        "the name is longer than 52 characters; names of owned objects are derived from it: shorten it";
    pub(crate) const NAME_CHARACTERS: &str = "the name must start with a letter and have only lower-case letters, digits and `-`, since names of objects and labels are derived from it: rename the stage";
    pub(crate) const ANNOTATION: &str = "an annotation lowers the confinement of the pods: remove it";
    pub(crate) const PRIORITY_CLASS: &str = "the priority class is one of Kubernetes itself: use another one";
    pub(crate) const MOUNT_PATH: &str =
        "must be an absolute path in normal form, outside of /etc/streamstage: use another one";
    pub(crate) const VOLUME_NAME: &str =
        "the volume names document and secret-… are the operator's: rename the volume";
    pub(crate) const VOLUME_KIND: &str =
        "exactly one of configMap and emptyDir is required: remove one, or add one";
    pub(crate) const OUTPUT: &str = "output is required for the layers stg and dds, not allowed for cdm: add output.topic, or remove output";
    pub(crate) const OUTPUT_TOPIC: &str = "the output topic equals the source topic, so the stage would consume its own output: use another topic";
    pub(crate) const REFERENCE_DATA: &str = "referenceData is required for the layer stg, not allowed for others: add referenceData.url, or remove referenceData";
    pub(crate) const TAGS: &str = "tags are allowed for the layer cdm only: remove tags";
    pub(crate) const DEAD_LETTER: &str =
        "the dead letter topic equals the source or the output topic: set another one in deadLetter.topic";
    pub(crate) const CONNECTION_BUDGET: &str = "connectionBudget is smaller than connectionsPerWorker, so not even one worker could connect: raise it";
    pub(crate) const MIN_REPLICAS: &str =
        "minReplicas is larger than maxReplicas: lower minReplicas or raise maxReplicas";
    pub(crate) const SCHEDULE_BOUNDS: &str = "a schedule needs minReplicas or maxReplicas: add one of them";
    pub(crate) const SCHEDULE_WINDOW: &str =
        "start equals end, so the window would never end: correct one of them, or set the bounds of scaling";
    pub(crate) const SCHEDULE_MIN: &str = "minReplicas in the window of a schedule is larger than maxReplicas; one of them may be that of scaling: lower minReplicas or raise maxReplicas";
    pub(crate) const TARGET: &str = "drainSeconds and lagPerReplica exclude each other: remove one";
}
