#![expect(
    clippy::disallowed_methods,
    reason = "edge: waits for brokers until a deadline"
)]
#![expect(unsafe_code, reason = "rdkafka does not wrap these requests of librdkafka")]
//! Requests that librdkafka has and rdkafka does not wrap: offsets of other groups, offsets of many partitions, states.
//!
//! Everything that crosses the C interface is in this file. An object of librdkafka is owned by [`Owned`] and copied
//! into Rust's own types before it goes; no pointer leaves the file. Errors are given as they are, [`super`] reads them.

use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr::{self, NonNull};
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::bindings as sys;
use rdkafka::client::{Client, ClientContext};
use rdkafka::error::RDKafkaErrorCode;
use sys::rd_kafka_consumer_group_state_t as State;

/// A partition, and the offset that a broker gave, or its error. What it has not is `OFFSET_INVALID`.
pub(super) struct PartitionOffset {
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) offset: Result<i64, RDKafkaErrorCode>,
}

/// States in which a group's members do not change.
const SETTLED: [State; 3] = [
    State::RD_KAFKA_CONSUMER_GROUP_STATE_STABLE,
    State::RD_KAFKA_CONSUMER_GROUP_STATE_EMPTY,
    State::RD_KAFKA_CONSUMER_GROUP_STATE_DEAD,
];

/// What each request brought.
type Outcome<T> = Result<T, RDKafkaErrorCode>;

/// How long librdkafka waits for a group's coordinator: longer than any client is kept that [`is_lost`].
const COORDINATOR: Duration = Duration::from_hours(1);

/// The least time for a request of another kind, even when nobody waits for so long.
///
/// A request for offsets that times out while librdkafka (2.12.1) is still sending it is freed by two threads:
/// `rd_kafka_topic_partition_list_query_leaders_async` works on it after it has started the timer.
const SHORTEST: Duration = Duration::from_millis(500);

/// Requests on their way at a time: a broker that is slow to answer thousands of groups should not fill the memory.
const IN_FLIGHT: usize = 1000;

/// Whether a request for a coordinator was left unanswered, or went to one that the group has left. Its client must be
/// given up soon.
///
/// librdkafka keeps the coordinator that it found first, whatever that answers. And when such a request times out in librdkafka (2.12.1) before there is a connection to the coordinator, the process is
/// aborted as soon as there is one: `rd_kafka_admin_coord_request` releases an `eonce` that its own failure then uses.
/// So these requests never time out there: they are left to their client, and go with it.
pub(super) fn is_lost<T>(outcome: &Outcome<T>) -> bool {
    use RDKafkaErrorCode::{NotCoordinator, OperationTimedOut};
    matches!(outcome, Err(OperationTimedOut | NotCoordinator))
}

/// Committed offsets of each group on its partitions: one answer per group, many asked at once.
pub(super) fn committed<C: ClientContext>(
    client: &Client<C>,
    groups: &[(CString, TopicPartitionList)],
    until: Instant,
) -> Vec<Outcome<Vec<PartitionOffset>>> {
    let op = sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTCONSUMERGROUPOFFSETS;
    let answers = ask(client, op, groups.len(), until, |index, options, queue| {
        let (group, partitions) = &groups[index];
        // SAFETY: both arguments outlive the call, which copies them. What it returns is destroyed with the owner.
        let request = unsafe {
            Owned::new(
                sys::rd_kafka_ListConsumerGroupOffsets_new(group.as_ptr(), partitions.ptr()),
                sys::rd_kafka_ListConsumerGroupOffsets_destroy,
            )
        };
        let Some(request) = request else { return };
        let mut request = request.as_ptr();
        // SAFETY: all pointers are of live objects; the request is copied, and the array is of one element.
        unsafe {
            sys::rd_kafka_ListConsumerGroupOffsets(client.native_ptr(), &raw mut request, 1, options, queue);
        }
    });
    let answers = answers.into_iter().map(|event| {
        let event = event?;
        // SAFETY: the event is live, and of this type, since nothing else was sent with the queue.
        unsafe {
            let result = sys::rd_kafka_event_ListConsumerGroupOffsets_result(event.as_ptr());
            group_offsets(sys::rd_kafka_ListConsumerGroupOffsets_result_groups, result)
        }
    });
    answers.collect()
}

