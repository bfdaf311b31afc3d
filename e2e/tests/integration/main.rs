//! Integration tests on real Kafka, PostgreSQL and Redis, in one binary: `e2e/with-services cargo test --test integration`.
//!
//! The tests run concurrently in one process. Each has its own database, topics, consumer groups and Redis database, by
//! [`e2e::pipeline::Pipeline::create`]. A test that stops or halts a service starts its own services, and must never do
//! so to those of the environment.

mod bad_input;
mod bad_middle;
mod check;
mod closed_pipe;
mod commands;
mod compose;
mod contracts;
mod crash;
mod dead_letter_commands;
mod dead_letter_copies;
mod dead_letters;
mod empty_tails;
mod entry_versions;
mod failover;
mod faults;
mod golden;
mod handover;
mod hangs;
mod history;
mod isolation;
mod key_migration;
mod kill;
mod lag;
mod large_records;
mod login_groups;
mod memory;
mod offset_out_of_range;
mod orders;
mod outputs;
mod passwords;
mod pending;
mod permutation;
mod pooler;
mod privileges;
mod reference_data;
mod replay;
mod republish;
mod reset_offsets;
mod restore;
mod roles;
mod security;
mod services;
mod start_offsets;
mod supplied_values;
mod takeover;
mod timestamps;
mod topic_recreated;
mod unusual_input;
mod vault;
mod verify;
mod versions;

use tokio::sync::{Mutex, MutexGuard};

/// Waits until no other test of this kind runs. For tests that use every core for minutes, and for tests with a short
/// deadline: at most one of them runs at a time, with ordinary tests beside it.
async fn exclusive() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::const_new(());
    LOCK.lock().await
}
