//! Relay between sqlx and a PostgreSQL server: refuses the requests for a password that the server may not learn.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader, split};
use tokio::net::UnixStream;

/// Capacity of the buffer of each direction.
const BUFFER_BYTES: usize = 64 * 1024;
/// Maximum size of a message of the server during the login.
const LOGIN_MESSAGE_BYTES: usize = 64 * 1024;
/// Message for sqlx in place of a refused request, with SQLSTATE 28000 (invalid authorization).
const REFUSAL: &[u8] = b"SFATAL\0VFATAL\0C28000\0M\
    the server asks for the password in clear text or as an MD5 digest, and no certificate has proved its identity, \
    so it was not sent: set spec.warehouse.sslMode to verify-full, or let the server use scram-sha-256\0\0";

/// Copies in both directions until one of them ends. Both connections are closed then, as without a relay.
pub(super) async fn run(
    client: UnixStream,
    server: impl AsyncRead + AsyncWrite + Send + 'static,
    is_verified: bool,
) {
    let (client_reader, mut client_writer) = client.into_split();
    let (server_reader, server_writer) = split(server);
    let mut server_reader = BufReader::new(server_reader);
    let answers = async {
        if !is_verified {
            relay_login(&mut server_reader, &mut client_writer).await?;
        }
        forward(server_reader, client_writer).await
    };
    // An error of either connection is one for sqlx too, which finds its connection closed.
    tokio::select! {
        _ = forward(client_reader, server_writer) => {}
        _ = answers => {}
    }
}

/// Forwards bytes until the end. Flushes each part, because TLS keeps what its socket does not take at once.
async fn forward(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..length]).await?;
        to.flush().await?;
    }
}

/// Relays the messages of the server until it is ready for a query. In place of a request for the password itself, the
/// client receives an error, and the relay ends.
async fn relay_login(
    server: &mut (impl AsyncRead + Unpin),
    client: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    loop {
        let tag = server.read_u8().await?;
        let length = server.read_u32().await?;
        let size = usize::try_from(length).ok().and_then(|size| size.checked_sub(4));
        let size = size.filter(|size| *size <= LOGIN_MESSAGE_BYTES);
        let size = size.ok_or(io::ErrorKind::InvalidData)?;
        let mut body = vec![0; size];
        server.read_exact(&mut body).await?;
        if tag == b'R' && !is_harmless(&body) {
            write_message(client, b'E', REFUSAL).await?;
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        write_message(client, tag, &body).await?;
        if tag == b'Z' {
            return Ok(());
        }
    }
}

/// Returns true for an authentication message that sqlx answers without the password: success, or a step of SASL.
fn is_harmless(authentication: &[u8]) -> bool {
    let code = authentication
        .first_chunk()
        .map(|bytes| u32::from_be_bytes(*bytes));
    matches!(code, Some(0 | 10..=12))
}

async fn write_message(client: &mut (impl AsyncWrite + Unpin), tag: u8, body: &[u8]) -> io::Result<()> {
    let length = u32::try_from(body.len() + 4).map_err(io::Error::other)?;
    let mut message = Vec::with_capacity(body.len() + 5);
    message.push(tag);
    message.extend(length.to_be_bytes());
    message.extend(body);
    client.write_all(&message).await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Server messages, each as tag and body, and what the client receives of them.
    async fn relayed(messages: &[(u8, &[u8])]) -> (io::Result<()>, Vec<u8>) {
        let mut sent = Vec::new();
        for (tag, body) in messages {
            write_message(&mut sent, *tag, body).await.unwrap();
        }
        let mut received = Vec::new();
        let result = relay_login(&mut sent.as_slice(), &mut received).await;
        (result, received)
    }

    #[tokio::test]
    async fn only_a_request_for_the_password_itself_is_refused() {
        const READY: (u8, &[u8]) = (b'Z', b"I");
        let code = |code: u8| [0, 0, 0, code, 7, 7, 7, 7];
        for harmless in [0, 10, 11, 12] {
            let (result, received) = relayed(&[(b'N', b"notice"), (b'R', &code(harmless)), READY]).await;
            assert!(result.is_ok(), "{harmless}");
            assert!(received.ends_with(b"Z\0\0\0\x05I"), "{harmless}");
        }
        // Clear text, MD5, and methods that sqlx does not know. An earlier success must not open the way for them.
        for request in [2, 3, 5, 6, 7, 8, 9, 13, 255] {
            for earlier in [&[][..], &[(b'R', &code(0)[..4])], &[(b'R', &code(10)[..4])]] {
                let (result, received) = relayed(&[earlier, &[(b'R', &code(request)), READY]].concat()).await;
                let error = result.expect_err("refused");
                assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{request}");
                let text = String::from_utf8_lossy(&received);
                assert!(text.contains("C28000") && text.contains("verify-full"), "{text}");
                assert!(!text.contains('\u{7}'), "the request itself was relayed");
            }
        }
    }

    #[tokio::test]
    async fn what_a_connection_has_buffered_is_sent_before_more_is_awaited() {
        let (mut near, from) = tokio::io::duplex(64);
        let (to, mut far) = tokio::io::duplex(64);
        let forwarding = tokio::spawn(forward(from, tokio::io::BufWriter::new(to)));
        near.write_all(b"question").await.unwrap();
        let mut received = [0; 8];
        far.read_exact(&mut received).await.unwrap();
        assert_eq!(&received, b"question");
        drop(near);
        assert!(forwarding.await.unwrap().is_ok());
    }

    #[tokio::test]
    async fn a_malformed_or_huge_message_ends_the_relay() {
        for bytes in [&b"R\0\0\0\x03"[..], b"R\xff\xff\xff\xff", b"R\0\0\0\x08\0\0", b""] {
            let result = relay_login(&mut &bytes[..], &mut Vec::new()).await;
            assert!(result.is_err(), "{bytes:?}");
        }
        let (result, received) = relayed(&[(b'R', b"")]).await;
        assert!(result.is_err() && received.starts_with(b"E"));
    }
}
