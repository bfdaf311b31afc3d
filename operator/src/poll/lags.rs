//! What is known of every stage's lag, and when it is read next.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use crds::StreamStage;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::{Answer, Place};
use crate::connection::Connection;
use crate::lag::track::{Surroundings, Track};
use crate::lag::view::View;
use crate::lag::{Question, Reading};
use crate::outline::Outline;
use crate::policy;
use crate::status::Workers;

/// The longest pause between two readings that fail, unless the interval is longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// The lags of all stages.
#[derive(Debug, Default)]
pub struct Lags(Mutex<Entries>);

/// Boxed, as a map has room for twice as many values as it holds.
type Entries = HashMap<Arc<Place>, Box<Entry>>;

/// What is known of one stage.
#[derive(Clone, Debug)]
struct Entry {
    connection: Arc<Connection>,
    poll: Arc<Poll>,
    workers: Workers,
    interval: Duration,
    track: Arc<Track>,
    is_rebalancing: bool,
    /// Tails that were looked into: partition, committed, end, and whether there is nothing to read between them.
    tails: BTreeMap<u32, (u64, u64, bool)>,
    /// The look into its tails that goes on, if one does.
    look: Weak<()>,
    /// When it is read next; none while it is being read.
    due: Option<Instant>,
}

/// One stage that is to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Poll {
    /// The stage.
    pub place: Arc<Place>,
    /// Its unique id: a stage that was deleted and made anew is another one.
    pub uid: String,
    /// Its group and its topic.
    pub question: Question,
}

/// What is known of one stage at a moment.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The stage.
    pub poll: Arc<Poll>,
    /// Its lag.
    pub view: View,
    /// Its workers.
    pub workers: Workers,
}

