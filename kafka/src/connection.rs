#![expect(
    clippy::disallowed_methods,
    reason = "edge: sends requests to a broker, until a deadline"
)]
//! One connection to a broker: login, requests and responses.
//!
//! The size of a response is checked before memory is allocated for it. A request that failed in the middle leaves an
//! unread response, so the connection refuses every further request.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bytes::{Bytes, BytesMut};
use kafka_protocol::error::ParseResponseErrorCode as _;
use kafka_protocol::messages::{
    ApiKey, ApiVersionsRequest, RequestHeader, ResponseHeader, SaslAuthenticateRequest, SaslHandshakeRequest,
};
use kafka_protocol::protocol::{Decodable as _, Encodable as _, HeaderVersion as _, StrBytes, VersionRange};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use crate::error::{Cause, RequestError};
use crate::layout::{ClientRequest, RESPONSE_HEADER};
use crate::scram::{Hash, Scram};
use crate::security::{Sasl, Security};
use crate::socket::{AddressPolicy, Socket, connect};

/// Size of a response above which it is a large one, in bytes.
const LARGE_RESPONSE_BYTES: usize = 64 << 10;

/// Restrictions of a client whose brokers may be hostile.
#[derive(Clone, Default)]
pub struct Restrictions {
    /// Connections that may be open at a time: a connection needs a permit of each.
    pub connections: Vec<Arc<Semaphore>>,
    /// Responses above 64 KiB that may be in memory at a time; `None` for any number.
    pub large_responses: Option<Arc<Semaphore>>,
    /// Addresses that the client connects to; `None` for any address.
    pub addresses: Option<Arc<dyn AddressPolicy>>,
}

/// Settings of every connection of a client.
#[derive(Clone)]
pub struct Settings {
    /// Name of the client in the logs and quotas of the brokers.
    pub client_id: String,
    /// TLS and SASL.
    pub security: Security,
    /// Maximum size of a response, in bytes.
    pub max_response_bytes: usize,
    /// Restrictions of the client.
    pub restrictions: Restrictions,
}

/// A connection to one broker.
pub struct Connection {
    broker: String,
    socket: Box<dyn Socket>,
    client_id: StrBytes,
    max_response_bytes: usize,
    large_responses: Option<Arc<Semaphore>>,
    _permits: Vec<OwnedSemaphorePermit>,
    versions: BTreeMap<i16, VersionRange>,
    correlation_id: i32,
    is_awaiting: bool,
}

/// A response whose size is known and whose bytes are not read yet.
pub struct Announced<'c, R> {
    connection: &'c mut Connection,
    bytes: usize,
    version: i16,
    request: PhantomData<R>,
}

impl Connection {
    /// Connects to a broker, asks for the versions that it supports, and logs in.
    ///
    /// # Errors
    /// If the broker does not answer within `timeout`, or rejects the client.
    pub async fn open(address: &str, settings: &Settings, timeout: Duration) -> Result<Self, RequestError> {
        let deadline = Instant::now() + timeout;
        let opened = timeout_at(deadline, Self::open_unbounded(address, settings, timeout)).await;
        opened.unwrap_or_else(|_| Err(RequestError::new(address, "connect", Cause::TimedOut)))
    }

    async fn open_unbounded(
        address: &str,
        settings: &Settings,
        timeout: Duration,
    ) -> Result<Self, RequestError> {
        let error = |cause| RequestError::new(address, "connect", cause);
        let permits = settings.restrictions.connections.iter().map(Arc::clone);
        let permits = permits
            .map(Semaphore::try_acquire_owned)
            .collect::<Result<_, _>>();
        let permits = permits.map_err(|_| error(Cause::TooManyConnections))?;
        let policy = settings.restrictions.addresses.as_deref();
        let socket = connect(address, settings.security.tls.as_ref(), policy)
            .await
            .map_err(error)?;
        let mut connection = Self {
            broker: address.to_owned(),
            socket,
            client_id: StrBytes::from_string(settings.client_id.clone()),
            max_response_bytes: settings.max_response_bytes,
            large_responses: settings.restrictions.large_responses.clone(),
            _permits: permits,
            versions: BTreeMap::from([(ApiKey::ApiVersions as i16, VersionRange { min: 0, max: 0 })]),
            correlation_id: 0,
            is_awaiting: false,
        };
        let supported = connection
            .request(&ApiVersionsRequest::default(), timeout)
            .await?;
        check_code(supported.error_code).map_err(error)?;
        let versions = supported.api_keys.into_iter().map(|api| {
            let (min, max) = (api.min_version, api.max_version);
            (api.api_key, VersionRange { min, max })
        });
        connection.versions = versions.collect();
        if let Some(sasl) = &settings.security.sasl {
            connection.log_in(sasl, timeout).await?;
        }
        Ok(connection)
    }

