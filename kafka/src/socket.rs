//! The socket of a connection: TCP, with TLS if the settings demand it.

use std::net::IpAddr;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio_rustls::TlsConnector;

use crate::error::Cause;
use crate::security::{Pem, Tls};

/// Port of an address without one.
const DEFAULT_PORT: u16 = 9092;

/// Bytes to and from a broker.
pub(crate) trait Socket: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Socket for T {}

/// Decides which addresses a client connects to: those of its settings, and those that a broker names.
pub trait AddressPolicy: Send + Sync {
    /// Name to resolve for a host; `None` if the host is not allowed.
    fn lookup_name(&self, host: &str, port: u16) -> Option<String>;
    /// Returns true if the client may connect to an address that the host resolves to.
    fn allows(&self, host: &str, port: u16, address: IpAddr) -> bool;
}

/// Connects to `host:port`.
pub(crate) async fn connect(
    address: &str,
    tls: Option<&Tls>,
    policy: Option<&dyn AddressPolicy>,
) -> Result<Box<dyn Socket>, Cause> {
    let (host, port) = split_address(address);
    let stream = connect_tcp(host, port, policy).await?;
    stream.set_nodelay(true)?;
    let Some(tls) = tls else {
        return Ok(Box::new(stream));
    };
    let name = ServerName::try_from(host.to_owned()).map_err(|error| Cause::Tls(error.to_string()))?;
    let connector = TlsConnector::from(Arc::new(client_config(tls)?));
    let stream = connector.connect(name, stream).await.map_err(Cause::from_io)?;
    Ok(Box::new(stream))
}

/// Connects to the first address of the host that is allowed and answers.
async fn connect_tcp(host: &str, port: u16, policy: Option<&dyn AddressPolicy>) -> Result<TcpStream, Cause> {
    let Some(policy) = policy else {
        return Ok(TcpStream::connect((host, port)).await?);
    };
    let name = policy.lookup_name(host, port).ok_or(Cause::AddressNotAllowed)?;
    let mut last = Cause::AddressNotAllowed;
    for address in lookup_host((name.as_str(), port)).await? {
        if !policy.allows(host, port, address.ip()) {
            continue;
        }
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error.into(),
        }
    }
    Err(last)
}

/// Host and port of `host:port`; an IPv6 address is in brackets.
fn split_address(address: &str) -> (&str, u16) {
    let (host, port) = match address.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().unwrap_or(DEFAULT_PORT)),
        _ => (address, DEFAULT_PORT),
    };
    (host.trim_start_matches('[').trim_end_matches(']'), port)
}

fn client_config(tls: &Tls) -> Result<ClientConfig, Cause> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(tls_error)?
        .with_root_certificates(authorities(tls.ca_certificates.as_ref())?);
    let Some((certificate, key)) = &tls.client else {
        return Ok(builder.with_no_client_auth());
    };
    let key = match key {
        Pem::File(path) => PrivateKeyDer::from_pem_file(path),
        Pem::Text(text) => PrivateKeyDer::from_pem_slice(text.as_bytes()),
    };
    let key = key.map_err(|error| Cause::Tls(format!("tls.key: {error}")))?;
    builder
        .with_client_auth_cert(certificates("tls.crt", certificate)?, key)
        .map_err(tls_error)
}

/// The given authorities, or those of the system.
fn authorities(ca_certificates: Option<&Pem>) -> Result<RootCertStore, Cause> {
    let mut roots = RootCertStore::empty();
    match ca_certificates {
        None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
        Some(pem) => {
            for certificate in certificates("ca.crt", pem)? {
                roots.add(certificate).map_err(tls_error)?;
            }
        }
    }
    Ok(roots)
}

fn certificates(key: &str, pem: &Pem) -> Result<Vec<CertificateDer<'static>>, Cause> {
    let parsed = match pem {
        Pem::File(path) => {
            CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>)
        }
        Pem::Text(text) => CertificateDer::pem_slice_iter(text.as_bytes()).collect(),
    };
    let parsed = parsed.map_err(|error| Cause::Tls(format!("{key}: {error}")))?;
    if parsed.is_empty() {
        return Err(Cause::Tls(format!("{key} has no certificate")));
    }
    Ok(parsed)
}

#[expect(clippy::needless_pass_by_value, reason = "an argument of map_err")]
fn tls_error(error: rustls::Error) -> Cause {
    Cause::Tls(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_host_and_a_port() {
        for (address, expected) in [
            ("kafka:29092", ("kafka", 29092)),
            ("kafka", ("kafka", 9092)),
            ("[::1]:9093", ("::1", 9093)),
            ("[::1]", ("::1", 9092)),
        ] {
            assert_eq!(split_address(address), expected);
        }
    }

    #[test]
    fn a_document_without_a_certificate_is_an_error_that_names_its_key() {
        for text in ["", "-----BEGIN CERTIFICATE-----\n?", "secret"] {
            let tls = Tls {
                ca_certificates: Some(Pem::Text(text.to_owned())),
                client: None,
            };
            let error = client_config(&tls).expect_err(text).to_string();
            assert!(
                error.starts_with("ca.crt") && !error.contains("secret"),
                "{error}"
            );
        }
        let missing = Tls {
            ca_certificates: Some(Pem::File("/missing".into())),
            client: None,
        };
        assert!(client_config(&missing).is_err());
        assert!(client_config(&Tls::default()).is_ok());
    }
}
