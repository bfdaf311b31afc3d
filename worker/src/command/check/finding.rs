//! Result of a check, and the line that reports it. Pure.

use std::fmt;

/// Result of one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    /// Effect on the exit code, and first word of the line.
    pub severity: Severity,
    /// Checked object, with its stage: `stg source orders on kafka:9092`.
    pub thing: String,
    /// Details if the object is as it should be; otherwise cause and remedy.
    pub message: String,
}

/// Effect of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Severity {
    /// The object is as `worker run` needs it.
    Ok,
    /// `worker run` works, with a risk or a loss of comfort.
    Warning,
    /// `worker run` will fail, wait, or dead-letter valid records.
    Failed,
}

impl Finding {
    pub(super) fn ok(thing: impl Into<String>, details: impl Into<String>) -> Self {
        Self::new(Severity::Ok, thing, details)
    }

    pub(super) fn warning(thing: impl Into<String>, cause_and_remedy: impl Into<String>) -> Self {
        Self::new(Severity::Warning, thing, cause_and_remedy)
    }

    pub(super) fn failed(thing: impl Into<String>, cause_and_remedy: impl Into<String>) -> Self {
        Self::new(Severity::Failed, thing, cause_and_remedy)
    }

    fn new(severity: Severity, thing: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            severity,
            thing: thing.into(),
            message: message.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Ok => "ok     ",
            Severity::Warning => "WARNING",
            Severity::Failed => "FAILED ",
        };
        write!(f, "{severity} {}: {}", self.thing, self.message)
    }
}
