//! mod_ssl's variables that are worked out when somebody asks for one: of the agreed cipher, and of the
//! certificate that a client showed. Those that every log wants are with the
//! [exchange](crate::proxy::exchange).

use std::time::SystemTime;

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{
    accept::{Session, Shown},
    name, validity,
};
use crate::config;

const DAY: i64 = 86_400;

impl Session {
    /// The variable of a name, in any case; `None`: this connection has none, or nobody knows it.
    pub(crate) fn variable(&self, name: &str) -> Option<String> {
        let is_ours = |start: &str| start.eq_ignore_ascii_case("SSL_");
        if !name.get(..4).is_some_and(is_ours) {
            return None;
        }
        let upper = name.to_ascii_uppercase();
        let text = match upper.as_str() {
            "SSL_CIPHER_USEKEYSIZE" | "SSL_CIPHER_ALGKEYSIZE" => key_bits(self.cipher),
            "SSL_CIPHER_EXPORT" => "false",
            "SSL_COMPRESS_METHOD" => "NULL",
            "SSL_SESSION_RESUMED" if self.is_resumed => "Resumed",
            "SSL_SESSION_RESUMED" => "Initial",
            _ => return self.client.as_ref()?.variable(&upper, SystemTime::now()),
        };
        Some(text.to_owned())
    }
}

/// Every suite that there is has AES with 128 or 256 bits, or `ChaCha20` with 256.
fn key_bits(cipher: &str) -> &'static str {
    if cipher.contains("AES_128") || cipher.contains("AES128") {
        "128"
    } else {
        "256"
    }
}

impl Shown {
    /// The variable of a name in upper case, of the certificate that was shown.
    fn variable(&self, name: &str, now: SystemTime) -> Option<String> {
        let der = &self.certificate[..];
        if let Some((is_subject, kind, number)) = config::variables::part_of_name(name) {
            let of = if is_subject {
                validity::subject(der)
            } else {
                validity::issuer(der)
            };
            return name::value(of?, kind, number);
        }
        Some(match name {
            "SSL_CLIENT_CERT" => pem(der),
            "SSL_CLIENT_M_VERSION" => validity::version(der)?.to_string(),
            "SSL_CLIENT_V_START" => date(validity::of(der)?.from)?,
            "SSL_CLIENT_V_END" => date(validity::of(der)?.to)?,
            "SSL_CLIENT_V_REMAIN" => {
                let since = now.duration_since(SystemTime::UNIX_EPOCH).ok()?;
                let left = validity::of(der)?.to - since.as_secs().cast_signed();
                (left / DAY).max(0).to_string()
            }
            "SSL_CLIENT_S_DN" => self.subject.clone(),
            "SSL_CLIENT_I_DN" => self.issuer.clone(),
            "SSL_CLIENT_M_SERIAL" => self.serial.clone(),
            _ => return None,
        })
    }
}

/// RFC 7468, with 64 characters a line.
fn pem(der: &[u8]) -> String {
    let mut text = "-----BEGIN CERTIFICATE-----\n".to_owned();
    // 48 bytes are 64 characters, and no padding between.
    for line in der.chunks(48) {
        STANDARD.encode_string(line, &mut text);
        text.push('\n');
    }
    text.push_str("-----END CERTIFICATE-----\n");
    text
}

/// As OpenSSL prints it: `Nov  3 03:14:46 2026 GMT`.
fn date(seconds: i64) -> Option<String> {
    let stamp = jiff::Timestamp::from_second(seconds).ok()?;
    Some(stamp.strftime("%b %e %H:%M:%S %Y GMT").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_pem_of_64_characters_a_line() {
        let text = pem(&[0; 49]);
        let line = "A".repeat(64);
        assert_eq!(
            text,
            format!("-----BEGIN CERTIFICATE-----\n{line}\nAA==\n-----END CERTIFICATE-----\n")
        );
    }

    #[test]
    fn dates_are_openssls() {
        assert_eq!(date(0).as_deref(), Some("Jan  1 00:00:00 1970 GMT"));
        assert_eq!(
            date(1_795_403_686).as_deref(),
            Some("Nov 23 03:14:46 2026 GMT")
        );
    }

    #[test]
    fn every_name_that_configurations_may_use_has_a_value() {
        let shown = Shown {
            verify: "SUCCESS",
            subject: String::new(),
            common_name: None,
            issuer: String::new(),
            serial: String::new(),
            certificate: CERTIFICATE.into(),
        };
        for name in config::variables::OF_CLIENTS {
            assert!(shown.variable(name, SystemTime::now()).is_some(), "{name}");
        }
        assert_eq!(shown.variable("SSL_CLIENT_A_KEY", SystemTime::now()), None);
    }

    /// As much of one as is looked at: version 3, number 5, no names, valid in 2024.
    const CERTIFICATE: &[u8] = &[
        0x30, 0x2f, 0x30, 0x2d, 0xa0, 0x03, 0x02, 0x01, 0x02, 0x02, 0x01, 0x05, 0x30, 0x00, 0x30,
        0x00, 0x30, 0x1e, 0x17, 0x0d, b'2', b'4', b'0', b'1', b'0', b'1', b'0', b'0', b'0', b'0',
        b'0', b'0', b'Z', 0x17, 0x0d, b'2', b'5', b'0', b'1', b'0', b'1', b'0', b'0', b'0', b'0',
        b'0', b'0', b'Z', 0x30,
    ];
}
