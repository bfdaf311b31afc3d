//! Brokers that harm their clients, and a proxy that records when a broker is polled.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kafka::protocol::messages::api_versions_response::ApiVersion;
use kafka::protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka::protocol::messages::{ApiVersionsResponse, MetadataResponse, ResponseHeader, TopicName};
use kafka::protocol::protocol::{Encodable, StrBytes};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Version of the metadata request that the brokers support.
const METADATA_VERSION: i16 = 12;
/// Size of a response that a client must not receive.
const HUGE_BYTES: usize = 95 << 20;
/// Size of the largest response that the operator receives.
const LARGE_BYTES: usize = 2 << 20;

/// What a broker does to its client.
#[derive(Clone, Copy, Debug)]
pub(super) enum Behavior {
    /// Accepts a connection, and is silent.
    Silent,
    /// Closes every connection.
    Closing,
    /// Is no broker.
    Http,
    /// Answers a metadata request with 95 MB.
    Huge,
    /// Answers with an array of 2^32 - 2 brokers.
    Countless,
    /// Answers with 2,000 brokers.
    TooManyBrokers,
    /// Answers with 1,000 brokers, each of which leads a partition and is silent.
    SilentLeaders,
    /// Answers with as many topics as fit into a response.
    ManyTopics,
    /// Announces a large response, and sends a byte of it now and then.
    Dripping,
    /// Names a broker on a port of the operator's own host.
    Rebinding,
}

impl Behavior {
    pub(super) const ALL: [Self; 10] = [
        Self::Silent,
        Self::Closing,
        Self::Http,
        Self::Huge,
        Self::Countless,
        Self::TooManyBrokers,
        Self::SilentLeaders,
        Self::ManyTopics,
        Self::Dripping,
        Self::Rebinding,
    ];
}

/// A broker that harms its clients until it is dropped.
pub(super) struct HostileBroker {
    address: String,
    connections: Arc<AtomicUsize>,
    _task: JoinSet<()>,
}

impl HostileBroker {
    pub(super) async fn start(behavior: Behavior) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let connections = Arc::<AtomicUsize>::default();
        let accepted = Arc::clone(&connections);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut clients = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                accepted.fetch_add(1, Ordering::Relaxed);
                clients.spawn(async move {
                    // The client closes the connection whenever it wants to.
                    harm(socket, behavior, address.port()).await.unwrap_or_default();
                });
            }
        });
        Self {
            address: address.to_string(),
            connections,
            _task: task,
        }
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Number of connections so far.
    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

async fn harm(mut socket: TcpStream, behavior: Behavior, port: u16) -> std::io::Result<()> {
    match behavior {
        Behavior::Closing => return Ok(()),
        Behavior::Silent => return wait_closed(socket).await,
        Behavior::Http => {
            let text = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
            socket.write_all(text).await?;
            return wait_closed(socket).await;
        }
        _ => {}
    }
    let id = read_request(&mut socket).await?;
    let versions = [(2, 7), (3, METADATA_VERSION), (9, 8), (10, 4)]
        .map(|(key, max)| ApiVersion::default().with_api_key(key).with_max_version(max));
    let versions = ApiVersionsResponse::default().with_api_keys(versions.to_vec());
    socket.write_all(&response(id, 0, &body(&versions, 0))).await?;
    let id = read_request(&mut socket).await?;
    match behavior {
        Behavior::Huge => {
            announce(&mut socket, HUGE_BYTES).await?;
            let chunk = vec![0; 1 << 20];
            for _ in 0..HUGE_BYTES / chunk.len() {
                socket.write_all(&chunk).await?;
            }
        }
        Behavior::Dripping => {
            announce(&mut socket, LARGE_BYTES).await?;
            let mut tick = tokio::time::interval(Duration::from_millis(100));
            loop {
                tick.tick().await;
                socket.write_all(&[0]).await?;
            }
        }
        Behavior::Countless => {
            let brokers = [0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0];
            socket.write_all(&response(id, 1, &brokers)).await?;
        }
        _ => {
            let metadata = body(&metadata(behavior, port), METADATA_VERSION);
            socket.write_all(&response(id, 1, &metadata)).await?;
        }
    }
    wait_closed(socket).await
}