/// Sets the committed offsets of a group that has no members.
pub(super) fn alter<C: ClientContext>(
    client: &Client<C>,
    group: &CStr,
    offsets: &TopicPartitionList,
    until: Instant,
) -> Outcome<Vec<PartitionOffset>> {
    let op = sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_ALTERCONSUMERGROUPOFFSETS;
    let answers = ask(client, op, 1, until, |_, options, queue| {
        // SAFETY: both arguments outlive the call, which copies them. What it returns is destroyed with the owner.
        let request = unsafe {
            Owned::new(
                sys::rd_kafka_AlterConsumerGroupOffsets_new(group.as_ptr(), offsets.ptr()),
                sys::rd_kafka_AlterConsumerGroupOffsets_destroy,
            )
        };
        let Some(request) = request else { return };
        let mut request = request.as_ptr();
        // SAFETY: all pointers are of live objects; the request is copied, and the array is of one element.
        unsafe {
            sys::rd_kafka_AlterConsumerGroupOffsets(client.native_ptr(), &raw mut request, 1, options, queue);
        }
    });
    let event = only(answers)?;
    // SAFETY: the event is live, and of this type, since nothing else was sent with the queue.
    unsafe {
        let result = sys::rd_kafka_event_AlterConsumerGroupOffsets_result(event.as_ptr());
        group_offsets(sys::rd_kafka_AlterConsumerGroupOffsets_result_groups, result)
    }
}

/// Offsets of partitions: what each list asks for as `Offset::End` (the last stable offset), `Offset::Beginning` or a
/// timestamp. One request per list and leader, all at once; a partition that was not answered has an error.
pub(super) fn list_offsets<C: ClientContext>(
    client: &Client<C>,
    lists: &[TopicPartitionList],
    until: Instant,
) -> Vec<PartitionOffset> {
    let op = sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTOFFSETS;
    let answers = ask(client, op, lists.len(), until, |index, options, queue| {
        let committed = sys::rd_kafka_IsolationLevel_t::RD_KAFKA_ISOLATION_LEVEL_READ_COMMITTED;
        // SAFETY: the options are live, and are for this request; an error, which then cannot be, would be ours to
        // destroy, and destroying none is nothing. The list outlives the call, which copies it.
        unsafe {
            let refused = sys::rd_kafka_AdminOptions_set_isolation_level(options, committed);
            sys::rd_kafka_error_destroy(refused);
            sys::rd_kafka_ListOffsets(client.native_ptr(), lists[index].ptr(), options, queue);
        }
    });
    let answered = lists.iter().zip(answers).flat_map(|(list, event)| match event {
        // SAFETY: the event is live, and of this type, since nothing else was sent with the queue.
        Ok(event) => unsafe {
            let result = sys::rd_kafka_event_ListOffsets_result(event.as_ptr());
            let infos = array(sys::rd_kafka_ListOffsets_result_infos, result);
            let partitions = infos
                .iter()
                .map(|info| sys::rd_kafka_ListOffsetsResultInfo_topic_partition(*info));
            partitions
                .map(|partition| partition_offset(&*partition))
                .collect::<Vec<_>>()
        },
        Err(code) => {
            let failed = list.elements().into_iter().map(|element| PartitionOffset {
                topic: element.topic().to_owned(),
                partition: element.partition(),
                offset: Err(code),
            });
            failed.collect()
        }
    });
    answered.collect()
}

