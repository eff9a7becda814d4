//! OpenSSL's cipher lists (ciphers(1)), carried out over the suites that sluice has. Pure.

use crate::config::spec::CipherSuite;

/// Every suite, in the order of preference where no list gives another: strong first, then fast.
pub(crate) const MODERN: [CipherSuite; 3] = [
    CipherSuite::Tls13Aes256,
    CipherSuite::Tls13Aes128,
    CipherSuite::Tls13Chacha20,
];

/// Those of TLS 1.2.
pub(crate) const CLASSIC: [CipherSuite; 6] = [
    CipherSuite::EcdsaAes256,
    CipherSuite::RsaAes256,
    CipherSuite::EcdsaAes128,
    CipherSuite::RsaAes128,
    CipherSuite::EcdsaChacha20,
    CipherSuite::RsaChacha20,
];

/// What a list comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Chosen {
    /// In order of preference.
    pub(crate) suites: Vec<CipherSuite>,
    /// Words that ask for suites and match none.
    pub(crate) absent: Vec<String>,
}

/// OpenSSL's name.
const fn name(suite: CipherSuite) -> &'static str {
    match suite {
        CipherSuite::Tls13Aes256 => "TLS_AES_256_GCM_SHA384",
        CipherSuite::Tls13Aes128 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::Tls13Chacha20 => "TLS_CHACHA20_POLY1305_SHA256",
        CipherSuite::EcdsaAes256 => "ECDHE-ECDSA-AES256-GCM-SHA384",
        CipherSuite::EcdsaAes128 => "ECDHE-ECDSA-AES128-GCM-SHA256",
        CipherSuite::EcdsaChacha20 => "ECDHE-ECDSA-CHACHA20-POLY1305",
        CipherSuite::RsaAes256 => "ECDHE-RSA-AES256-GCM-SHA384",
        CipherSuite::RsaAes128 => "ECDHE-RSA-AES128-GCM-SHA256",
        CipherSuite::RsaChacha20 => "ECDHE-RSA-CHACHA20-POLY1305",
    }
}

/// Whether a word of the list, or one part of `A+B`, is for the suite.
fn matches(word: &str, suite: CipherSuite) -> bool {
    let own = name(suite);
    let has = |part: &str| own.split('-').any(|own| own == part);
    match word {
        "ALL" | "DEFAULT" | "HIGH" | "TLSv1.2" | "ECDHE" | "EECDH" | "kECDHE" | "kEECDH" => true,
        "FIPS" | "AES" | "AESGCM" => has("GCM"),
        "AES128" | "AES256" => has(word),
        "CHACHA20" => has("CHACHA20"),
        "aRSA" => has("RSA"),
        "aECDSA" | "ECDSA" => has("ECDSA"),
        _ => word == own,
    }
}

/// `SSLCipherSuite TLSv1.3 LIST`: names, in order.
pub(crate) fn modern(list: &str) -> Chosen {
    let mut chosen = Chosen::default();
    for word in words(list) {
        match MODERN.into_iter().find(|suite| name(*suite) == word) {
            Some(suite) if chosen.suites.contains(&suite) => {}
            Some(suite) => chosen.suites.push(suite),
            None => chosen.absent.push(word.to_owned()),
        }
    }
    chosen
}

/// A list for TLS 1.2: words add suites, `-` takes them away, `!` for good, `+` puts them last.
pub(crate) fn classic(list: &str) -> Chosen {
    let mut chosen = Chosen::default();
    let mut banned: Vec<CipherSuite> = Vec::new();
    for word in words(list) {
        if word.starts_with('@') {
            // @STRENGTH: the sort is stable and by key length, ChaCha20's being 256 bits.
            if word == "@STRENGTH" {
                chosen
                    .suites
                    .sort_by_key(|suite| name(*suite).contains("AES128"));
            }
            continue;
        }
        let (sign, body) = match word.as_bytes()[0] {
            sign @ (b'!' | b'-' | b'+') => (sign, &word[1..]),
            _ => (b' ', word),
        };
        let hit: Vec<CipherSuite> = CLASSIC
            .into_iter()
            .filter(|suite| body.split('+').all(|part| matches(part, *suite)))
            .collect();
        match sign {
            b'!' => {
                chosen.suites.retain(|suite| !hit.contains(suite));
                banned.extend(hit);
            }
            b'-' => chosen.suites.retain(|suite| !hit.contains(suite)),
            b'+' => {
                let (last, first) = chosen
                    .suites
                    .iter()
                    .partition::<Vec<CipherSuite>, _>(|suite| hit.contains(suite));
                chosen.suites = first;
                chosen.suites.extend(last);
            }
            _ => {
                if hit.is_empty() {
                    chosen.absent.push(body.to_owned());
                }
                for suite in hit {
                    if !banned.contains(&suite) && !chosen.suites.contains(&suite) {
                        chosen.suites.push(suite);
                    }
                }
            }
        }
    }
    chosen
}

fn words(list: &str) -> impl Iterator<Item = &str> {
    list.split([':', ',', ' ', ';'])
        .filter(|word| !word.trim_start_matches(['!', '-', '+']).is_empty())
}

#[cfg(test)]
mod tests {
    use CipherSuite::*;

    use super::*;

    #[test]
    fn lists_are_carried_out_by_openssl_rules() {
        for (list, suites) in [
            ("HIGH:!aNULL", &CLASSIC[..]),
            (
                "HIGH:!aNULL:!MD5:!3DES:@STRENGTH",
                &[
                    EcdsaAes256,
                    RsaAes256,
                    EcdsaChacha20,
                    RsaChacha20,
                    EcdsaAes128,
                    RsaAes128,
                ],
            ),
            (
                "ECDHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-AES256-GCM-SHA384",
                &[RsaAes128, RsaAes256],
            ),
            (
                "EECDH+AESGCM:EDH+AESGCM",
                &[EcdsaAes256, RsaAes256, EcdsaAes128, RsaAes128],
            ),
            ("ALL:!aECDSA:+CHACHA20:-AES128", &[RsaAes256, RsaChacha20]),
            ("!aRSA:ALL:aRSA", &[EcdsaAes256, EcdsaAes128, EcdsaChacha20]),
            ("AES128-SHA:RC4", &[]),
            ("TLS_AES_128_GCM_SHA256", &[]),
            ("", &[]),
            ("!:+:-", &[]),
        ] {
            assert_eq!(classic(list).suites, suites, "{list}");
        }
    }

    #[test]
    fn what_matches_nothing_is_named_but_exclusions_are_not() {
        assert_eq!(
            classic("HIGH:DHE-RSA-AES256-SHA:!MD5:-RC4").absent,
            ["DHE-RSA-AES256-SHA"]
        );
        let modern = modern("TLS_AES_128_GCM_SHA256:TLS_AES_128_CCM_SHA256:TLS_AES_128_GCM_SHA256");
        assert_eq!(modern.suites, [Tls13Aes128]);
        assert_eq!(modern.absent, ["TLS_AES_128_CCM_SHA256"]);
    }
}
