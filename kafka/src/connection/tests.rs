use kafka_protocol::messages::api_versions_response::{ApiVersion, ApiVersionsResponse};
use kafka_protocol::messages::{
    FetchRequest, MetadataRequest, MetadataResponse, SaslAuthenticateResponse, SaslHandshakeResponse,
};
use std::net::IpAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;

const TIMEOUT: Duration = Duration::from_secs(10);
const LIMIT: usize = 1 << 20;

fn settings() -> Settings {
    Settings {
        client_id: "test".to_owned(),
        security: Security::default(),
        max_response_bytes: LIMIT,
        restrictions: Restrictions::default(),
    }
}

/// Reads one request, and returns its correlation ID.
async fn read_request(socket: &mut TcpStream) -> i32 {
    read_body(socket).await.0
}

fn response(correlation_id: i32, header_version: i16, body: impl Fn(&mut BytesMut)) -> Vec<u8> {
    let mut bytes = BytesMut::zeroed(4);
    let header = ResponseHeader::default().with_correlation_id(correlation_id);
    header.encode(&mut bytes, header_version).expect("a header");
    body(&mut bytes);
    let length = u32::try_from(bytes.len() - 4).expect("a length");
    bytes[..4].copy_from_slice(&length.to_be_bytes());
    bytes.to_vec()
}

/// A broker that supports metadata requests, and answers the first one with these bytes.
async fn broker(answer: impl FnOnce(i32) -> Vec<u8> + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let address = listener.local_addr().expect("an address").to_string();
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.expect("a connection");
        let metadata = ApiVersion::default()
            .with_api_key(3)
            .with_min_version(0)
            .with_max_version(9);
        let versions = ApiVersionsResponse::default().with_api_keys(vec![metadata]);
        let id = read_request(&mut socket).await;
        let bytes = response(id, 0, |bytes| versions.encode(bytes, 0).expect("versions"));
        socket.write_all(&bytes).await.expect("an answer");
        let id = read_request(&mut socket).await;
        socket.write_all(&answer(id)).await.expect("an answer");
        // The connection stays open until the client closes it.
        let mut rest = Vec::new();
        socket.read_to_end(&mut rest).await.unwrap_or_default();
    });
    address
}

async fn request(
    answer: impl FnOnce(i32) -> Vec<u8> + Send + 'static,
) -> Result<MetadataResponse, RequestError> {
    let address = broker(answer).await;
    let mut connection = Connection::open(&address, &settings(), TIMEOUT).await?;
    connection.request(&MetadataRequest::default(), TIMEOUT).await
}

fn metadata(id: i32) -> Vec<u8> {
    response(id, 1, |bytes| {
        MetadataResponse::default().encode(bytes, 9).expect("metadata");
    })
}

#[tokio::test]
async fn a_request_has_the_highest_common_version_and_its_response() {
    assert_eq!(
        request(metadata).await.expect("metadata"),
        MetadataResponse::default()
    );
}