/// Every group of the cluster that is not stable, empty or dead: one request per broker.
///
/// librdkafka knows no name for the states of the newer protocol in which members change; they are among these.
pub(super) fn unsettled_groups<C: ClientContext>(client: &Client<C>, until: Instant) -> Outcome<Vec<String>> {
    let op = sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTCONSUMERGROUPS;
    let answers = ask(client, op, 1, until, |_, options, queue| {
        // SAFETY: all pointers are of live objects.
        unsafe { sys::rd_kafka_ListConsumerGroups(client.native_ptr(), options, queue) }
    });
    let event = only(answers)?;
    // SAFETY: the event is live, and of this type, since nothing else was sent with the queue; names and errors live
    // as long as the event.
    unsafe {
        let result = sys::rd_kafka_event_ListConsumerGroups_result(event.as_ptr());
        if let Some(error) = array(sys::rd_kafka_ListConsumerGroups_result_errors, result).first() {
            return Err(sys::rd_kafka_error_code(*error).into());
        }
        let groups = array(sys::rd_kafka_ListConsumerGroups_result_valid, result).iter();
        let unsettled = groups.filter(|group| {
            let state = sys::rd_kafka_ConsumerGroupListing_state(**group);
            !SETTLED.contains(&state)
        });
        Ok(unsettled
            .map(|group| text(sys::rd_kafka_ConsumerGroupListing_group_id(*group)))
            .collect())
    }
}

/// Sends `count` requests with one queue, at most [`IN_FLIGHT`] before they are answered, and collects their events
/// until the deadline; one that did not come is `OperationTimedOut`.
fn ask<C: ClientContext>(
    client: &Client<C>,
    op: sys::rd_kafka_admin_op_t,
    count: usize,
    until: Instant,
    send: impl Fn(usize, *mut sys::rd_kafka_AdminOptions_t, *mut sys::rd_kafka_queue_t),
) -> Vec<Outcome<Owned<sys::rd_kafka_event_t>>> {
    let within = until.saturating_duration_since(Instant::now());
    let mut answers: Vec<_> = std::iter::repeat_with(|| Err(RDKafkaErrorCode::OperationTimedOut))
        .take(count)
        .collect();
    // SAFETY: the client is live, and outlives what is made of it here.
    let (queue, options) = unsafe {
        let queue = sys::rd_kafka_queue_new(client.native_ptr());
        let options = sys::rd_kafka_AdminOptions_new(client.native_ptr(), op);
        (
            Owned::new(queue, sys::rd_kafka_queue_destroy),
            Owned::new(options, sys::rd_kafka_AdminOptions_destroy),
        )
    };
    let (Some(queue), Some(options)) = (queue, options) else {
        return answers;
    };
    let request = request_timeout(op, within);
    // SAFETY: the options are live; no text of an error is asked for.
    unsafe {
        sys::rd_kafka_AdminOptions_set_request_timeout(options.as_ptr(), request, ptr::null_mut(), 0);
    }
    let mut unsent = 0..count;
    for answered in 0..count {
        let free = answered + IN_FLIGHT - unsent.start;
        for index in unsent.by_ref().take(free) {
            // SAFETY: the options are live; an index is carried as an address and never followed. Sent requests hold
            // options and queue by copy and by count.
            unsafe {
                let opaque = ptr::without_provenance_mut::<c_void>(index);
                sys::rd_kafka_AdminOptions_set_opaque(options.as_ptr(), opaque);
            }
            send(index, options.as_ptr(), queue.as_ptr());
        }
        let left = milliseconds(until.saturating_duration_since(Instant::now()));
        // SAFETY: the queue is live; the event is ours.
        let event = unsafe {
            let event = sys::rd_kafka_queue_poll(queue.as_ptr(), left);
            Owned::new(event, sys::rd_kafka_event_destroy)
        };
        let Some(event) = event else { break };
        // SAFETY: the event is live; its opaque is the index that was set.
        let (index, code) = unsafe {
            let index = sys::rd_kafka_event_opaque(event.as_ptr()).addr();
            (index, sys::rd_kafka_event_error(event.as_ptr()))
        };
        answers[index] = succeeded(code).map(|()| event);
    }
    answers
}

