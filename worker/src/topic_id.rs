#![expect(unsafe_code, reason = "rdkafka does not wrap librdkafka's DescribeTopics")]
#![expect(
    clippy::disallowed_methods,
    reason = "edge: asks Kafka for the ID of a topic, until a deadline"
)]
//! Topic IDs: the identity of a log. A topic that is deleted and created again has the same name and another ID. The same
//! request reports the operations that a login may perform on the topic.
//!
//! All unsafe code of the worker is in this file. `Owned` owns each librdkafka object; a result is copied before its
//! event is destroyed, and no pointer leaves the file.

use std::ffi::CString;
use std::ptr::{self, NonNull};
use std::time::{Duration, Instant};

use rdkafka::bindings as sys;
use rdkafka::client::{Client, ClientContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::MetadataPartition;
use uuid::Uuid;

/// Operation that a login may perform on a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopicOperation {
    /// Fetch records.
    Read,
    /// Produce records.
    Write,
}

/// Fetches the ID of a topic from the leader of one of its partitions, never from a cache. The nil UUID means that the
/// brokers have no topic IDs (Kafka before 2.8). Blocks until the broker answers, at most for `timeout`.
///
/// A leader knows the ID before it serves records of the log. librdkafka's default, the controller, may be unavailable
/// while the leaders are not.
///
/// # Errors
/// If the topic does not exist or may not be described, or no broker answers in time.
pub fn fetch_topic_id<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    timeout: Duration,
) -> Result<Uuid, KafkaError> {
    fetch(client, topic, timeout, |description| {
        // SAFETY: the description is live, and its ID lives as long.
        unsafe {
            let id = sys::rd_kafka_TopicDescription_topic_id(description);
            Uuid::from_u64_pair(
                sys::rd_kafka_Uuid_most_significant_bits(id).cast_unsigned(),
                sys::rd_kafka_Uuid_least_significant_bits(id).cast_unsigned(),
            )
        }
    })
}

/// Fetches the operations that the login of the client may perform on a topic; `None` if the broker does not report
/// them. Blocks until the broker answers, at most for `timeout`.
///
/// # Errors
/// As [`fetch_topic_id`].
pub fn fetch_operations<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    timeout: Duration,
) -> Result<Option<Vec<TopicOperation>>, KafkaError> {
    use sys::rd_kafka_AclOperation_t::{RD_KAFKA_ACL_OPERATION_READ, RD_KAFKA_ACL_OPERATION_WRITE};
    fetch(client, topic, timeout, |description| {
        let mut count = 0;
        // SAFETY: the description is live, and its operations live as long; the array has `count` elements.
        let operations = unsafe {
            let operations =
                sys::rd_kafka_TopicDescription_authorized_operations(description, &raw mut count);
            if operations.is_null() || count == 0 {
                return None;
            }
            std::slice::from_raw_parts(operations, count)
        };
        let known = operations.iter().filter_map(|operation| match *operation {
            RD_KAFKA_ACL_OPERATION_READ => Some(TopicOperation::Read),
            RD_KAFKA_ACL_OPERATION_WRITE => Some(TopicOperation::Write),
            _ => None,
        });
        Some(known.collect())
    })
}

/// Fetches the description of a topic, and returns what `read` copies from it.
fn fetch<C: ClientContext, T>(
    client: &Client<C>,
    topic: &str,
    timeout: Duration,
    read: impl FnOnce(*const sys::rd_kafka_TopicDescription_t) -> T,
) -> Result<T, KafkaError> {
    let deadline = Instant::now() + timeout;
    let broker = find_leader(client, topic, timeout)?;
    let topic = CString::new(topic).map_err(|_| error(RDKafkaErrorCode::InvalidTopic))?;
    let event = describe_topic(client, &topic, broker, deadline)?;
    // SAFETY: the event is live, and has this type, because its queue serves this request only. Descriptions and errors
    // live as long as the event; the array has `count` elements.
    let description = unsafe {
        check_code(sys::rd_kafka_event_error(event.as_ptr()))?;
        let result = sys::rd_kafka_event_DescribeTopics_result(event.as_ptr());
        let mut count = 0;
        let descriptions = sys::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        if descriptions.is_null() || count == 0 {
            return Err(error(RDKafkaErrorCode::UnknownTopicOrPartition));
        }
        let description = *descriptions;
        let failure = sys::rd_kafka_TopicDescription_error(description);
        if !failure.is_null() {
            check_code(sys::rd_kafka_error_code(failure))?;
        }
        description
    };
    Ok(read(description))
}