impl Lags {
    /// Every stage that is read.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        let now = Timestamp::now();
        let entries = self.lock();
        let seen = entries.values().map(|entry| Seen {
            poll: Arc::clone(&entry.poll),
            view: entry.view(now),
            workers: entry.workers,
        });
        seen.collect()
    }

    /// Has `stage` read from now on, over `connection`, and returns what is known.
    pub(crate) fn view(&self, stage: &StreamStage, connection: Option<&Connection>) -> View {
        let now = Timestamp::now();
        let poll = poll_of(stage);
        let Some(connection) = connection else {
            self.forget(&poll.place);
            return View {
                now,
                ..View::default()
            };
        };
        let interval = stage.spec.scaling.poll_interval.as_std();
        let mut entries = self.lock();
        let connection = shared(&entries, &poll.place, connection);
        let entry = entries
            .entry(Arc::clone(&poll.place))
            .or_insert_with(|| Box::new(Entry::new(stage, &connection)));
        if *entry.poll != poll {
            **entry = Entry::new(stage, &connection);
        }
        if entry.connection != connection || entry.interval != interval {
            entry.connection = connection;
            entry.interval = interval;
            // New credentials are tried at once.
            entry.due = entry.due.map(|_| Instant::now());
        }
        entry.view(now)
    }

    /// What is known of a stage.
    pub(super) fn known(&self, poll: &Poll, now: Timestamp) -> View {
        let entries = self.lock();
        let entry = entries.get(&poll.place).filter(|entry| *entry.poll == *poll);
        entry.map_or_else(
            || View {
                now,
                ..View::default()
            },
            |entry| entry.view(now),
        )
    }

    /// The stages whose time has come, by the way to their cluster; those whose last reading failed go apart, so that
    /// nobody else waits for them.
    pub(super) fn take_due(&self, now: Instant) -> Vec<(Arc<Connection>, Vec<Arc<Poll>>)> {
        let mut rounds: BTreeMap<(Arc<Connection>, bool), Vec<Arc<Poll>>> = BTreeMap::new();
        for entry in self
            .lock()
            .values_mut()
            .filter(|entry| entry.due.is_some_and(|due| due <= now))
        {
            entry.due = None;
            let round = (Arc::clone(&entry.connection), entry.track.failures() > 0);
            rounds.entry(round).or_default().push(Arc::clone(&entry.poll));
        }
        let rounds = rounds.into_iter();
        rounds
            .map(|((connection, _), polls)| (connection, polls))
            .collect()
    }

    /// Takes the reading without tails that hold nothing to read, such as the marker of a transaction: their lag would
    /// never end. Returns the tails that have stood still and were not looked into yet, as `(partition, committed, end)`.
    pub(super) fn trim(&self, poll: &Poll, reading: &mut Reading) -> Vec<(u32, u64, u64)> {
        let mut entries = self.lock();
        let Some(entry) = of(&mut entries, poll) else {
            return Vec::new();
        };
        let mut still = Vec::new();
        for partition in reading
            .partitions
            .iter_mut()
            .filter(|partition| partition.lag() > 0)
        {
            let tail = (partition.position(), partition.end);
            let known = entry.tails.get(&partition.partition);
            match known.filter(|(committed, end, _)| (*committed, *end) == tail) {
                Some((.., true)) => partition.committed = Some(partition.end),
                None if entry.track.stood_at(partition) => still.push((partition.partition, tail.0, tail.1)),
                _ => {}
            }
        }
        still
    }

    /// The right to look into the stage's tails, until it is dropped; none while somebody does.
    pub(super) fn begin_look(&self, poll: &Poll) -> Option<Arc<()>> {
        let mut entries = self.lock();
        let entry = of(&mut entries, poll).filter(|entry| entry.look.strong_count() == 0)?;
        let look = Arc::new(());
        entry.look = Arc::downgrade(&look);
        Some(look)
    }

    /// Notes which of some tails are empty.
    pub(super) fn looked_into(&self, poll: &Poll, tails: &[(u32, u64, u64)], empty: &BTreeSet<u32>) {
        if let Some(entry) = of(&mut self.lock(), poll) {
            let looked = tails.iter().map(|(partition, committed, end)| {
                (*partition, (*committed, *end, empty.contains(partition)))
            });
            entry.tails.extend(looked);
        }
    }

    /// Notes what came of a reading over `connection`.
    pub(crate) fn note(
        &self,
        poll: &Poll,
        connection: &Connection,
        stage: &Outline,
        answer: Answer,
        now: Timestamp,
    ) {
        let mut entries = self.lock();
        let Some(entry) = of(&mut entries, poll) else {
            return;
        };
        if *entry.connection != *connection {
            // New credentials came meanwhile, and are tried at once: what the old ones met is no answer.
            entry.due = Some(Instant::now());
            return;
        }
        entry.workers = stage.shown.workers;
        let track = Arc::make_mut(&mut entry.track);
        let around = Surroundings {
            ready: entry.workers.ready,
            stuck_after: signed(stage.rules.scaling.stuck_after.as_std()),
        };
        match answer {
            Ok(reading) => track.read(&reading, now, around),
            Err(unknown) => track.failed(unknown),
        }
        let pause = match track.failures() {
            0 => entry.interval,
            failures => {
                policy::delay(failures, stage.name()).clamp(entry.interval, LONGEST_PAUSE.max(entry.interval))
            }
        };
        entry.due = Some(Instant::now() + pause);
    }

    /// Has stages read again whose reading broke off.
    pub(super) fn give_back(&self, polls: &[Arc<Poll>]) {
        let mut entries = self.lock();
        for poll in polls {
            if let Some(entry) = of(&mut entries, poll).filter(|entry| entry.due.is_none()) {
                entry.due = Some(Instant::now() + entry.interval);
            }
        }
    }

    pub(super) fn set_rebalancing(&self, poll: &Poll, is_rebalancing: bool) {
        if let Some(entry) = self.lock().get_mut(&poll.place) {
            entry.is_rebalancing = is_rebalancing;
        }
    }

    /// Whether any stage is read over this connection.
    pub(super) fn uses(&self, connection: &Connection) -> bool {
        self.lock().values().any(|entry| *entry.connection == *connection)
    }

    /// Reads a stage no more.
    pub(crate) fn forget(&self, place: &Place) {
        self.lock().remove(place);
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// A stage that is read for the first time, at once.
    fn new(stage: &StreamStage, connection: &Arc<Connection>) -> Self {
        let status = stage.status.clone().unwrap_or_default();
        Self {
            connection: Arc::clone(connection),
            poll: Arc::new(poll_of(stage)),
            workers: Workers::from(&status),
            interval: stage.spec.scaling.poll_interval.as_std(),
            track: Arc::new(Track::resume(&status)),
            is_rebalancing: false,
            tails: BTreeMap::new(),
            look: Weak::new(),
            due: Some(Instant::now()),
        }
    }

    fn view(&self, now: Timestamp) -> View {
        View {
            now,
            track: Some(Arc::clone(&self.track)),
            poll_interval: signed(self.interval),
            is_rebalancing: self.is_rebalancing,
        }
    }
}

/// What is known of a stage, unless it was deleted or made anew.
fn of<'e>(entries: &'e mut Entries, poll: &Poll) -> Option<&'e mut Entry> {
    let entry = entries.get_mut(&poll.place)?;
    (*entry.poll == *poll).then_some(entry)
}

/// The same connection as it is kept already, first of all for the stage itself: thousands of stages share a cluster.
fn shared(entries: &Entries, place: &Place, connection: &Connection) -> Arc<Connection> {
    let mut kept = entries.get(place).into_iter().chain(entries.values());
    let same = kept.find(|entry| *entry.connection == *connection);
    same.map_or_else(
        || Arc::new(connection.clone()),
        |entry| Arc::clone(&entry.connection),
    )
}

fn poll_of(stage: &StreamStage) -> Poll {
    Poll {
        place: Arc::new(Place::new(stage.name()).within(stage.namespace())),
        uid: stage.metadata.uid.clone().unwrap_or_default(),
        question: Question::from(stage),
    }
}

fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}

#[cfg(test)]
pub(crate) mod tests;
