//! Fake servers that ask for the password: it reaches none of them, unless its certificate is verified or the Secret
//! permits it. They record everything that they receive.

use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result, ensure};
use e2e::pipeline::find_worker_binary;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

const PASSWORD: &str = "open-sesame-9";
const CLEAR_TEXT: &[u8] = b"R\0\0\0\x08\0\0\0\x03";
const MD5: &[u8] = b"R\0\0\0\x0c\0\0\0\x05salt";
/// A success, before the server asks nevertheless.
const SUCCESS_THEN_CLEAR_TEXT: &[u8] = b"R\0\0\0\x08\0\0\0\0R\0\0\0\x08\0\0\0\x03";
const ANSWERS: [&[u8]; 3] = [CLEAR_TEXT, MD5, SUCCESS_THEN_CLEAR_TEXT];

/// A server that only pretends to be one, and what its clients have sent.
struct FakeServer {
    port: u16,
    received: Arc<Mutex<Vec<u8>>>,
}

impl FakeServer {
    /// Answers the login of each client of PostgreSQL's protocol with `answer`, within TLS if there is an acceptor.
    async fn postgres(answer: &'static [u8], tls: Option<TlsAcceptor>) -> Result<Self> {
        let (listener, server) = Self::bind().await?;
        let received = Arc::clone(&server.received);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (tls, received) = (tls.clone(), Arc::clone(&received));
                tokio::spawn(async move { serve_postgres(socket, answer, tls, &received).await });
            }
        });
        Ok(server)
    }

    /// Records what its clients send, and answers each packet with `answer`.
    async fn other(answer: &'static [u8]) -> Result<Self> {
        let (listener, server) = Self::bind().await?;
        let received = Arc::clone(&server.received);
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let received = Arc::clone(&received);
                tokio::spawn(async move { record(&mut socket, answer, &received).await });
            }
        });
        Ok(server)
    }

    async fn bind() -> Result<(TcpListener, Self)> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let received = Arc::default();
        Ok((listener, Self { port, received }))
    }

    fn received(&self) -> Vec<u8> {
        self.received.lock().expect("not poisoned").clone()
    }

    /// Whether a client has sent a message with the password, or of the kind in which PostgreSQL's clients send it.
    fn has_password(&self) -> bool {
        let received = self.received();
        let contains = |part: &[u8]| received.windows(part.len()).any(|window| window == part);
        contains(PASSWORD.as_bytes()) || contains(b"md5")
    }
}

async fn serve_postgres(
    mut socket: TcpStream,
    answer: &[u8],
    tls: Option<TlsAcceptor>,
    received: &Mutex<Vec<u8>>,
) -> Result<()> {
    let mut request = [0; 8];
    socket.peek(&mut request).await?;
    let asks_for_tls = request == [0, 0, 0, 8, 4, 210, 22, 47];
    if asks_for_tls {
        socket.read_exact(&mut request).await?;
        socket.write_all(if tls.is_some() { b"S" } else { b"N" }).await?;
    }
    match tls.filter(|_| asks_for_tls) {
        Some(tls) => record(&mut tls.accept(socket).await?, answer, received).await,
        None => record(&mut socket, answer, received).await,
    }
}

async fn record(
    socket: &mut (impl AsyncRead + AsyncWrite + Unpin),
    answer: &[u8],
    received: &Mutex<Vec<u8>>,
) -> Result<()> {
    let mut packet = vec![0; 65536];
    loop {
        let length = socket.read(&mut packet).await?;
        ensure!(length > 0, "closed");
        received.lock().expect("not poisoned").extend(&packet[..length]);
        socket.write_all(answer).await?;
    }
}

/// Creates the authorities `ca` and `other`, and a certificate for another host than 127.0.0.1, signed by `ca`.
fn create_certificates(folder: &Path) -> Result<TlsAcceptor> {
    std::fs::write(folder.join("names"), "subjectAltName=DNS:elsewhere.example.com\n")?;
    for line in [
        "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -days 2 -subj /CN=authority",
        "req -x509 -newkey rsa:2048 -nodes -keyout other.key -out other.crt -days 2 -subj /CN=other",
        "req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=elsewhere",
        "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile names -out server.crt",
    ] {
        let output = Command::new("openssl")
            .args(line.split(' '))
            .current_dir(folder)
            .output()?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "openssl {line}: {errors}");
    }
    let chain = CertificateDer::pem_file_iter(folder.join("server.crt"))?.collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_file(folder.join("server.key"))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Writes a stage file whose warehouse and Redis are on this machine, and Secrets with the password and more keys.