/// Broker id of the leader of one partition.
fn find_leader<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    timeout: Duration,
) -> Result<i32, KafkaError> {
    let metadata = client.fetch_metadata(Some(topic), timeout)?;
    let topic = metadata.topics().first();
    let topic = topic.ok_or_else(|| error(RDKafkaErrorCode::UnknownTopicOrPartition))?;
    if let Some(code) = topic.error() {
        check_code(code)?;
    }
    let mut leaders = topic.partitions().iter().map(MetadataPartition::leader);
    let leader = leaders.find(|&leader| leader >= 0);
    leader.ok_or_else(|| error(RDKafkaErrorCode::LeaderNotAvailable))
}

/// Sends the request to a broker, and waits for its event.
fn describe_topic<C: ClientContext>(
    client: &Client<C>,
    topic: &CString,
    broker: i32,
    deadline: Instant,
) -> Result<Owned<sys::rd_kafka_event_t>, KafkaError> {
    let op = sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
    let mut names = [topic.as_ptr()];
    // SAFETY: the client outlives the queue and the options. The collection copies the names.
    let (queue, options, topics) = unsafe {
        (
            Owned::new(
                sys::rd_kafka_queue_new(client.native_ptr()),
                sys::rd_kafka_queue_destroy,
            ),
            Owned::new(
                sys::rd_kafka_AdminOptions_new(client.native_ptr(), op),
                sys::rd_kafka_AdminOptions_destroy,
            ),
            Owned::new(
                sys::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len()),
                sys::rd_kafka_TopicCollection_destroy,
            ),
        )
    };
    let (Some(queue), Some(options), Some(topics)) = (queue, options, topics) else {
        return Err(error(RDKafkaErrorCode::Fail));
    };
    // SAFETY: all pointers refer to live objects; the buffers for error texts may be null. The request copies the
    // options and the collection, and has its own reference to the queue. The caller owns the event.
    let event = unsafe {
        let options = options.as_ptr();
        let remaining = milliseconds(deadline.saturating_duration_since(Instant::now()));
        sys::rd_kafka_AdminOptions_set_request_timeout(options, remaining, ptr::null_mut(), 0);
        sys::rd_kafka_AdminOptions_set_broker(options, broker, ptr::null_mut(), 0);
        let failure = sys::rd_kafka_AdminOptions_set_include_authorized_operations(options, 1);
        // The caller owns a returned error, and destroying null is allowed.
        sys::rd_kafka_error_destroy(failure);
        sys::rd_kafka_DescribeTopics(client.native_ptr(), topics.as_ptr(), options, queue.as_ptr());
        let event = sys::rd_kafka_queue_poll(queue.as_ptr(), remaining);
        Owned::new(event, sys::rd_kafka_event_destroy)
    };
    event.ok_or_else(|| error(RDKafkaErrorCode::OperationTimedOut))
}

/// librdkafka object that is destroyed on drop.
struct Owned<T> {
    object: NonNull<T>,
    destroy: unsafe extern "C" fn(*mut T),
}

impl<T> Owned<T> {
    /// # Safety
    /// `object` is null or owned by the caller, and `destroy` is its destructor.
    unsafe fn new(object: *mut T, destroy: unsafe extern "C" fn(*mut T)) -> Option<Self> {
        NonNull::new(object).map(|object| Self { object, destroy })
    }

    fn as_ptr(&self) -> *mut T {
        self.object.as_ptr()
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: guaranteed by the caller of `new`.
        unsafe { (self.destroy)(self.object.as_ptr()) }
    }
}

fn check_code(code: sys::rd_kafka_resp_err_t) -> Result<(), KafkaError> {
    match code {
        sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(()),
        code => Err(error(code.into())),
    }
}

fn error(code: RDKafkaErrorCode) -> KafkaError {
    KafkaError::MetadataFetch(code)
}

fn milliseconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX)
}

#[cfg(test)]
#[expect(clippy::disallowed_types, reason = "asks a mock cluster")]
mod tests {
    use rdkafka::ClientConfig;
    use rdkafka::consumer::{BaseConsumer, Consumer as _};
    use rdkafka::mocking::MockCluster;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(10);

    #[test]
    fn each_topic_has_its_id_and_an_unknown_topic_is_an_error() {
        let kafka = MockCluster::new(1).expect("a mock cluster");
        for topic in ["orders", "facts"] {
            kafka.create_topic(topic, 1, 1).expect("a topic");
        }
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", kafka.bootstrap_servers())
            .create()
            .expect("a client");
        let id = |topic| fetch_topic_id(consumer.client(), topic, TIMEOUT);
        let (orders, facts) = (id("orders").expect("an ID"), id("facts").expect("an ID"));
        assert!(!orders.is_nil() && !facts.is_nil());
        assert_ne!(orders, facts);
        assert_eq!(id("orders").expect("an ID"), orders);
        assert!(id("a\0b").is_err());
    }
}
