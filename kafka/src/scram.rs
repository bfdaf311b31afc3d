//! SCRAM (RFC 5802, RFC 7677) as Kafka uses it: without channel binding, and without `SASLprep`. Pure.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::Hmac;
use sha2::{Digest as _, Sha256, Sha512};

/// Iterations of the password's hash: fewer than Kafka's minimum are refused, because they would make it easy to guess,
/// and more than the maximum, because they would occupy the client.
const ITERATIONS: std::ops::RangeInclusive<u32> = 4096..=1_000_000;

/// Hash function of the mechanism.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hash {
    /// `SCRAM-SHA-256`.
    Sha256,
    /// `SCRAM-SHA-512`.
    Sha512,
}

/// A login in progress: the client has sent its first message.
pub(crate) struct Scram {
    hash: Hash,
    nonce: String,
    first_bare: String,
}

impl Scram {
    /// Begins a login; `nonce` is random text without a comma.
    pub(crate) fn new(hash: Hash, username: &str, nonce: String) -> Self {
        let name = username.replace('=', "=3D").replace(',', "=2C");
        let first_bare = format!("n={name},r={nonce}");
        Self {
            hash,
            nonce,
            first_bare,
        }
    }

    /// First message of the client.
    pub(crate) fn client_first(&self) -> String {
        format!("n,,{}", self.first_bare)
    }

    /// Returns the final message of the client, and the final message that the server must send.
    ///
    /// # Errors
    /// If the message of the server is malformed, is not an answer to this client, or has unsafe parameters.
    pub(crate) fn client_final(
        &self,
        password: &str,
        server_first: &[u8],
    ) -> Result<(String, String), String> {
        let server_first =
            std::str::from_utf8(server_first).map_err(|_| "the challenge is not UTF-8".to_owned())?;
        let attribute = |name: &str| {
            let mut attributes = server_first.split(',');
            let value = attributes.find_map(|attribute| attribute.strip_prefix(name)?.strip_prefix('='));
            value.ok_or_else(|| format!("the challenge has no attribute {name}"))
        };
        let nonce = attribute("r")?;
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() {
            return Err("the challenge is not an answer to this login".to_owned());
        }
        let salt = STANDARD
            .decode(attribute("s")?)
            .map_err(|_| "the salt of the challenge is not base64".to_owned())?;
        let iterations: u32 = attribute("i")?.parse().unwrap_or(0);
        if !ITERATIONS.contains(&iterations) {
            return Err(format!(
                "{iterations} iterations, the client accepts {ITERATIONS:?}"
            ));
        }
        let final_without_proof = format!("c=biws,r={nonce}");
        let signed = format!("{},{server_first},{final_without_proof}", self.first_bare);
        let salted = self.salted_password(password.as_bytes(), &salt, iterations);
        let client_key = self.hmac(&salted, &[b"Client Key"]);
        let signature = self.hmac(&self.digest(&client_key), &[signed.as_bytes()]);
        let proof: Vec<u8> = client_key.iter().zip(&signature).map(|(a, b)| a ^ b).collect();
        let server_signature = self.hmac(&self.hmac(&salted, &[b"Server Key"]), &[signed.as_bytes()]);
        Ok((
            format!("{final_without_proof},p={}", STANDARD.encode(proof)),
            format!("v={}", STANDARD.encode(server_signature)),
        ))
    }

    /// PBKDF2 with one block.
    fn salted_password(&self, password: &[u8], salt: &[u8], iterations: u32) -> Vec<u8> {
        let mut block = self.hmac(password, &[salt, &1_u32.to_be_bytes()]);
        let mut salted = block.clone();
        for _ in 1..iterations {
            block = self.hmac(password, &[&block]);
            salted.iter_mut().zip(&block).for_each(|(a, b)| *a ^= b);
        }
        salted
    }

    fn hmac(&self, key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
        match self.hash {
            Hash::Sha256 => hmac::<Hmac<Sha256>>(key, parts),
            Hash::Sha512 => hmac::<Hmac<Sha512>>(key, parts),
        }
    }

    fn digest(&self, bytes: &[u8]) -> Vec<u8> {
        match self.hash {
            Hash::Sha256 => Sha256::digest(bytes).to_vec(),
            Hash::Sha512 => Sha512::digest(bytes).to_vec(),
        }
    }
}

fn hmac<M: hmac::Mac + hmac::KeyInit>(key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    // HMAC accepts a key of any length.
    let Ok(mut mac) = M::new_from_slice(key) else {
        return Vec::new();
    };
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_7677_is_reproduced() {
        let scram = Scram::new(Hash::Sha256, "user", "rOprNGfwEbeRWgbNEkqO".to_owned());
        assert_eq!(scram.client_first(), "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let challenge =
            b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let (last, proof) = scram
            .client_final("pencil", challenge)
            .expect("a valid challenge");
        assert_eq!(
            last,
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        assert_eq!(proof, "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    }

    #[test]
    fn a_challenge_that_is_not_an_answer_or_is_unsafe_is_refused() {
        let scram = Scram::new(Hash::Sha512, "a=b,c", "nonce".to_owned());
        assert_eq!(scram.client_first(), "n,,n=a=3Db=2Cc,r=nonce");
        for (challenge, cause) in [
            ("", "no attribute r"),
            ("r=nonce,s=QUFB,i=4096", "not an answer"),
            ("r=other1,s=QUFB,i=4096", "not an answer"),
            ("r=nonce1,s=?,i=4096", "not base64"),
            ("r=nonce1,s=QUFB,i=1", "iterations"),
            ("r=nonce1,s=QUFB,i=4000000000", "iterations"),
            ("r=nonce1,s=QUFB,i=x", "iterations"),
            ("\u{fffd}", "no attribute r"),
        ] {
            let error = scram
                .client_final("p", challenge.as_bytes())
                .expect_err(challenge);
            assert!(error.contains(cause), "{challenge}: {error}");
        }
        assert!(scram.client_final("p", b"\xff").is_err());
        assert!(scram.client_final("p", b"r=nonce1,s=QUFB,i=4096").is_ok());
    }
}
