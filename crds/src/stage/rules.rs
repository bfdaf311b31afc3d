//! CEL rules of the resource's schema, which the API server evaluates.
//!
//! Must never use a function that Kubernetes 1.33 does not have, and must stay cheap: the API server refuses a
//! resource definition whose rules could cost too much, so every text and list that a rule reads is bounded.
//! [`super::validate`] repeats each of them in Rust.

use kube::core::Rule;

/// Refuses a value for which `expression` is false; `message` says what is wrong and what to do.
pub(super) fn rule(expression: &str, message: &str) -> Rule {
    Rule::new(expression).message(message)
}

/// As [`rule`], reported at `path` below the object that the rule stands on.
pub(super) fn rule_at(path: &str, expression: &str, message: &str) -> Rule {
    rule(expression, message).field_path(path)
}

/// Refuses a change of a required field.
pub(super) fn immutable(field: &str) -> [Rule; 1] {
    [rule(
        "self == oldSelf",
        &format!("{field} is immutable: create another StreamStage instead"),
    )]
}

/// Refuses a duration outside `shortest..=longest`.
pub(super) fn lasts(shortest: &str, longest: &str) -> [Rule; 1] {
    [rule(
        &format!("duration(self) >= duration('{shortest}') && duration(self) <= duration('{longest}')"),
        &format!("must last between {shortest} and {longest}"),
    )]
}

/// Refuses a size outside `smallest..=largest`.
pub(super) fn weighs(smallest: &str, largest: &str) -> [Rule; 1] {
    let size = "quantity(string(self)).compareTo(quantity";
    [rule(
        &format!("{size}('{smallest}')) >= 0 && {size}('{largest}')) <= 0"),
        &format!("must be between {smallest} and {largest}"),
    )]
}

/// What the rules say, here and in [`super::validate`].
pub(super) mod message {
    pub(crate) const NAME: &str = "the name is longer than 52 characters, and the names of the stage's objects are made from it: shorten it";
    pub(crate) const OUTPUT: &str = "output is for the layers stg and dds, which need it, and for no other: add output.topic, or remove output";
    pub(crate) const OUTPUT_TOPIC: &str =
        "the output topic is the source topic, so the stage would read what it writes: name another topic";
    pub(crate) const DICTIONARY: &str = "dictionary is for the layer stg, which needs it, and for no other: add dictionary.url, or remove dictionary";
    pub(crate) const TAGS: &str = "tags are for the layer cdm only: remove tags";
    pub(crate) const DEAD_LETTER: &str =
        "the dead letter topic is the source or the output topic: name another one in deadLetter.topic";
    pub(crate) const CONNECTION_BUDGET: &str = "connectionBudget is smaller than connectionsPerWorker, so not even one worker could connect: raise it";
    pub(crate) const MIN_REPLICAS: &str =
        "minReplicas is larger than maxReplicas: lower minReplicas or raise maxReplicas";
    pub(crate) const REPLICAS: &str =
        "replicas is only for the modes Manual and External: remove it, or change scaling.mode";
    pub(crate) const TARGET: &str =
        "exactly one of drainSeconds and lagPerReplica is needed: remove one, or add one";
}
