//! Signatures of Standard Webhooks: HMAC-SHA-256 of id, time and body, one for each secret, so that a receiver needs
//! only one of them.
//!
//! ```text
//! webhook-signature: v1,<base64 of hmac(secret, "<webhook-id>.<webhook-timestamp>.<body>")> v1,…
//! ```
//! In: secrets as people have them, `whsec_` and base64; what is sent. Out: the header. It does not know where secrets
//! are kept.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;

use crate::limits::{WEBHOOK_SECRET_BYTES_MAX, WEBHOOK_SECRET_BYTES_MIN};

const PREFIX: &str = "whsec_";
const SECRET_BYTES: usize = 32;

/// A secret, which is printed only for the client that it was made for.
#[derive(Clone)]
pub struct Secret(Vec<u8>);

impl Secret {
    pub fn generate() -> Self {
        let bytes: [u8; SECRET_BYTES] = rand::random();
        Self(bytes.to_vec())
    }

    /// `None` if the text is not a secret of 24 to 64 bytes.
    pub fn parse(text: &str) -> Option<Self> {
        STANDARD.decode(text.strip_prefix(PREFIX)?).ok().and_then(Self::of)
    }

    pub fn of(bytes: Vec<u8>) -> Option<Self> {
        (WEBHOOK_SECRET_BYTES_MIN..=WEBHOOK_SECRET_BYTES_MAX).contains(&bytes.len()).then_some(Self(bytes))
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The text that receivers are given.
    pub fn text(&self) -> String {
        format!("{PREFIX}{}", STANDARD.encode(&self.0))
    }

    fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        let mut signing = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &self.0));
        signing.update(format!("{id}.{timestamp}.").as_bytes());
        signing.update(body);
        format!("v1,{}", STANDARD.encode(signing.sign()))
    }
}

/// The header `webhook-signature`.
pub fn signature(secrets: &[Secret], id: &str, timestamp: i64, body: &[u8]) -> String {
    let signed: Vec<String> = secrets.iter().map(|secret| secret.sign(id, timestamp, body)).collect();
    signed.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// These vectors are from the test suites of Standard Webhooks' own libraries.
    #[test]
    fn the_published_vectors_hold() {
        let check = |secret: &str, id: &str, timestamp: i64, body: &str, expected: &str| {
            let secret = Secret::parse(secret).expect("a secret");
            assert_eq!(signature(&[secret], id, timestamp, body.as_bytes()), expected);
        };
        check(
            "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
            "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
            1_649_367_553,
            r#"{"email":"test@example.com","username":"test_user"}"#,
            "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=",
        );
        check(
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            r#"{"test": 2432232314}"#,
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
        );
    }

    #[test]
    fn each_secret_signs() {
        let [old, new] = [Secret::generate(), Secret::generate()];
        let both = signature(&[new.clone(), old.clone()], "id", 7, b"{}");
        assert_eq!(both, format!("{} {}", new.sign("id", 7, b"{}"), old.sign("id", 7, b"{}")));
        assert_ne!(new.sign("id", 7, b"{}"), new.sign("id", 8, b"{}"));
    }

    #[test]
    fn a_secret_has_its_prefix_and_its_length() {
        let text = Secret::generate().text();
        assert_eq!(Secret::parse(&text).map(|secret| secret.text()), Some(text.clone()));
        let encoded = |bytes: usize| format!("{PREFIX}{}", STANDARD.encode(vec![1; bytes]));
        for good in [encoded(24), encoded(64)] {
            assert!(Secret::parse(&good).is_some(), "{good}");
        }
        for bad in ["", "whsec_", "whsec_!", &text[PREFIX.len()..], &encoded(23), &encoded(65)] {
            assert!(Secret::parse(bad).is_none(), "{bad}");
        }
    }
}
