//! Error policy of a reconcile: classifies the errors of the API server as terminal or transient.
//!
//! Does no I/O: [`crate::controller`] applies the policy, with the delays of [`crate::backoff`].
//!
//! | response of the API server | policy |
//! | --- | --- |
//! | 403 | terminal: `Stalled` with the denied verb and resource; retried with backoff |
//! | 400, 422 | terminal: `Stalled` with the API server's message; retried with backoff |
//! | 404 of the namespace, 409, 429, 5xx, timeout, any other | transient: retried with backoff and a new read; reported as `Reconciling` with the reason `Retrying` from the third failure in a row |

use crds::status::Reason;

use crate::validate::Refusal;

/// Transient failures in a row that are not reported in the status: most errors are gone at the next attempt.
pub(crate) const UNREPORTED_FAILURES: u32 = 2;

/// Classifies an error of the API server: returns what to report of a terminal error, and `None` for a transient one.
#[must_use]
pub fn classify(error: &kube::Error) -> Option<Refusal> {
    let kube::Error::Api(status) = error else {
        return None;
    };
    let (reason, remedy) = match status.code {
        403 => (
            Reason::Forbidden,
            "grant this permission in the operator's role, or remove the quota or admission rule that denies it",
        ),
        400 | 422 => (
            Reason::ObjectRejected,
            "correct the field of the stage that this value comes from",
        ),
        _ => return None,
    };
    Some(Refusal {
        reason,
        message: format!("API server responded: {}; {remedy}", status.message),
    })
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    fn api_error(code: u16) -> kube::Error {
        kube::Error::Api(Box::new(
            Status::failure("cannot patch deployments", "Reason").with_code(code),
        ))
    }

    #[test]
    fn only_terminal_errors_are_reported() {
        for (code, reason) in [
            (403, Some(Reason::Forbidden)),
            (400, Some(Reason::ObjectRejected)),
            (422, Some(Reason::ObjectRejected)),
            (404, None),
            (409, None),
            (429, None),
            (500, None),
            (503, None),
        ] {
            let refusal = classify(&api_error(code));
            assert_eq!(refusal.as_ref().map(|refusal| refusal.reason), reason, "{code}");
            assert!(
                refusal.is_none_or(|refusal| refusal.message.contains("cannot patch deployments")),
                "{code}"
            );
        }
    }
}