#[tokio::test]
async fn a_response_above_the_limit_is_refused_before_its_bytes_arrive() {
    let too_large = |_: i32| u32::try_from(LIMIT + 1).expect("a size").to_be_bytes().to_vec();
    let error = request(too_large).await.expect_err("too large");
    assert!(matches!(error.cause, Cause::TooLarge { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.starts_with("127.0.0.1:") && text.contains(": Metadata: "),
        "{text}"
    );
}

#[tokio::test]
async fn bytes_that_are_not_a_response_are_an_error() {
    let garbage = |_: i32| [8_u32.to_be_bytes().to_vec(), vec![0xff; 8]].concat();
    let other = |id: i32| metadata(id + 1);
    let empty = |_: i32| vec![0; 4];
    let truncated = |id: i32| response(id, 1, |_| {});
    // 4,294,967,294 brokers: memory for them is never allocated.
    let countless = |id: i32| {
        response(id, 1, |bytes| {
            bytes.extend_from_slice(&[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0]);
        })
    };
    for answer in [garbage as fn(i32) -> Vec<u8>, other, empty, truncated, countless] {
        let error = request(answer).await.expect_err("malformed");
        assert!(matches!(error.cause, Cause::Malformed(_)), "{error}");
    }
}

#[tokio::test]
async fn a_request_without_an_answer_times_out_and_ends_the_connection() {
    let address = broker(|_| Vec::new()).await;
    let mut connection = Connection::open(&address, &settings(), TIMEOUT)
        .await
        .expect("a connection");
    let brief = Duration::from_millis(50);
    let request = MetadataRequest::default();
    let error = connection.request(&request, brief).await.expect_err("no answer");
    assert!(matches!(error.cause, Cause::TimedOut), "{error}");
    let error = connection.request(&request, TIMEOUT).await.expect_err("unusable");
    assert!(matches!(error.cause, Cause::Connection(_)), "{error}");
}

#[tokio::test]
async fn a_version_that_the_broker_lacks_is_an_error() {
    let address = broker(metadata).await;
    let mut connection = Connection::open(&address, &settings(), TIMEOUT)
        .await
        .expect("a connection");
    let error = connection.request(&FetchRequest::default(), TIMEOUT).await;
    let error = error.expect_err("no version");
    assert!(
        matches!(error.cause, Cause::UnsupportedVersion { min: 11, max: 12 }),
        "{error}"
    );
}

#[tokio::test]
async fn an_address_without_a_broker_is_an_error() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let address = listener.local_addr().expect("an address").to_string();
    drop(listener);
    let error = Connection::open(&address, &settings(), TIMEOUT)
        .await
        .err()
        .expect("no listener");
    assert!(matches!(error.cause, Cause::Connection(_)), "{error}");
}

/// A broker that answers every step of a SCRAM login; `proof` changes its last message.
async fn scram_broker(password: &'static str, proof: fn(String) -> String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let address = listener.local_addr().expect("an address").to_string();
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.expect("a connection");
        let apis = [(17, 1), (36, 1)]
            .map(|(key, max)| ApiVersion::default().with_api_key(key).with_max_version(max));
        let versions = ApiVersionsResponse::default().with_api_keys(apis.to_vec());
        let (id, _) = read_body(&mut socket).await;
        let bytes = response(id, 0, |bytes| versions.encode(bytes, 0).expect("versions"));
        socket.write_all(&bytes).await.expect("an answer");
        let (id, _) = read_body(&mut socket).await;
        let offered = SaslHandshakeResponse::default();
        let bytes = response(id, 0, |bytes| offered.encode(bytes, 1).expect("mechanisms"));
        socket.write_all(&bytes).await.expect("an answer");
        let (id, first) = read_body(&mut socket).await;
        let nonce = first.rsplit_once("r=").expect("a nonce").1.to_owned();
        let challenge = format!("r={nonce}server,s=QUFB,i=4096");
        answer_login(&mut socket, id, challenge.clone()).await;
        let (id, last) = read_body(&mut socket).await;
        let scram = Scram::new(Hash::Sha512, "orders", nonce);
        let (expected, verifier) = scram
            .client_final(password, challenge.as_bytes())
            .expect("a challenge");
        let answer = if last.ends_with(&expected) {
            proof(verifier)
        } else {
            String::new()
        };
        answer_login(&mut socket, id, answer).await;
        socket.read_to_end(&mut Vec::new()).await.unwrap_or_default();
    });
    address
}

/// Correlation ID of a request, and its bytes as text.
async fn read_body(socket: &mut TcpStream) -> (i32, String) {
    let length = socket.read_u32().await.expect("a request");
    let mut request = vec![0; usize::try_from(length).expect("a length")];
    socket.read_exact(&mut request).await.expect("a request");
    let id = i32::from_be_bytes(request[4..8].try_into().expect("four bytes"));
    (id, String::from_utf8_lossy(&request).into_owned())
}

async fn answer_login(socket: &mut TcpStream, id: i32, message: String) {
    let answer = SaslAuthenticateResponse::default().with_auth_bytes(message.into_bytes().into());
    let bytes = response(id, 0, |bytes| answer.encode(bytes, 1).expect("an answer"));
    socket.write_all(&bytes).await.expect("an answer");
}

async fn log_in(password: &str, proof: fn(String) -> String) -> Result<Connection, RequestError> {
    let address = scram_broker("open-sesame", proof).await;
    let mut settings = settings();
    settings.security.sasl = Some(Sasl {
        mechanism: "SCRAM-SHA-512".to_owned(),
        username: "orders".to_owned(),
        password: password.to_owned(),
    });
    Connection::open(&address, &settings, TIMEOUT).await
}

