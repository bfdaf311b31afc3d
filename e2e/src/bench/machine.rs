//! CPU time of this program with all that it started, and of the rest of the machine.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "edge: reads /proc and the clock"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::Result;
use procfs::process::{Process, Stat, all_processes};
use procfs::{CurrentSI as _, KernelStats};

/// CPU time used until an instant.
#[derive(Clone, Copy, Debug)]
pub(super) struct Usage {
    at: Instant,
    busy: Duration,
    own: Duration,
}

impl Usage {
    /// Reads the CPU time that all programs have used, and that this one has used with its services and workers.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub(super) fn read() -> Result<Self> {
        let total = KernelStats::current()?.total;
        let busy = total.user
            + total.nice
            + total.system
            + total.irq.unwrap_or_default()
            + total.softirq.unwrap_or_default();
        Ok(Self {
            at: Instant::now(),
            busy: ticks(busy),
            own: tree_cpu_time(std::process::id())?,
        })
    }

    /// Share of the machine that other programs took since `start`.
    pub(super) fn foreign_share(&self, start: &Self) -> f64 {
        let busy = self.busy.saturating_sub(start.busy);
        let own = self.own.saturating_sub(start.own);
        #[expect(clippy::cast_precision_loss, reason = "a small number")]
        let cores = std::thread::available_parallelism().map_or(1.0, |cores| cores.get() as f64);
        let elapsed = (self.at - start.at).as_secs_f64() * cores;
        busy.saturating_sub(own).as_secs_f64() / elapsed.max(0.001)
    }
}

/// CPU time of a process, without its children.
///
/// # Errors
/// When the process has exited.
pub(super) fn cpu_time(pid: u32) -> Result<Duration> {
    Ok(own_cpu_time(&Process::new(pid.try_into()?)?.stat()?))
}

/// CPU time of a process and of all its descendants, including those that have ended.
///
/// # Errors
/// When `/proc` cannot be read.
pub(super) fn tree_cpu_time(root: u32) -> Result<Duration> {
    let root = i32::try_from(root)?;
    let stats: BTreeMap<i32, Stat> = all_processes()?
        .filter_map(|process| process.ok()?.stat().ok())
        .map(|stat| (stat.pid, stat))
        .collect();
    let mut tree = BTreeSet::from([root]);
    // A child can have a lower number than its parent.
    loop {
        let children: Vec<i32> = stats
            .values()
            .filter(|stat| tree.contains(&stat.ppid) && !tree.contains(&stat.pid))
            .map(|stat| stat.pid)
            .collect();
        if children.is_empty() {
            break;
        }
        tree.extend(children);
    }
    let ended = |stat: &Stat| ticks((stat.cutime + stat.cstime).unsigned_abs());
    Ok(tree
        .iter()
        .filter_map(|pid| stats.get(pid))
        .map(|stat| own_cpu_time(stat) + ended(stat))
        .sum())
}

/// Process id of the parent of a process.
///
/// # Errors
/// When the process has exited.
pub(super) fn parent(pid: u32) -> Result<u32> {
    Ok(Process::new(pid.try_into()?)?.stat()?.ppid.try_into()?)
}

fn own_cpu_time(stat: &Stat) -> Duration {
    ticks(stat.utime + stat.stime)
}

fn ticks(ticks: u64) -> Duration {
    Duration::from_millis(ticks * 1000 / procfs::ticks_per_second().max(1))
}
