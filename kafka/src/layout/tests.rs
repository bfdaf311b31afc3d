use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::consumer_protocol_assignment::{ConsumerProtocolAssignment, TopicPartition};
use kafka_protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kafka_protocol::messages::fetch_response::{AbortedTransaction, FetchableTopicResponse, PartitionData};
use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic, OffsetFetchResponseTopics,
};
use kafka_protocol::messages::{
    ApiVersionsResponse, DescribeGroupsResponse, FetchResponse, FindCoordinatorResponse, GroupId,
    ListOffsetsResponse, MetadataResponse, OffsetCommitResponse, OffsetFetchResponse, ResponseHeader,
    SaslAuthenticateResponse, SaslHandshakeResponse, TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use proptest::prelude::*;

use super::*;

fn text(text: &'static str) -> StrBytes {
    StrBytes::from_static_str(text)
}

fn topic() -> TopicName {
    TopicName(text("orders"))
}

/// Encodes a response in every version, with the layout of its request.
fn encode_all<R: ClientRequest>(
    build: impl Fn(i16) -> R::Response,
) -> Vec<(&'static str, Layout, i16, Vec<u8>)> {
    let name = std::any::type_name::<R>().rsplit("::").next().expect("a name");
    let versions = R::SUPPORTED.min..=R::SUPPORTED.max;
    let messages = versions.map(|version| {
        let mut bytes = BytesMut::new();
        build(version).encode(&mut bytes, version).expect(name);
        (name, R::RESPONSE, version, bytes.to_vec())
    });
    messages.collect()
}

fn metadata() -> MetadataResponse {
    let broker = MetadataResponseBroker::default()
        .with_host(text("kafka"))
        .with_rack(Some(text("rack")));
    let partition = MetadataResponsePartition::default()
        .with_replica_nodes(vec![1.into(), 2.into()])
        .with_isr_nodes(vec![1.into()])
        .with_offline_replicas(vec![2.into()]);
    let described = MetadataResponseTopic::default()
        .with_name(Some(topic()))
        .with_partitions(vec![partition; 2]);
    MetadataResponse::default()
        .with_brokers(vec![broker; 2])
        .with_cluster_id(Some(text("cluster")))
        .with_topics(vec![described; 2])
}

fn coordinators(version: i16) -> FindCoordinatorResponse {
    if version < 4 {
        return FindCoordinatorResponse::default().with_host(text("kafka"));
    }
    let coordinator = Coordinator::default()
        .with_key(text("group"))
        .with_host(text("kafka"))
        .with_error_message(Some(text("none")));
    FindCoordinatorResponse::default().with_coordinators(vec![coordinator; 2])
}

fn listed() -> ListOffsetsResponse {
    let listed = ListOffsetsTopicResponse::default()
        .with_name(topic())
        .with_partitions(vec![ListOffsetsPartitionResponse::default(); 2]);
    ListOffsetsResponse::default().with_topics(vec![listed; 2])
}

fn committed() -> OffsetCommitResponse {
    let committed = OffsetCommitResponseTopic::default()
        .with_name(topic())
        .with_partitions(vec![OffsetCommitResponsePartition::default(); 2]);
    OffsetCommitResponse::default().with_topics(vec![committed; 2])
}

fn groups() -> DescribeGroupsResponse {
    let member = DescribedGroupMember::default()
        .with_member_id(text("member"))
        .with_client_id(text("client"))
        .with_client_host(text("/10.0.0.1"))
        .with_member_metadata(Bytes::from_static(b"subscription"))
        .with_member_assignment(Bytes::from_static(b"assignment"));
    let group = DescribedGroup::default()
        .with_group_id(GroupId(text("group")))
        .with_group_state(text("Stable"))
        .with_members(vec![member; 2]);
    DescribeGroupsResponse::default().with_groups(vec![group; 2])
}

fn fetched() -> FetchResponse {
    let partition = PartitionData::default()
        .with_aborted_transactions(Some(vec![AbortedTransaction::default(); 2]))
        .with_records(Some(Bytes::from_static(b"records")));
    let fetched = FetchableTopicResponse::default()
        .with_topic(topic())
        .with_partitions(vec![partition, PartitionData::default()]);
    FetchResponse::default().with_responses(vec![fetched; 2])
}

/// A response of every request in every version, with two elements in each array.
fn messages() -> Vec<(&'static str, Layout, i16, Vec<u8>)> {
    [
        encode_all::<ApiVersionsRequest>(|_| {
            ApiVersionsResponse::default().with_api_keys(vec![ApiVersion::default(); 2])
        }),
        encode_all::<SaslHandshakeRequest>(|_| {
            SaslHandshakeResponse::default().with_mechanisms(vec![text("PLAIN"), text("SCRAM-SHA-512")])
        }),
        encode_all::<SaslAuthenticateRequest>(|_| {
            SaslAuthenticateResponse::default().with_auth_bytes(Bytes::from_static(b"proof"))
        }),
        encode_all::<MetadataRequest>(|_| metadata()),
        encode_all::<FindCoordinatorRequest>(coordinators),
        encode_all::<OffsetFetchRequest>(offset_fetch_response),
        encode_all::<OffsetCommitRequest>(|_| committed()),
        encode_all::<ListOffsetsRequest>(|_| listed()),
        encode_all::<DescribeGroupsRequest>(|_| groups()),
        encode_all::<FetchRequest>(|_| fetched()),
    ]
    .concat()
}

fn offset_fetch_response(version: i16) -> OffsetFetchResponse {
    if version < 8 {
        let offset = OffsetFetchResponsePartition::default().with_metadata(Some(text("note")));
        let topic = OffsetFetchResponseTopic::default()
            .with_name(topic())
            .with_partitions(vec![offset; 2]);
        return OffsetFetchResponse::default().with_topics(vec![topic; 2]);
    }
    let offset = OffsetFetchResponsePartitions::default().with_metadata(None);
    let topic = OffsetFetchResponseTopics::default()
        .with_name(topic())
        .with_partitions(vec![offset; 2]);
    let group = OffsetFetchResponseGroup::default()
        .with_group_id(GroupId(text("group")))
        .with_topics(vec![topic; 2]);
    OffsetFetchResponse::default().with_groups(vec![group; 2])
}

#[test]
fn a_layout_describes_every_version_of_its_response_to_the_last_byte() {
    for (name, layout, version, bytes) in messages() {
        assert_eq!(
            layout.check(version, &bytes),
            Ok(&[][..]),
            "{name}, version {version}"
        );
        for end in 0..bytes.len() {
            assert!(
                layout.check(version, &bytes[..end]).is_err(),
                "{name}, version {version}, {end} bytes"
            );
        }
    }
}

#[test]
fn the_layouts_of_a_header_and_of_an_assignment_are_those_of_the_decoder() {
    for version in 0..=1 {
        let mut bytes = BytesMut::new();
        let header = ResponseHeader::default();
        header.encode(&mut bytes, version).expect("a header");
        assert_eq!(RESPONSE_HEADER.check(version, &bytes), Ok(&[][..]));
    }
    let partitions = TopicPartition::default()
        .with_topic(topic())
        .with_partitions(vec![0, 1]);
    let assignment = ConsumerProtocolAssignment::default().with_assigned_partitions(vec![partitions; 2]);
    let mut bytes = BytesMut::new();
    assignment.encode(&mut bytes, 0).expect("an assignment");
    assert_eq!(MEMBER_ASSIGNMENT.check(0, &bytes), Ok(&[][..]));
}

#[test]
fn an_array_that_claims_more_elements_than_it_has_bytes_is_an_error() {
    // 2,147,483,647 brokers: the decoder would allocate 200 GB for them.
    let metadata = [&[0; 4][..], &i32::MAX.to_be_bytes(), &[0; 64]].concat();
    assert!(MetadataRequest::RESPONSE.check(7, &metadata).is_err());
    let compact = [&[0; 4][..], &[0xff, 0xff, 0xff, 0xff, 0x0f], &[0; 64]].concat();
    assert!(MetadataRequest::RESPONSE.check(12, &compact).is_err());
}

#[test]
fn a_response_has_a_maximum_number_of_structures() {
    let response = |groups: usize| {
        let response = DescribeGroupsResponse::default().with_groups(vec![DescribedGroup::default(); groups]);
        let mut bytes = BytesMut::new();
        response.encode(&mut bytes, 0).expect("groups");
        DescribeGroupsRequest::RESPONSE.check(0, &bytes).map(<[u8]>::len)
    };
    assert_eq!(response(MAX_STRUCTS), Ok(0));
    assert_eq!(
        response(MAX_STRUCTS + 1),
        Err("more structures than a response may have")
    );
    // Tagged fields count as well: each takes more memory than its bytes.
    let count = u32::try_from(MAX_STRUCTS + 1).expect("a number");
    let varint = [
        u8::try_from(count & 0x7f | 0x80).expect("a byte"),
        u8::try_from(count >> 7 & 0x7f | 0x80).expect("a byte"),
        u8::try_from(count >> 14).expect("a byte"),
    ];
    let tags = [&[0; 4][..], &varint, &vec![0; 2 * MAX_STRUCTS + 2]].concat();
    assert!(RESPONSE_HEADER.check(1, &tags).is_err());
}

/// Decodes a message as [`crate::Connection`] does. The result does not matter, only that it returns.
fn decode(name: &str, layout: Layout, version: i16, bytes: &[u8]) {
    fn body<T: Decodable>(bytes: &[u8], version: i16) {
        drop(T::decode(&mut Bytes::copy_from_slice(bytes), version));
    }
    if layout.check(version, bytes).is_err() {
        return;
    }
    match name {
        "ApiVersionsRequest" => body::<ApiVersionsResponse>(bytes, version),
        "SaslHandshakeRequest" => body::<SaslHandshakeResponse>(bytes, version),
        "SaslAuthenticateRequest" => body::<SaslAuthenticateResponse>(bytes, version),
        "MetadataRequest" => body::<MetadataResponse>(bytes, version),
        "FindCoordinatorRequest" => body::<FindCoordinatorResponse>(bytes, version),
        "OffsetFetchRequest" => body::<OffsetFetchResponse>(bytes, version),
        "OffsetCommitRequest" => body::<OffsetCommitResponse>(bytes, version),
        "ListOffsetsRequest" => body::<ListOffsetsResponse>(bytes, version),
        "DescribeGroupsRequest" => body::<DescribeGroupsResponse>(bytes, version),
        _ => body::<FetchResponse>(bytes, version),
    }
}

proptest! {
    /// Without the check, a changed length makes the decoder allocate gigabytes, which ends the test process.
    #[test]
    fn changed_bytes_of_a_response_never_end_the_process(
        index in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let messages = messages();
        let (name, layout, version, bytes) = index.get(&messages);
        let mut bytes = bytes.clone();
        for (position, byte) in changes {
            *position.get_mut(&mut bytes) = byte;
        }
        decode(name, *layout, *version, &bytes);
    }
}