#[tokio::test]
async fn a_scram_login_proves_the_password_to_both_sides() {
    assert!(log_in("open-sesame", |proof| proof).await.is_ok());
    for (password, proof) in [
        ("close-sesame", (|proof| proof) as fn(String) -> String),
        ("open-sesame", |_| "v=AAAA".to_owned()),
    ] {
        let error = log_in(password, proof).await.err().expect("not proved");
        assert!(matches!(error.cause, Cause::Authentication(_)), "{error}");
        assert!(!error.to_string().contains("sesame"), "{error}");
    }
}

#[tokio::test]
async fn a_client_opens_no_more_connections_than_its_limits_allow() {
    let limit = Arc::new(Semaphore::new(1));
    let mut settings = settings();
    settings.restrictions.connections = vec![Arc::clone(&limit)];
    let first = Connection::open(&broker(metadata).await, &settings, TIMEOUT).await;
    let first = first.expect("a connection");
    let error = Connection::open(&broker(metadata).await, &settings, TIMEOUT).await;
    let error = error.err().expect("one connection too many");
    assert!(matches!(error.cause, Cause::TooManyConnections), "{error}");
    drop(first);
    assert!(
        Connection::open(&broker(metadata).await, &settings, TIMEOUT)
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn a_large_response_waits_for_others_and_a_small_one_does_not() {
    fn metadata_of(name_bytes: usize) -> impl FnOnce(i32) -> Vec<u8> + Send + 'static {
        move |id| {
            let name = StrBytes::from_string("x".repeat(name_bytes));
            let metadata = MetadataResponse::default().with_cluster_id(Some(name));
            response(id, 1, |bytes| metadata.encode(bytes, 9).expect("metadata"))
        }
    }
    let limit = Arc::new(Semaphore::new(0));
    let mut settings = settings();
    settings.restrictions.large_responses = Some(Arc::clone(&limit));
    let request = MetadataRequest::default();
    let small = broker(metadata_of(10)).await;
    let mut connection = Connection::open(&small, &settings, TIMEOUT)
        .await
        .expect("a connection");
    assert!(connection.request(&request, TIMEOUT).await.is_ok());
    let large = broker(metadata_of(LARGE_RESPONSE_BYTES)).await;
    let mut connection = Connection::open(&large, &settings, TIMEOUT)
        .await
        .expect("a connection");
    let mut response = Box::pin(connection.request(&request, TIMEOUT));
    let waiting = tokio::time::timeout(Duration::from_millis(100), &mut response).await;
    assert!(waiting.is_err(), "it waits");
    limit.add_permits(1);
    assert!(response.await.is_ok());
}

/// A policy that allows the name `kafka`, which it resolves to the loopback address, and a choice of addresses.
struct Policy {
    allows_loopback: bool,
}

impl AddressPolicy for Policy {
    fn lookup_name(&self, host: &str, _port: u16) -> Option<String> {
        (host == "kafka").then(|| "127.0.0.1".to_owned())
    }

    fn allows(&self, _host: &str, _port: u16, address: IpAddr) -> bool {
        self.allows_loopback || !address.is_loopback()
    }
}

#[tokio::test]
async fn a_policy_decides_on_the_name_of_a_broker_and_on_the_address_that_it_resolves_to() {
    let port = broker(metadata)
        .await
        .rsplit_once(':')
        .expect("a port")
        .1
        .to_owned();
    for (host, allows_loopback, is_allowed) in [
        ("kafka", false, false),
        ("127.0.0.1", true, false),
        ("kafka", true, true),
    ] {
        let mut settings = settings();
        settings.restrictions.addresses = Some(Arc::new(Policy { allows_loopback }));
        let opened = Connection::open(&format!("{host}:{port}"), &settings, TIMEOUT).await;
        match opened {
            Ok(_) => assert!(is_allowed, "{host}"),
            Err(error) => assert!(
                !is_allowed && matches!(error.cause, Cause::AddressNotAllowed),
                "{host}: {error}"
            ),
        }
    }
}