    /// Address of the broker.
    #[must_use]
    pub fn broker(&self) -> &str {
        &self.broker
    }

    /// Sends a request in the highest version that both sides support, and waits for its response.
    ///
    /// # Errors
    /// If the broker does not answer within `timeout`, or not with a response of this request.
    pub async fn request<R: ClientRequest>(
        &mut self,
        request: &R,
        timeout: Duration,
    ) -> Result<R::Response, RequestError> {
        let deadline = Instant::now() + timeout;
        let announced = self.send(request, timeout).await?;
        announced
            .receive(deadline.saturating_duration_since(Instant::now()))
            .await
    }

    /// Sends a request, and waits until its response begins. The caller may wait for memory before it receives the rest.
    ///
    /// # Errors
    /// As [`Self::request`], and if the response is larger than the limit.
    pub async fn send<R: ClientRequest>(
        &mut self,
        request: &R,
        timeout: Duration,
    ) -> Result<Announced<'_, R>, RequestError> {
        let sent = timeout_at(Instant::now() + timeout, self.send_unbounded(request)).await;
        match sent.unwrap_or(Err(Cause::TimedOut)) {
            Ok((bytes, version)) => Ok(Announced {
                connection: self,
                bytes,
                version,
                request: PhantomData,
            }),
            Err(cause) => Err(self.error::<R>(cause)),
        }
    }

    async fn send_unbounded<R: ClientRequest>(&mut self, request: &R) -> Result<(usize, i16), Cause> {
        let version = self.common_version::<R>()?;
        if std::mem::replace(&mut self.is_awaiting, true) {
            let unusable = "a former request of the connection was not answered";
            return Err(Cause::Connection(std::io::Error::other(unusable)));
        }
        self.correlation_id = self.correlation_id.wrapping_add(1);
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation_id)
            .with_client_id(Some(self.client_id.clone()));
        let message = encode(&header, request, version).map_err(Cause::malformed)?;
        self.socket.write_all(&message).await.map_err(Cause::from_io)?;
        self.socket.flush().await.map_err(Cause::from_io)?;
        let bytes = self.socket.read_u32().await.map_err(Cause::from_io)?;
        match usize::try_from(bytes) {
            Ok(size) if size <= self.max_response_bytes => Ok((size, version)),
            _ => Err(Cause::TooLarge {
                bytes,
                limit: self.max_response_bytes,
            }),
        }
    }

    async fn receive_unbounded<R: ClientRequest>(
        &mut self,
        bytes: usize,
        version: i16,
    ) -> Result<R::Response, Cause> {
        let limit = self
            .large_responses
            .clone()
            .filter(|_| bytes > LARGE_RESPONSE_BYTES);
        // The semaphore is never closed.
        let _permit = match limit {
            Some(limit) => limit.acquire_owned().await.ok(),
            None => None,
        };
        let mut buffer = vec![0; bytes];
        self.socket
            .read_exact(&mut buffer)
            .await
            .map_err(Cause::from_io)?;
        decode::<R>(buffer.into(), version, self.correlation_id)
    }

    /// Highest version of a request that both sides support.
    ///
    /// # Errors
    /// If there is none.
    pub fn version<R: ClientRequest>(&self) -> Result<i16, RequestError> {
        self.common_version::<R>().map_err(|cause| self.error::<R>(cause))
    }

    fn common_version<R: ClientRequest>(&self) -> Result<i16, Cause> {
        let VersionRange { min, max } = R::SUPPORTED;
        let supported = self.versions.get(&R::KEY);
        match supported.map(|range| range.intersect(&R::SUPPORTED)) {
            Some(common) if !common.is_empty() => Ok(common.max),
            _ => Err(Cause::UnsupportedVersion { min, max }),
        }
    }

    fn error<R: ClientRequest>(&self, cause: Cause) -> RequestError {
        let name = ApiKey::try_from(R::KEY).map_or_else(|()| R::KEY.to_string(), |key| format!("{key:?}"));
        RequestError::new(&self.broker, &name, cause)
    }

    /// Logs in with the mechanism of the settings.
    async fn log_in(&mut self, sasl: &Sasl, timeout: Duration) -> Result<(), RequestError> {
        let request =
            SaslHandshakeRequest::default().with_mechanism(StrBytes::from_string(sasl.mechanism.clone()));
        let offered = self.request(&request, timeout).await?;
        let refused = |cause: String| Cause::Authentication(cause);
        if let Some(code) = offered.error_code.err() {
            return Err(self.error::<SaslHandshakeRequest>(refused(format!("{}: {code}", sasl.mechanism))));
        }
        let hash = match sasl.mechanism.as_str() {
            "SCRAM-SHA-256" => Hash::Sha256,
            "SCRAM-SHA-512" => Hash::Sha512,
            _ => {
                let message = format!("\0{}\0{}", sasl.username, sasl.password);
                return self.authenticate(message, timeout).await.map(drop);
            }
        };
        let nonce = nonce().map_err(|cause| self.error::<SaslAuthenticateRequest>(refused(cause)))?;
        let scram = Scram::new(hash, &sasl.username, nonce);
        let challenge = self.authenticate(scram.client_first(), timeout).await?;
        let (last, expected) = scram
            .client_final(&sasl.password, &challenge)
            .map_err(|cause| self.error::<SaslAuthenticateRequest>(refused(cause)))?;
        let proof = self.authenticate(last, timeout).await?;
        if proof != expected.as_bytes() {
            let cause = refused("the broker does not prove that it has the credentials".to_owned());
            return Err(self.error::<SaslAuthenticateRequest>(cause));
        }
        Ok(())
    }

    /// Sends one message of a login, and returns the answer.
    async fn authenticate(&mut self, message: String, timeout: Duration) -> Result<Bytes, RequestError> {
        let request = SaslAuthenticateRequest::default().with_auth_bytes(message.into_bytes().into());
        let answer = self.request(&request, timeout).await?;
        match answer.error_code.err() {
            None => Ok(answer.auth_bytes),
            Some(code) => {
                let detail = answer
                    .error_message
                    .map_or_else(|| code.to_string(), |text| text.to_string());
                Err(self.error::<SaslAuthenticateRequest>(Cause::Authentication(detail)))
            }
        }
    }
}

