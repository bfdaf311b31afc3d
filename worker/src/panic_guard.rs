//! Catches a panic while a record is processed, and turns it into a rejection.
//!
//! A record that makes the worker panic would do so at every start, and its partition would never continue. As a dead
//! letter it can be inspected, and redriven with a corrected worker. Pure.

use std::any::Any;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;

use crate::rejection::{Code, Rejection};

/// Runs a step for one record; a panic rejects the record.
///
/// # Errors
/// Those of the step, or `WorkerPanic`.
pub fn reject_panic<T>(step: impl FnOnce() -> Result<T, Rejection>) -> Result<T, Rejection> {
    catch_unwind(AssertUnwindSafe(step)).unwrap_or_else(|panic| Err(describe_panic(&*panic)))
}

/// Runs a step that may await. The caller decides which record caused a panic.
///
/// # Errors
/// `WorkerPanic` if the step panicked; it is dropped then.
pub async fn catch_panic<F: Future>(step: F) -> Result<F::Output, Rejection> {
    let mut step = pin!(step);
    poll_fn(|context| {
        let polled = catch_unwind(AssertUnwindSafe(|| step.as_mut().poll(context)));
        match polled {
            Ok(polled) => polled.map(Ok),
            Err(panic) => Poll::Ready(Err(describe_panic(&*panic))),
        }
    })
    .await
}

fn describe_panic(panic: &(dyn Any + Send)) -> Rejection {
    let message = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    let message = message.unwrap_or("no message");
    Rejection::new(
        Code::WorkerPanic,
        format!("the worker panicked: {message}; report this as a bug"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overflow(number: i32) -> i32 {
        number.checked_add(1).expect("attempt to add with overflow")
    }

    #[test]
    fn a_panic_of_a_step_rejects_its_record() {
        assert_eq!(reject_panic(|| Ok(overflow(1))), Ok(2));
        let rejection = reject_panic(|| Ok(overflow(i32::MAX))).expect_err("a panic");
        assert_eq!(rejection.code, Code::WorkerPanic);
        assert!(
            rejection.detail.contains("attempt to add with overflow"),
            "{rejection}"
        );
    }

    #[tokio::test]
    async fn a_panic_after_an_await_is_caught_too() {
        let step = async |number| {
            tokio::task::yield_now().await;
            overflow(number)
        };
        assert_eq!(catch_panic(step(1)).await, Ok(2));
        let rejection = catch_panic(step(i32::MAX)).await.expect_err("a panic");
        assert_eq!(rejection.code, Code::WorkerPanic);
    }
}
