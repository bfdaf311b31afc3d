//! TLS connection to a PostgreSQL server for the modes that do not verify the name of the host.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crds::stage::SslMode;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// PEM files of the Secret, by path.
#[derive(Clone, Debug, Default)]
pub struct TlsFiles {
    /// `ca.crt`: certificates of the trusted authorities.
    pub ca_certificate: Option<PathBuf>,
    /// `tls.crt` and `tls.key`: certificate of the client and its key.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// Begins TLS on a socket whose server has agreed to it.
///
/// # Errors
/// If a file is not PEM, or the server does not prove what the mode demands.
pub(super) async fn handshake(
    socket: TcpStream,
    host: &str,
    mode: SslMode,
    files: &TlsFiles,
) -> Result<TlsStream<TcpStream>, sqlx::Error> {
    let config = client_config(mode, files)?;
    let name = ServerName::try_from(host.to_owned()).map_err(|error| sqlx::Error::Tls(error.into()))?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, socket).await;
    // The error of a handshake is an I/O error around that of rustls; one of the socket itself stays what it is.
    stream.map_err(|error| match error.downcast::<Error>() {
        Ok(error) => sqlx::Error::Tls(error.into()),
        Err(error) => sqlx::Error::Io(error),
    })
}

fn client_config(mode: SslMode, files: &TlsFiles) -> Result<ClientConfig, sqlx::Error> {
    let tls = |error: Error| sqlx::Error::Tls(error.into());
    let provider = Arc::new(ring::default_provider());
    let authority = match (&files.ca_certificate, mode) {
        (Some(file), SslMode::VerifyCa) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(file)? {
                roots.add(certificate).map_err(tls)?;
            }
            let verifier =
                WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
            Some(verifier.build().map_err(|error| sqlx::Error::Tls(error.into()))?)
        }
        // Without a file, the system's authorities would be trusted, which sign a certificate for anyone.
        (None, SslMode::VerifyCa) => return Err(sqlx::Error::Tls("verify-ca needs the key ca.crt".into())),
        _ => None,
    };
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(tls)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyName { authority, provider }));
    let Some((certificate, key)) = &files.client else {
        return Ok(config.with_no_client_auth());
    };
    let key = PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable(key, error))?;
    config
        .with_client_auth_cert(certificates(certificate)?, key)
        .map_err(tls)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, sqlx::Error> {
    let certificates = CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
    certificates.map_err(|error| unreadable(file, error))
}

fn unreadable(file: &Path, error: impl std::fmt::Display) -> sqlx::Error {
    sqlx::Error::Tls(format!("{}: {error}", file.display()).into())
}

/// Accepts a certificate for any name: one of the authority, or any one without an authority.
#[derive(Debug)]
struct AnyName {
    authority: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(authority) = &self.authority else {
            return Ok(ServerCertVerified::assertion());
        };
        let verified = authority.verify_server_cert(certificate, intermediates, name, ocsp_response, now);
        match verified {
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
