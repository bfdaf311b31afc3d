#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "edge: asks Kafka, until a deadline"
)]
//! Asks Kafka for committed offsets, ends and starts: one client per cluster and credentials, for every group.
//!
//! Every call blocks for at most about the time that it is given, and is made where blocking is fine. What a broker
//! did not answer is [`Unknown`]; a group or a topic that fails leaves the others as they are. [`crate::lag`] makes a
//! reading of the answers. Nothing of Kafka is written but by [`Cluster::commit_start`].

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crds::stage::StartFrom;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaResult, RDKafkaErrorCode};
use rdkafka::metadata::MetadataTopic;
use rdkafka::{Offset, TopicPartitionList};

use crate::lag::{Offsets, Question, Reading, Unknown};
use admin::PartitionOffset;
use answers::{Committed, Partitions, Topics, by_leader, by_topic, complete, leaders, partitions};
use trouble::Watch;

mod admin;
mod answers;
mod tails;
mod trouble;

/// How the operator is named to Kafka.
const CLIENT: &str = "streamstage-operator";
/// What Kafka gives for a timestamp after the last record.
const NO_SUCH_RECORD: i64 = -1;

/// A Kafka cluster, seen with one set of credentials.
pub struct Cluster {
    /// The client, until it is replaced by [`Cluster::renew`].
    consumer: Mutex<Arc<Client>>,
    /// Its settings, for the next one, and for the short-lived readers of [`Self::empty_tails`].
    config: ClientConfig,
    servers: String,
}