fn metadata(behavior: Behavior, port: u16) -> MetadataResponse {
    let (brokers, host) = match behavior {
        Behavior::TooManyBrokers => (2000, "127.0.0.1"),
        Behavior::SilentLeaders => (1000, "127.0.0.1"),
        Behavior::Rebinding => (1, "localhost"),
        _ => (1, "127.0.0.1"),
    };
    let topics = match behavior {
        // Each takes 28 bytes.
        Behavior::ManyTopics => LARGE_BYTES / 28 - 1,
        _ => 1,
    };
    let broker = |id: i32| {
        MetadataResponseBroker::default()
            .with_node_id(id.into())
            .with_host(StrBytes::from_static_str(host))
            .with_port(port.into())
    };
    let partition = |index: i32| {
        MetadataResponsePartition::default()
            .with_partition_index(index)
            .with_leader_id(index.into())
    };
    let topic = MetadataResponseTopic::default().with_name(Some(TopicName(StrBytes::from_static_str("t"))));
    let mut topics = vec![topic; topics];
    topics[0] = MetadataResponseTopic::default()
        .with_name(Some(TopicName(StrBytes::from_static_str("facts"))))
        .with_partitions((0..brokers).map(partition).collect());
    MetadataResponse::default()
        .with_brokers((0..brokers).map(broker).collect())
        .with_topics(topics)
}

fn body<M: Encodable>(message: &M, version: i16) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode(&mut bytes, version).expect("a message");
    bytes
}

fn response(id: i32, header_version: i16, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    let header = ResponseHeader::default().with_correlation_id(id);
    header.encode(&mut bytes, header_version).expect("a header");
    bytes.extend_from_slice(body);
    let length = u32::try_from(bytes.len() - 4).expect("a length");
    bytes[..4].copy_from_slice(&length.to_be_bytes());
    bytes
}

async fn announce(socket: &mut TcpStream, bytes: usize) -> std::io::Result<()> {
    let bytes = u32::try_from(bytes).expect("a length");
    socket.write_all(&bytes.to_be_bytes()).await
}

/// Reads a request, and returns its correlation ID.
async fn read_request(socket: &mut TcpStream) -> std::io::Result<i32> {
    let length = socket.read_u32().await?;
    let mut request = vec![0; usize::try_from(length).expect("a length")];
    socket.read_exact(&mut request).await?;
    Ok(i32::from_be_bytes(request[4..8].try_into().expect("four bytes")))
}

async fn wait_closed(mut socket: TcpStream) -> std::io::Result<()> {
    let mut bytes = [0; 1024];
    while socket.read(&mut bytes).await? > 0 {}
    Ok(())
}

/// A proxy in front of the only bootstrap server of a cluster: each poll asks it for metadata.
pub(super) struct RecordingProxy {
    address: String,
    polls: Arc<Mutex<Vec<Instant>>>,
    _task: JoinSet<()>,
}

impl RecordingProxy {
    pub(super) async fn start(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let polls = Arc::<Mutex<Vec<Instant>>>::default();
        let recorded = Arc::clone(&polls);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let (server, recorded) = (server.clone(), Arc::clone(&recorded));
                connections.spawn(async move {
                    forward(client, &server, &recorded).await.unwrap_or_default();
                });
            }
        });
        Self {
            address,
            polls,
            _task: task,
        }
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Times of the requests for metadata.
    pub(super) fn polls(&self) -> Vec<Instant> {
        self.polls.lock().expect("the lock is not poisoned").clone()
    }
}

/// Forwards both directions, and records the requests for metadata.
async fn forward(client: TcpStream, server: &str, polls: &Mutex<Vec<Instant>>) -> std::io::Result<()> {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = TcpStream::connect(server).await?.into_split();
    let answers = tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
    while let Ok(length) = from_client.read_u32().await {
        let mut request = vec![0; usize::try_from(length).expect("a length")];
        from_client.read_exact(&mut request).await?;
        if request[..2] == [0, 3] {
            polls
                .lock()
                .expect("the lock is not poisoned")
                .push(Instant::now());
        }
        to_server.write_u32(length).await?;
        to_server.write_all(&request).await?;
    }
    answers.abort();
    Ok(())
}
