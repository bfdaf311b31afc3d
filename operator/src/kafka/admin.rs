#![expect(
    clippy::disallowed_methods,
    reason = "edge: waits for brokers, until a deadline"
)]
#![expect(unsafe_code, reason = "rdkafka does not wrap these requests of librdkafka")]
//! Admin requests of librdkafka that rdkafka does not wrap: group offsets, offsets of many partitions, group states.
//!
//! All unsafe code of the operator is in this file. [`Owned`] owns each librdkafka object; results are copied into Rust
//! types before it is destroyed. No pointer leaves the file. Errors are returned as codes, which [`super`] translates.

use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr::{self, NonNull};
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::bindings as sys;
use rdkafka::client::{Client, ClientContext};
use rdkafka::error::RDKafkaErrorCode;
use sys::rd_kafka_consumer_group_state_t as State;

/// Offset of a partition, or the error code of the broker. A missing offset is `OFFSET_INVALID` (negative).
pub(super) struct PartitionOffset {
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) offset: Result<i64, RDKafkaErrorCode>,
}

/// States of a group in which no rebalance is running.
const STABLE_STATES: [State; 3] = [
    State::RD_KAFKA_CONSUMER_GROUP_STATE_STABLE,
    State::RD_KAFKA_CONSUMER_GROUP_STATE_EMPTY,
    State::RD_KAFKA_CONSUMER_GROUP_STATE_DEAD,
];

/// Result of one request.
type AdminResult<T> = Result<T, RDKafkaErrorCode>;

/// librdkafka's timeout for a request to a group coordinator; see [`is_coordinator_lost`]. It outlives the client.
const COORDINATOR_TIMEOUT: Duration = Duration::from_hours(1);

/// Minimum of librdkafka's timeout for any other request, also if the caller stops waiting earlier.
///
/// If a request for offsets times out while librdkafka (2.12.1) is still sending it, two threads free it:
/// `rd_kafka_topic_partition_list_query_leaders_async` continues to use it after starting the timer.
const MIN_REQUEST_TIMEOUT: Duration = Duration::from_millis(500);

/// Maximum requests in flight. It bounds the memory while a slow broker has thousands of groups to respond for.
const MAX_IN_FLIGHT: usize = 1000;

/// Returns whether the client has lost a group's coordinator: no response came, or the broker no longer coordinates the
/// group.
///
/// Such a client must be replaced soon, because librdkafka 2.12.1 caches the first coordinator it finds. If such a
/// request times out before the coordinator is connected, librdkafka aborts the process on connect
/// (`rd_kafka_admin_coord_request` uses a freed `eonce`). These requests therefore get [`COORDINATOR_TIMEOUT`], which
/// outlives the client.
pub(super) fn is_coordinator_lost<T>(result: &AdminResult<T>) -> bool {
    use RDKafkaErrorCode::{NotCoordinator, OperationTimedOut};
    matches!(result, Err(OperationTimedOut | NotCoordinator))
}

/// Fetches the committed offsets of each group: one result per group, with many requests in flight.
pub(super) fn committed_offsets<C: ClientContext>(
    client: &Client<C>,
    groups: &[(CString, TopicPartitionList)],
    deadline: Instant,
) -> Vec<AdminResult<Vec<PartitionOffset>>> {
    let op = sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTCONSUMERGROUPOFFSETS;
    let events = send_requests(client, op, groups.len(), deadline, |index, options, queue| {
        let (group, partitions) = &groups[index];
        // SAFETY: both arguments outlive the call, which copies them. `Owned` destroys the returned request.
        let request = unsafe {
            Owned::new(
                sys::rd_kafka_ListConsumerGroupOffsets_new(group.as_ptr(), partitions.ptr()),
                sys::rd_kafka_ListConsumerGroupOffsets_destroy,
            )
        };
        let Some(request) = request else { return };
        let mut request = request.as_ptr();
        // SAFETY: all pointers refer to live objects; the call copies the request from an array of one element.
        unsafe {
            sys::rd_kafka_ListConsumerGroupOffsets(client.native_ptr(), &raw mut request, 1, options, queue);
        }
    });
    let results = events.into_iter().map(|event| {
        let event = event?;
        // SAFETY: the event is live and has this type, because the queue serves this request only.
        unsafe {
            let result = sys::rd_kafka_event_ListConsumerGroupOffsets_result(event.as_ptr());
            group_offsets(sys::rd_kafka_ListConsumerGroupOffsets_result_groups, result)
        }
    });
    results.collect()
}

