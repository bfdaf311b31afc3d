//! JSON pointers: their form, and that no value is within another one.

use super::violations::Violations;
use crate::model::field::MAX_POINTER_LENGTH;

/// Pointers of the values of one object, each with its path in the document.
#[derive(Default)]
pub(super) struct Pointers(Vec<(String, String)>);

impl Pointers {
    /// Adds a pointer. `path` is that of the pointer in the document.
    pub(super) fn add(&mut self, pointer: &str, path: &str, violations: &mut Violations) {
        let is_escaped = pointer
            .split('~')
            .skip(1)
            .all(|rest| rest.starts_with(['0', '1']));
        violations.require(
            pointer.starts_with('/') && is_escaped && pointer.chars().count() <= MAX_POINTER_LENGTH,
            path,
            || {
                format!(
                    "`{pointer}` is not a JSON pointer: begin with `/`, write `~0` for `~` and `~1` for `/` within a key, at \
                     most {MAX_POINTER_LENGTH} characters"
                )
            },
        );
        let within = |outer: &str, inner: &str| {
            let rest = inner.strip_prefix(outer);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let conflict = self
            .0
            .iter()
            .find(|(other, _)| within(other, pointer) || within(pointer, other));
        if let Some((other, first)) = conflict {
            violations.add(
                path,
                format!(
                    "`{pointer}` and `{other}` at {first} are one value, or one within the other: change one"
                ),
            );
        }
        self.0.push((pointer.to_owned(), path.to_owned()));
    }
}
