//! Violations found so far.

use crate::stage::Violation;

/// All violations, in the order in which they are found.
pub(super) struct Violations(pub(super) Vec<Violation>);

impl Violations {
    pub(super) fn add(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.0.push(Violation {
            field: path.into(),
            message: message.into(),
        });
    }

    /// Adds a violation unless `condition` is true.
    pub(super) fn require(&mut self, condition: bool, path: &str, message: impl FnOnce() -> String) {
        if !condition {
            self.add(path, message());
        }
    }
}