/// Sets the committed offsets of a group without members.
pub(super) fn alter_offsets<C: ClientContext>(
    client: &Client<C>,
    group: &CStr,
    offsets: &TopicPartitionList,
    deadline: Instant,
) -> AdminResult<Vec<PartitionOffset>> {
    let op = sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_ALTERCONSUMERGROUPOFFSETS;
    let events = send_requests(client, op, 1, deadline, |_, options, queue| {
        // SAFETY: both arguments outlive the call, which copies them. `Owned` destroys the returned request.
        let request = unsafe {
            Owned::new(
                sys::rd_kafka_AlterConsumerGroupOffsets_new(group.as_ptr(), offsets.ptr()),
                sys::rd_kafka_AlterConsumerGroupOffsets_destroy,
            )
        };
        let Some(request) = request else { return };
        let mut request = request.as_ptr();
        // SAFETY: all pointers refer to live objects; the call copies the request from an array of one element.
        unsafe {
            sys::rd_kafka_AlterConsumerGroupOffsets(client.native_ptr(), &raw mut request, 1, options, queue);
        }
    });
    let event = single(events)?;
    // SAFETY: the event is live and has this type, because the queue serves this request only.
    unsafe {
        let result = sys::rd_kafka_event_AlterConsumerGroupOffsets_result(event.as_ptr());
        group_offsets(sys::rd_kafka_AlterConsumerGroupOffsets_result_groups, result)
    }
}