impl Cluster {
    /// Sets up a client, which connects when it is first asked. `security` is what
    /// [`crds::kafka_security::settings`] gives.
    ///
    /// # Errors
    /// When librdkafka refuses a setting, such as a certificate that is none.
    pub fn connect(bootstrap_servers: &[String], security: &[(&str, String)]) -> Result<Self, Unknown> {
        let servers = bootstrap_servers.join(",");
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &servers)
            .set("client.id", CLIENT)
            // Nobody joins this group, but without one librdkafka (2.12.1) dereferences null when a group that is asked
            // about has moved to another coordinator: https://github.com/confluentinc/librdkafka/issues/5040.
            .set("group.id", CLIENT)
            // Ends are last stable offsets, so an open transaction leaves no lag that nobody can read.
            .set("isolation.level", "read_committed")
            .set("enable.auto.commit", "false")
            .set("topic.metadata.refresh.interval.ms", "30000")
            .set("socket.timeout.ms", "10000")
            .set("socket.connection.setup.timeout.ms", "5000")
            .set("reconnect.backoff.max.ms", "2000")
            .set_log_level(RDKafkaLogLevel::Emerg);
        for (name, value) in security {
            config.set(*name, value);
        }
        let consumer = Client::create(&config).map_err(trouble::refused_setting)?;
        Ok(Self {
            consumer: Mutex::new(Arc::new(consumer)),
            config,
            servers,
        })
    }

    /// Answers the questions, in their order.
    ///
    /// Committed offsets come before the ends, and the ends before the starts, so that what moves meanwhile never
    /// makes a commit beyond an end. Each step has half of the time that is left, so that one broker that does not
    /// answer cannot spoil what comes after.
    #[must_use]
    pub fn read(&self, questions: &[Question], within: Duration) -> Vec<Result<Reading, Unknown>> {
        let used = self.consumer();
        let (answers, is_lost) = self.asked(questions, Instant::now() + within);
        if is_lost {
            self.renew(&used);
        }
        answers
    }

    /// The answers, and whether the client should be replaced.
    fn asked(&self, questions: &[Question], until: Instant) -> (Vec<Result<Reading, Unknown>>, bool) {
        let topics = questions.iter().map(|question| question.topic.as_str());
        let topics = match self.topics(topics.collect(), half_way(until)) {
            Ok(topics) => topics,
            Err(unknown) => {
                // A client that has lost all its brokers may not find them again when they are back.
                return (vec![Err(unknown); questions.len()], true);
            }
        };
        let (committed, is_lost) = self.committed(questions, &topics, half_way(until));
        let existing = topics
            .iter()
            .filter_map(|(topic, leaders)| Some((*topic, leaders.as_ref().ok()?)));
        let all = by_leader(
            &topics,
            existing.flat_map(|(topic, leaders)| partitions(topic, leaders)),
        );
        let ends = by_topic(self.list(&all, Offset::End, half_way(until)));
        let needed = by_leader(&topics, answers::needed_starts(&committed, &ends));
        let starts = by_topic(self.list(&needed, Offset::Beginning, until));
        let answer = |question| answers::answer(question, &topics, &committed, &ends, &starts);
        (questions.iter().map(answer).collect(), is_lost)
    }

    /// Those of the groups whose members are just changing: nothing should be scaled while they do.
    ///
    /// # Errors
    /// When a broker does not answer: a group that it coordinates could be one of them.
    pub fn rebalancing(&self, groups: &[&str], within: Duration) -> Result<BTreeSet<String>, Unknown> {
        let until = Instant::now() + within;
        match admin::unsettled_groups(self.consumer().client(), until) {
            Ok(unsettled) => Ok(unsettled
                .into_iter()
                .filter(|group| groups.contains(&group.as_str()))
                .collect()),
            Err(RDKafkaErrorCode::OperationTimedOut | RDKafkaErrorCode::BrokerTransportFailure) => {
                Err(self.unreachable())
            }
            Err(code) => Err(trouble::of_group("*", "Describe", code)),
        }
    }

    /// Commits where a group begins that has no members.
    ///
    /// # Errors
    /// When Kafka refuses, or does not answer; then nothing or a part may have been committed.
    pub fn commit_start(
        &self,
        question: &Question,
        offsets: &Offsets,
        within: Duration,
    ) -> Result<(), Unknown> {
        let until = Instant::now() + within;
        let Question { group, topic } = question;
        let fails = |code| trouble::of_group(group, "Read", code);
        let mut list = TopicPartitionList::with_capacity(offsets.len());
        for (partition, offset) in offsets {
            let offset = Offset::Offset(offset.cast_signed());
            let added = list.add_partition_offset(topic, partition.cast_signed(), offset);
            added.map_err(|_| fails(RDKafkaErrorCode::InvalidArgument))?;
        }
        let name = CString::new(group.as_str()).map_err(|_| fails(RDKafkaErrorCode::InvalidArgument))?;
        let altered =
            admin::alter(self.consumer().client(), &name, &list, until).map_err(|code| match code {
                RDKafkaErrorCode::OperationTimedOut | RDKafkaErrorCode::BrokerTransportFailure => {
                    self.unreachable()
                }
                code => fails(code),
            })?;
        let answered = altered
            .into_iter()
            .map(|partition| partition.offset.map_err(fails));
        if answered.collect::<Result<Vec<_>, _>>()?.len() == offsets.len() {
            Ok(())
        } else {
            Err(fails(RDKafkaErrorCode::BadMessage))
        }
    }

    /// Where a group on this topic begins, of every partition. A timestamp after the last record is the end.
    ///
    /// # Errors
    /// When the topic or one of its partitions is not known.
    pub fn offsets_at(&self, topic: &str, start: StartFrom, within: Duration) -> Result<Offsets, Unknown> {
        let until = Instant::now() + within;
        let topics = self.topics([topic].into(), half_way(until))?;
        let leaders = topics[topic].as_ref().map_err(Unknown::clone)?;
        let all = by_leader(&topics, partitions(topic, leaders));
        let listed = |at, until| self.list(&all, at, until);
        match start {
            StartFrom::Earliest => complete(topic, leaders, listed(Offset::Beginning, until)),
            StartFrom::Latest => complete(topic, leaders, listed(Offset::End, until)),
            StartFrom::Timestamp(instant) => {
                // The ends first: a record that arrives meanwhile is not passed over.
                let ends = complete(topic, leaders, listed(Offset::End, half_way(until)))?;
                let at = Offset::Offset(instant.as_millisecond().max(0));
                let found = listed(at, until).into_iter().map(|mut found| {
                    if found.offset == Ok(NO_SUCH_RECORD) {
                        let end = u32::try_from(found.partition)
                            .ok()
                            .and_then(|number| ends.get(&number));
                        found.offset = Ok(end.map_or(NO_SUCH_RECORD, |end| end.cast_signed()));
                    }
                    found
                });
                complete(topic, leaders, found.collect())
            }
        }
    }

    /// Those of the partitions, given as `(partition, committed, end)`, in which there is no record from `committed`
    /// to before `end`: markers of transactions and gaps of compaction, which no consumer can ever read.
    ///
    /// It opens a client of its own and reads records, so it is for tails that have stood still for a while.
    ///
    /// # Errors
    /// When a partition cannot be read, or is not read to its end in time.
    pub fn empty_tails(
        &self,
        topic: &str,
        tails: &[(u32, u64, u64)],
        within: Duration,
    ) -> Result<BTreeSet<u32>, Unknown> {
        tails::empty(&self.config, &self.servers, topic, tails, Instant::now() + within)
    }

    /// Who leads the partitions of the topics: one request for all, and one for each that is not among them.
    fn topics<'q>(&self, wanted: BTreeSet<&'q str>, until: Instant) -> Result<Topics<'q>, Unknown> {
        let metadata = self
            .consumer()
            .fetch_metadata(None, left(until))
            .map_err(|_| self.unreachable())?;
        self.consumer().context().forget();
        let known: BTreeMap<&str, &MetadataTopic> = metadata
            .topics()
            .iter()
            .map(|topic| (topic.name(), topic))
            .collect();
        let led = wanted.into_iter().map(|topic| {
            let leaders = match known.get(topic) {
                Some(found) => leaders(found),
                None => self.missing(topic, until),
            };
            (topic, leaders)
        });
        Ok(led.collect())
    }

    /// A topic that is not in the list of all: only when asked for by name does Kafka say that it is forbidden.
    fn missing(&self, topic: &str, until: Instant) -> Result<Vec<i32>, Unknown> {
        let asked = self.consumer().fetch_metadata(Some(topic), left(until));
        let metadata = asked.map_err(|error| {
            let code = error.rdkafka_error_code();
            trouble::of_topic(topic, code.unwrap_or(RDKafkaErrorCode::InvalidTopic))
        })?;
        let unknown = || trouble::of_topic(topic, RDKafkaErrorCode::UnknownTopic);
        metadata.topics().first().map_or_else(|| Err(unknown()), leaders)
    }

    /// What the groups have committed, one request for each group; and whether one has lost its coordinator.
    fn committed(&self, questions: &[Question], topics: &Topics<'_>, until: Instant) -> (Committed, bool) {
        let mut committed: Committed = questions
            .iter()
            .map(|question| (question.clone(), Ok(BTreeMap::new())))
            .collect();
        let mut lists = BTreeMap::<&str, BTreeSet<&str>>::new();
        for Question { group, topic } in questions {
            lists.entry(group).or_default().insert(topic);
        }
        let requests = lists.into_iter().filter_map(|(group, wanted)| {
            let known = wanted
                .into_iter()
                .filter_map(|topic| Some((topic, topics[topic].as_ref().ok()?)));
            let mut list = TopicPartitionList::new();
            for (topic, partition) in known.flat_map(|(topic, leaders)| partitions(topic, leaders)) {
                list.add_partition(topic, partition.cast_signed());
            }
            let name = CString::new(group).ok()?;
            (list.count() > 0).then_some((group, (name, list)))
        });
        let (groups, requests): (Vec<&str>, Vec<_>) = requests.unzip();
        let answers = admin::committed(self.consumer().client(), &requests, until);
        let is_lost = answers.iter().any(admin::is_lost);
        for (group, answer) in groups.into_iter().zip(answers) {
            answers::add_committed(&mut committed, group, answer);
        }
        (committed, is_lost)
    }

    /// Offsets of partitions, by leader: one request for each.
    fn list(&self, led: &[Partitions<'_>], at: Offset, until: Instant) -> Vec<PartitionOffset> {
        let lists = led.iter().filter_map(|partitions| {
            let mut list = TopicPartitionList::with_capacity(partitions.len());
            for (topic, partition) in partitions {
                list.add_partition(topic, partition.cast_signed());
            }
            list.set_all_offsets(at).ok().map(|()| list)
        });
        admin::list_offsets(self.consumer().client(), &lists.collect::<Vec<_>>(), until)
    }

    /// No answer, by what the client has said of its connections until now.
    fn unreachable(&self) -> Unknown {
        // Errors are handed to the context by polling; there is nothing else to poll for.
        let consumer = self.consumer();
        while consumer.poll(Duration::ZERO).is_some() {}
        trouble::unreachable(&self.servers, consumer.context().last())
    }

    fn consumer(&self) -> Arc<Client> {
        self.consumer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Leaves a client that no broker answers, or that has lost a coordinator, and with it the requests: see
    /// [`admin::is_lost`]. Of readings that fail together one has it replaced.
    fn renew(&self, used: &Arc<Client>) {
        let mut consumer = self.consumer.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&consumer, used) {
            return;
        }
        // Without a new one the old one goes on.
        if let Ok(fresh) = Client::create(&self.config) {
            *consumer = Arc::new(fresh);
        }
    }
}

/// A client of librdkafka. Closing it may take as long as what it waits for, so whoever drops it last does not wait.
struct Client(Option<BaseConsumer<Watch>>);

impl Client {
    fn create(config: &ClientConfig) -> KafkaResult<Self> {
        let consumer = config.create_with_context(Watch::default())?;
        Ok(Self(Some(consumer)))
    }
}

impl Deref for Client {
    type Target = BaseConsumer<Watch>;

    fn deref(&self) -> &Self::Target {
        match &self.0 {
            Some(consumer) => consumer,
            None => unreachable!("it is taken by drop alone"),
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let consumer = self.0.take();
        std::thread::spawn(move || drop(consumer));
    }
}

fn half_way(until: Instant) -> Instant {
    let now = Instant::now();
    now + until.saturating_duration_since(now) / 2
}

fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now())
}
