//! Check of a model: everything that its schema cannot express, and what the schema says, too, because a file is not
//! validated by the API server. Pure.

mod keywords;
mod known_fields;
mod lookups;
mod messages;
mod names;
mod pointers;
mod record;
mod tables;
mod violations;

use self::known_fields::KnownFields;
use self::violations::Violations;
use super::spec::StreamModelSpec;
use crate::stage::Violation;

/// Checks all rules of a model.
///
/// # Errors
/// All violations: first those of the names, then those of the record, the lookups, the vault and the messages.
pub fn check(model: &StreamModelSpec) -> Result<(), Vec<Violation>> {
    let fields = model.fields();
    let mut violations = Violations(Vec::new());
    names::check(model, &fields, &mut violations);
    let fields = KnownFields::new(&fields);
    record::check(&model.record, &fields, &mut violations);
    lookups::check(model, &fields, &mut violations);
    tables::check(model, &fields, &mut violations);
    messages::check(model, &fields, &mut violations);
    if violations.0.is_empty() {
        Ok(())
    } else {
        Err(violations.0)
    }
}