/// Lists offsets of partitions. Each list names the offset: `Offset::End` (last stable), `Offset::Beginning` (log
/// start) or a timestamp. Sends one request per list and leader concurrently. A partition without a response has an
/// error.
pub(super) fn list_offsets<C: ClientContext>(
    client: &Client<C>,
    lists: &[TopicPartitionList],
    deadline: Instant,
) -> Vec<PartitionOffset> {
    let op = sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTOFFSETS;
    let events = send_requests(client, op, lists.len(), deadline, |index, options, queue| {
        let committed = sys::rd_kafka_IsolationLevel_t::RD_KAFKA_ISOLATION_LEVEL_READ_COMMITTED;
        // SAFETY: the options are live and belong to this request, so setting them cannot fail. The caller owns a
        // returned error, and destroying null is allowed. The list outlives the call, which copies it.
        unsafe {
            let error = sys::rd_kafka_AdminOptions_set_isolation_level(options, committed);
            sys::rd_kafka_error_destroy(error);
            sys::rd_kafka_ListOffsets(client.native_ptr(), lists[index].ptr(), options, queue);
        }
    });
    let offsets = lists.iter().zip(events).flat_map(|(list, event)| match event {
        // SAFETY: the event is live and has this type, because the queue serves this request only.
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
    offsets.collect()
}

/// Lists the groups of the cluster that are not stable, empty or dead, with one request per broker.
///
/// librdkafka 2.12.1 has no names for some states of the newer group protocol; groups in those states are included.
pub(super) fn unstable_groups<C: ClientContext>(
    client: &Client<C>,
    deadline: Instant,
) -> AdminResult<Vec<String>> {
    let op = sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTCONSUMERGROUPS;
    let events = send_requests(client, op, 1, deadline, |_, options, queue| {
        // SAFETY: all pointers refer to live objects.
        unsafe { sys::rd_kafka_ListConsumerGroups(client.native_ptr(), options, queue) }
    });
    let event = single(events)?;
    // SAFETY: the event is live and has this type, because the queue serves this request only; names and errors live
    // as long as the event.
    unsafe {
        let result = sys::rd_kafka_event_ListConsumerGroups_result(event.as_ptr());
        if let Some(error) = array(sys::rd_kafka_ListConsumerGroups_result_errors, result).first() {
            return Err(sys::rd_kafka_error_code(*error).into());
        }
        let groups = array(sys::rd_kafka_ListConsumerGroups_result_valid, result).iter();
        let unstable = groups.filter(|group| {
            let state = sys::rd_kafka_ConsumerGroupListing_state(**group);
            !STABLE_STATES.contains(&state)
        });
        Ok(unstable
            .map(|group| text(sys::rd_kafka_ConsumerGroupListing_group_id(*group)))
            .collect())
    }
}

/// Sends `count` requests with one event queue, at most [`MAX_IN_FLIGHT`] at a time, and collects their events until the
/// deadline. A request without a response yields `OperationTimedOut`.
fn send_requests<C: ClientContext>(
    client: &Client<C>,
    op: sys::rd_kafka_admin_op_t,
    count: usize,
    deadline: Instant,
    send: impl Fn(usize, *mut sys::rd_kafka_AdminOptions_t, *mut sys::rd_kafka_queue_t),
) -> Vec<AdminResult<Owned<sys::rd_kafka_event_t>>> {
    let timeout = deadline.saturating_duration_since(Instant::now());
    let mut results: Vec<_> = std::iter::repeat_with(|| Err(RDKafkaErrorCode::OperationTimedOut))
        .take(count)
        .collect();
    // SAFETY: the client is live, and outlives the queue and the options.
    let (queue, options) = unsafe {
        let queue = sys::rd_kafka_queue_new(client.native_ptr());
        let options = sys::rd_kafka_AdminOptions_new(client.native_ptr(), op);
        (
            Owned::new(queue, sys::rd_kafka_queue_destroy),
            Owned::new(options, sys::rd_kafka_AdminOptions_destroy),
        )
    };
    let (Some(queue), Some(options)) = (queue, options) else {
        return results;
    };
    let request_timeout = request_timeout_millis(op, timeout);
    // SAFETY: the options are live; the buffer for an error text may be null.
    unsafe {
        sys::rd_kafka_AdminOptions_set_request_timeout(options.as_ptr(), request_timeout, ptr::null_mut(), 0);
    }
    let mut unsent = 0..count;
    for received in 0..count {
        let free = received + MAX_IN_FLIGHT - unsent.start;
        for index in unsent.by_ref().take(free) {
            // SAFETY: the options are live. The index is passed as an address, which is never dereferenced. A sent
            // request has a copy of the options and a reference to the queue.
            unsafe {
                let opaque = ptr::without_provenance_mut::<c_void>(index);
                sys::rd_kafka_AdminOptions_set_opaque(options.as_ptr(), opaque);
            }
            send(index, options.as_ptr(), queue.as_ptr());
        }
        let remaining = milliseconds(deadline.saturating_duration_since(Instant::now()));
        // SAFETY: the queue is live; the caller owns the event.
        let event = unsafe {
            let event = sys::rd_kafka_queue_poll(queue.as_ptr(), remaining);
            Owned::new(event, sys::rd_kafka_event_destroy)
        };
        let Some(event) = event else { break };
        // SAFETY: the event is live; its opaque pointer is the index set above.
        let (index, code) = unsafe {
            let index = sys::rd_kafka_event_opaque(event.as_ptr()).addr();
            (index, sys::rd_kafka_event_error(event.as_ptr()))
        };
        results[index] = check_code(code).map(|()| event);
    }
    results
}

/// Returns librdkafka's timeout for a request, in milliseconds. It ends before the deadline, so that one broker that
/// does not respond leaves the responses of the others.
fn request_timeout_millis(op: sys::rd_kafka_admin_op_t, timeout: Duration) -> i32 {
    milliseconds(match op {
        sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTCONSUMERGROUPOFFSETS
        | sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_ALTERCONSUMERGROUPOFFSETS => COORDINATOR_TIMEOUT,
        _ => timeout.mul_f32(0.9).max(MIN_REQUEST_TIMEOUT),
    })
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

/// Returns the offsets of the only group of a result.
///
/// # Safety
/// The result is live, and `groups` is the function for its type.
unsafe fn group_offsets<R>(
    groups: unsafe extern "C" fn(*const R, *mut usize) -> *mut *const sys::rd_kafka_group_result_t,
    result: *const R,
) -> AdminResult<Vec<PartitionOffset>> {
    // SAFETY: guaranteed by the caller; everything read lives as long as the result.
    unsafe {
        let group = *array(groups, result)
            .first()
            .ok_or(RDKafkaErrorCode::BadMessage)?;
        let error = sys::rd_kafka_group_result_error(group);
        if !error.is_null() {
            check_code(sys::rd_kafka_error_code(error))?;
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

/// Returns the array that an accessor function of a result returns; its last argument receives the length.
///
/// # Safety
/// The result is live for `'r`, and `function` is for its type.
unsafe fn array<'r, R, T>(
    function: unsafe extern "C" fn(*const R, *mut usize) -> *mut *const T,
    result: *const R,
) -> &'r [*const T] {
    let mut count = 0;
    // SAFETY: guaranteed by the caller; the array has `count` elements.
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
/// The topic of the partition is a live string that ends with a null.
unsafe fn partition_offset(partition: &sys::rd_kafka_topic_partition_t) -> PartitionOffset {
    PartitionOffset {
        // SAFETY: guaranteed by the caller.
        topic: unsafe { text(partition.topic) },
        partition: partition.partition,
        offset: check_code(partition.err).map(|()| partition.offset),
    }
}

/// # Safety
/// The string is live and ends with a null.
unsafe fn text(text: *const c_char) -> String {
    // SAFETY: guaranteed by the caller.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

fn check_code(code: sys::rd_kafka_resp_err_t) -> AdminResult<()> {
    match code {
        sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(()),
        code => Err(code.into()),
    }
}

fn single<T>(results: Vec<AdminResult<T>>) -> AdminResult<T> {
    let first = results.into_iter().next();
    first.unwrap_or(Err(RDKafkaErrorCode::OperationTimedOut))
}

fn milliseconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX)
}
