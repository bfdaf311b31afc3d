//! What becomes of each kind of failure: the one table of the operator.
//!
//! Must never reach the cluster.
//!
//! | answer of the API server | policy |
//! | --- | --- |
//! | 403 | the condition `Stalled` with the missing verb; tried again with a growing delay |
//! | 400, 422 | the condition `Stalled` with the API server's words; tried again with a growing delay |
//! | 404 of the namespace, 409, 429, 5xx, timeouts, anything else | tried again with a fresh read and a growing delay; from the third time on the condition `Reconciling` says so |

use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::time::Duration;

use crds::status::Reason;

use crate::validate::Refusal;

/// The first delay after a failure.
const FIRST: Duration = Duration::from_millis(500);
/// Failures in a row that need not show in the status: most pass by themselves.
pub(crate) const PASSING: u32 = 2;
/// The longest delay.
const LONGEST: Duration = Duration::from_mins(1);

/// What a user should see of a failure; none of one that passes by itself.
#[must_use]
pub fn refusal(error: &kube::Error) -> Option<Refusal> {
    let kube::Error::Api(status) = error else {
        return None;
    };
    let (reason, advice) = match status.code {
        403 => (
            Reason::Forbidden,
            "give the operator's ClusterRole this verb, or see what in the namespace forbids it",
        ),
        400 | 422 => (Reason::Refused, "correct the field of the stage that leads to it"),
        _ => return None,
    };
    Some(Refusal {
        reason,
        message: format!("the API server answered: {}; {advice}", status.message),
    })
}

/// The delay before the next attempt: doubled for each failure in a row, and spread.
#[must_use]
pub fn delay(failures: u32, stage: &str) -> Duration {
    let doubled = FIRST.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1)));
    spread(doubled.min(LONGEST), (stage, failures))
}

/// A delay that is shorter by up to a quarter: stages that were looked at together do not come back together.
#[must_use]
pub fn spread(delay: Duration, by: impl Hash) -> Duration {
    let mut hasher = DefaultHasher::new();
    by.hash(&mut hasher);
    let share = u32::try_from(hasher.finish() % 256).unwrap_or(0);
    delay * (1024 - share) / 1024
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    fn answered(code: u16) -> kube::Error {
        kube::Error::Api(Box::new(
            Status::failure("cannot patch deployments", "Reason").with_code(code),
        ))
    }

    #[test]
    fn a_person_sees_what_a_person_must_mend() {
        for (code, reason) in [
            (403, Some(Reason::Forbidden)),
            (400, Some(Reason::Refused)),
            (422, Some(Reason::Refused)),
            (404, None),
            (409, None),
            (429, None),
            (500, None),
            (503, None),
        ] {
            let refusal = refusal(&answered(code));
            assert_eq!(refusal.as_ref().map(|refusal| refusal.reason), reason, "{code}");
            assert!(
                refusal.is_none_or(|refusal| refusal.message.contains("cannot patch deployments")),
                "{code}"
            );
        }
    }

    #[test]
    fn delays_grow_to_a_bound_and_differ_between_stages() {
        let delays: Vec<Duration> = (1..=12).map(|failures| delay(failures, "orders/stg")).collect();
        assert!(delays[0] <= FIRST && delays[0] >= FIRST * 3 / 4);
        assert!(delays[11] <= LONGEST && delays[11] >= LONGEST * 3 / 4);
        assert!(
            delays.windows(2).take(6).all(|pair| pair[0] < pair[1]),
            "{delays:?}"
        );
        assert_ne!(delay(5, "orders/stg"), delay(5, "orders/dds"));
        assert!(delay(u32::MAX, "orders/stg") <= LONGEST);
    }

    #[test]
    fn looks_are_spread_over_a_quarter() {
        let minute = Duration::from_mins(1);
        let looks: Vec<Duration> = (0..1000).map(|stage| spread(minute, stage)).collect();
        assert!(looks.iter().all(|look| (minute * 3 / 4..=minute).contains(look)));
        for quarter in 0..4 {
            let from = minute * (12 + quarter) / 16;
            let within = looks
                .iter()
                .filter(|look| (from..from + minute / 16).contains(*look));
            assert!((150..350).contains(&within.count()), "{quarter}");
        }
    }
}