impl<R: ClientRequest> Announced<'_, R> {
    /// Size of the response, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Receives the response. Its byte fields are slices of one buffer.
    ///
    /// # Errors
    /// If the broker does not send it within `timeout`, or it is not a response of the request.
    pub async fn receive(self, timeout: Duration) -> Result<R::Response, RequestError> {
        let (connection, bytes, version) = (self.connection, self.bytes, self.version);
        let received = connection.receive_unbounded::<R>(bytes, version);
        match timeout_at(Instant::now() + timeout, received).await {
            Ok(Ok(response)) => {
                connection.is_awaiting = false;
                Ok(response)
            }
            Ok(Err(cause)) => Err(connection.error::<R>(cause)),
            Err(_) => Err(connection.error::<R>(Cause::TimedOut)),
        }
    }
}

/// Encodes a request with its header and its length.
fn encode<R: ClientRequest>(header: &RequestHeader, request: &R, version: i16) -> Result<BytesMut, String> {
    let mut message = BytesMut::zeroed(4);
    header
        .encode(&mut message, R::header_version(version))
        .and_then(|()| request.encode(&mut message, version))
        .map_err(|error| error.to_string())?;
    let length = u32::try_from(message.len() - 4).map_err(|_| "the request is too large".to_owned())?;
    message[..4].copy_from_slice(&length.to_be_bytes());
    Ok(message)
}

/// Decodes the header and the body of a response.
fn decode<R: ClientRequest>(
    mut bytes: Bytes,
    version: i16,
    correlation_id: i32,
) -> Result<R::Response, Cause> {
    let header_version = R::Response::header_version(version);
    RESPONSE_HEADER
        .check(header_version, &bytes)
        .map_err(Cause::malformed)?;
    let header = ResponseHeader::decode(&mut bytes, header_version).map_err(Cause::malformed)?;
    if header.correlation_id != correlation_id {
        return Err(Cause::malformed("the answer to another request"));
    }
    R::RESPONSE.check(version, &bytes).map_err(Cause::malformed)?;
    R::Response::decode(&mut bytes, version).map_err(Cause::malformed)
}

/// Returns an error for a code other than 0.
fn check_code(code: i16) -> Result<(), Cause> {
    code.err().map_or(Ok(()), |error| Err(Cause::Broker(error)))
}

/// Random text for a login.
fn nonce() -> Result<String, String> {
    let mut random = [0; 18];
    let provider = rustls::crypto::ring::default_provider();
    let filled = provider.secure_random.fill(&mut random);
    filled.map_err(|_| "the system has no random numbers".to_owned())?;
    Ok(STANDARD_NO_PAD.encode(random))
}

#[cfg(test)]
mod tests;