/// How long librdkafka may take for a request, in milliseconds: it ends before the queue is left, so that the answers of
/// the other brokers are not lost with one.
fn request_timeout(op: sys::rd_kafka_admin_op_t, within: Duration) -> i32 {
    milliseconds(match op {
        sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTCONSUMERGROUPOFFSETS
        | sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_ALTERCONSUMERGROUPOFFSETS => COORDINATOR,
        _ => within.mul_f32(0.9).max(SHORTEST),
    })
}

/// An object of librdkafka that is destroyed with its owner.
struct Owned<T> {
    object: NonNull<T>,
    destroy: unsafe extern "C" fn(*mut T),
}

impl<T> Owned<T> {
    /// # Safety
    /// The object is null, or nobody else destroys it, and `destroy` is its destructor.
    unsafe fn new(object: *mut T, destroy: unsafe extern "C" fn(*mut T)) -> Option<Self> {
        NonNull::new(object).map(|object| Self { object, destroy })
    }

    fn as_ptr(&self) -> *mut T {
        self.object.as_ptr()
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: promised by the caller of `new`.
        unsafe { (self.destroy)(self.object.as_ptr()) }
    }
}

/// The offsets of the one group of a result.
///
/// # Safety
/// The result is live, and `groups` is the function for its type.
unsafe fn group_offsets<R>(
    groups: unsafe extern "C" fn(*const R, *mut usize) -> *mut *const sys::rd_kafka_group_result_t,
    result: *const R,
) -> Outcome<Vec<PartitionOffset>> {
    // SAFETY: promised by the caller; what is read lives as long as the result.
    unsafe {
        let group = *array(groups, result)
            .first()
            .ok_or(RDKafkaErrorCode::BadMessage)?;
        let error = sys::rd_kafka_group_result_error(group);
        if !error.is_null() {
            succeeded(sys::rd_kafka_error_code(error))?;
        }
        let list = sys::rd_kafka_group_result_partitions(group)
            .as_ref()
            .ok_or(RDKafkaErrorCode::BadMessage)?;
        let count = usize::try_from(list.cnt).unwrap_or(0);
        let partitions = if count == 0 {
            &[]
        } else {
            std::slice::from_raw_parts(list.elems, count)
        };
        Ok(partitions
            .iter()
            .map(|partition| partition_offset(partition))
            .collect())
    }
}

/// The array that a function of a result returns, with its length in the last argument.
///
/// # Safety
/// The result is live for `'r`, and `function` is for its type.
unsafe fn array<'r, R, T>(
    function: unsafe extern "C" fn(*const R, *mut usize) -> *mut *const T,
    result: *const R,
) -> &'r [*const T] {
    let mut count = 0;
    // SAFETY: promised by the caller; the array has as many elements as were counted.
    unsafe {
        let elements = if result.is_null() {
            ptr::null_mut()
        } else {
            function(result, &raw mut count)
        };
        if elements.is_null() || count == 0 {
            return &[];
        }
        std::slice::from_raw_parts(elements, count)
    }
}

/// # Safety
/// The partition's topic is a text.
unsafe fn partition_offset(partition: &sys::rd_kafka_topic_partition_t) -> PartitionOffset {
    PartitionOffset {
        // SAFETY: promised by the caller.
        topic: unsafe { text(partition.topic) },
        partition: partition.partition,
        offset: succeeded(partition.err).map(|()| partition.offset),
    }
}

/// # Safety
/// The text is live and ends with a null.
unsafe fn text(text: *const c_char) -> String {
    // SAFETY: promised by the caller.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

fn succeeded(code: sys::rd_kafka_resp_err_t) -> Outcome<()> {
    match code {
        sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(()),
        failed => Err(failed.into()),
    }
}

fn only<T>(answers: Vec<Outcome<T>>) -> Outcome<T> {
    let only = answers.into_iter().next();
    only.unwrap_or(Err(RDKafkaErrorCode::OperationTimedOut))
}

fn milliseconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX)
}