fn write_stage(folder: &Path, warehouse: &str, redis: u16, keys: &[(&str, &str, &str)]) -> Result<()> {
    let stage = format!(
        "apiVersion: streamstage.dev/v1alpha1
kind: StreamStage
metadata: {{name: stg, namespace: passwords}}
spec:
  layer: stg
  source: {{bootstrapServers: ['127.0.0.1:{redis}'], topic: orders, authSecretName: source}}
  referenceData: {{url: 'redis://127.0.0.1:{redis}/0', authSecretName: redis}}
  warehouse: {{database: orders, authSecretName: postgres, {warehouse}}}
  output: {{topic: enriched}}
"
    );
    std::fs::write(folder.join("stage.yaml"), stage)?;
    let common = ["source", "redis", "postgres"].into_iter();
    let common = common.flat_map(|secret| [(secret, "username", "orders"), (secret, "password", PASSWORD)]);
    std::fs::remove_dir_all(folder.join("secrets")).ok();
    for (secret, key, value) in common.chain(keys.iter().copied()) {
        std::fs::create_dir_all(folder.join("secrets").join(secret))?;
        std::fs::write(folder.join("secrets").join(secret).join(key), value)?;
    }
    Ok(())
}

/// Runs a command that cannot succeed, and returns its output.
async fn run_worker(command: &str, folder: &Path) -> Result<String> {
    let (command, folder) = (command.to_owned(), folder.to_owned());
    let output = tokio::task::spawn_blocking(move || {
        Command::new(find_worker_binary()?)
            .arg(command)
            .args(["--file", "stage.yaml", "--secrets-dir", "secrets"])
            .current_dir(folder)
            .output()
            .context("cannot run the worker")
    })
    .await??;
    ensure!(!output.status.success(), "the command succeeded");
    let text = [output.stdout, output.stderr].concat();
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unverified_postgresql_server_receives_no_password() -> Result<()> {
    const REFUSED: &str = "no certificate has proved its identity";
    let folder = tempfile::tempdir()?;
    let tls = create_certificates(folder.path())?;
    for (mode, with_tls, expected) in [
        ("sslMode: disable", false, REFUSED),
        ("sslMode: prefer", false, REFUSED),
        ("sslMode: prefer", true, REFUSED),
        ("sslMode: require", true, REFUSED),
        ("sslMode: require", false, "does not support TLS"),
        ("sslMode: verify-ca", true, "certificate"),
        ("sslMode: verify-full", true, "certificate"),
        ("sslMode: verify-full", false, "does not support TLS"),
        // The default.
        ("port: 5432", true, "certificate"),
        ("port: 5432", false, "does not support TLS"),
    ] {
        for answer in ANSWERS {
            let tls = with_tls.then(|| tls.clone());
            // The first of two hosts has no server, as after a failover.
            let server = FakeServer::postgres(answer, tls).await?;
            let warehouse = format!("host: '127.0.0.1:1,127.0.0.1:{}', {mode}", server.port);
            let authority = std::fs::read_to_string(folder.path().join("other.crt"))?;
            write_stage(
                folder.path(),
                &warehouse,
                1,
                &[("postgres", "ca.crt", &authority)],
            )?;
            let output = run_worker("migrate", folder.path()).await?;
            let case = format!("{mode}, TLS {with_tls}, {answer:?}: {output}");
            ensure!(!server.has_password(), "the password was sent: {case}");
            ensure!(output.contains(expected), "{case}");
            let knows_login = server.received().windows(6).any(|window| window == b"orders");
            ensure!(knows_login == (expected == REFUSED), "{case}");
            ensure!(!output.contains(PASSWORD), "the password is in the log: {case}");
        }
    }
    // A server whose certificate is verified may ask as it likes: this server would have noticed the password.
    let server = FakeServer::postgres(CLEAR_TEXT, Some(tls)).await?;
    let warehouse = format!("host: '127.0.0.1:{}', sslMode: verify-ca", server.port);
    write_stage(folder.path(), &warehouse, 1, &[])?;
    let output = run_worker("migrate", folder.path()).await?;
    ensure!(output.contains("ca.crt is missing"), "{output}");
    let authority = std::fs::read_to_string(folder.path().join("ca.crt"))?;
    write_stage(
        folder.path(),
        &warehouse,
        1,
        &[("postgres", "ca.crt", &authority)],
    )?;
    let output = run_worker("migrate", folder.path()).await?;
    ensure!(server.has_password(), "{output}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_and_redis_receive_no_password_without_tls_unless_the_secret_permits_it() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let plaintext = ("source", "security.protocol", "SASL_PLAINTEXT");
    for (keys, is_permitted) in [
        (&[plaintext][..], false),
        (&[plaintext, ("redis", "allow.plaintext", "yes")], false),
        (&[plaintext, ("redis", "allow.plaintext", "true")], true),
    ] {
        let server = FakeServer::other(b"+OK\r\n").await?;
        let warehouse = "host: '127.0.0.1:1', sslMode: disable";
        write_stage(folder.path(), warehouse, server.port, keys)?;
        let output = run_worker("check", folder.path()).await?;
        ensure!(server.has_password() == is_permitted, "{keys:?}: {output}");
        for (field, is_refused) in [("source", true), ("referenceData", !is_permitted)] {
            let refusal =
                format!("spec.{field}.authSecretName: the key password would be sent in clear text");
            ensure!(output.contains(&refusal) == is_refused, "{refusal}: {output}");
        }
    }
    Ok(())
}
