#![expect(clippy::disallowed_types, reason = "edge: connects to a PostgreSQL server")]
//! Connection to one host of a warehouse: the password reaches only a server whose certificate was verified.
//!
//! sqlx answers whatever a server asks for, also with the password in clear text, and has no setting against it. Unless
//! sqlx verifies the certificate itself (`verify-full`), its connection therefore passes through `relay`, which refuses
//! such a request. SCRAM, which proves the password without sending it, works with every mode.

use std::hash::{BuildHasher as _, RandomState};

use crds::stage::SslMode;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{ConnectOptions as _, PgConnection};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixListener};

mod relay;
mod tls;

pub use tls::TlsFiles;

/// `SSLRequest` of PostgreSQL's protocol: its length, and a number in place of a protocol version.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// A host of a warehouse, with everything that a connection to it needs.
#[derive(Clone, Debug)]
pub struct PostgresHost {
    options: PgConnectOptions,
    mode: SslMode,
    files: TlsFiles,
}

impl PostgresHost {
    /// `options` have the address, the login and the database; the settings of TLS are added here.
    #[must_use]
    pub fn new(options: PgConnectOptions, mode: SslMode, files: TlsFiles) -> Self {
        let mut options = options.ssl_mode(match mode {
            SslMode::VerifyFull => PgSslMode::VerifyFull,
            // The relay has the TLS connection, if there is one.
            _ => PgSslMode::Disable,
        });
        if let Some(file) = &files.ca_certificate {
            options = options.ssl_root_cert(file);
        }
        if let Some((certificate, key)) = &files.client {
            options = options.ssl_client_cert(certificate).ssl_client_key(key);
        }
        Self { options, mode, files }
    }

    /// Name of the host and its port, for messages.
    #[must_use]
    pub fn address(&self) -> String {
        format!("{}:{}", self.options.get_host(), self.options.get_port())
    }

    /// Connects and logs in.
    ///
    /// # Errors
    /// If the server is unavailable, its certificate is not accepted, or the login fails. SQLSTATE 28000 if an unverified
    /// server asks for the password itself.
    pub async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        let host = self.options.get_host();
        // A socket file is on this machine.
        if self.mode == SslMode::VerifyFull || host.starts_with('/') {
            return self.options.connect().await;
        }
        let mut socket = TcpStream::connect((host, self.options.get_port())).await?;
        socket.set_nodelay(true)?;
        if self.mode == SslMode::Disable {
            return self.connect_through_relay(socket).await;
        }
        socket.write_all(&SSL_REQUEST).await?;
        match socket.read_u8().await? {
            b'S' => {
                let server = tls::handshake(socket, host, self.mode, &self.files).await?;
                self.connect_through_relay(server).await
            }
            b'N' if self.mode == SslMode::Prefer => self.connect_through_relay(socket).await,
            b'N' => Err(sqlx::Error::Tls("the server does not support TLS".into())),
            _ => Err(sqlx::Error::Protocol(
                "the answer to the TLS request is not PostgreSQL's".to_owned(),
            )),
        }
    }

    /// Connects sqlx to `server` through a relay in this process. The relay ends with either connection.
    async fn connect_through_relay(
        &self,
        server: impl AsyncRead + AsyncWrite + Send + 'static,
    ) -> Result<PgConnection, sqlx::Error> {
        // A leading zero byte makes it an abstract socket, which needs no file and vanishes with its last user.
        let name = format!(
            "\0streamstage-{:016x}",
            RandomState::new().hash_one(std::process::id())
        );
        let options = self.options.clone().socket(&name);
        let listener = UnixListener::bind(format!("{name}/.s.PGSQL.{}", options.get_port()))?;
        let is_verified = self.mode == SslMode::VerifyCa;
        let relaying = async {
            let (client, _) = listener.accept().await?;
            tokio::spawn(relay::run(client, server, is_verified));
            Ok::<_, sqlx::Error>(())
        };
        let (connection, ()) = tokio::try_join!(options.connect(), relaying)?;
        Ok(connection)
    }
}
