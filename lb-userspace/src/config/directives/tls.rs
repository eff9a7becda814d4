//! mod_ssl's directives for clients (apache.md 3.21). Files are only named here:
//! control reads them. Certificates of clients are in [`clients`], members in [`members`].

use super::{Arity, Call, Contexts, Directive, Effect, Fault, row};
use crate::config::{Severity, draft::Mark, spec, value};

pub(crate) mod ciphers;
mod clients;
mod members;

use std::time::Duration;

pub(crate) use clients::ClientsDraft;
pub(super) use clients::TABLE as CLIENTS;
pub(crate) use members::MemberTlsDraft;
pub(super) use members::TABLE as MEMBERS;

#[rustfmt::skip] // One row a line: it is read as a table.
pub(super) const TABLE: &[Directive] = &[
    row("SSLEngine", Contexts::SERVER, Arity::One, "on|off", "TLS to clients; the first virtual host of an address decides for all of them", Effect::Apply(engine)).or("off; on where Listen says https"),
    row("SSLCertificateFile", Contexts::SERVER, Arity::One, "FILE", "PEM file with the certificate, those that lead from it to a known authority, and the key unless SSLCertificateKeyFile names its file; one for each kind of key (RSA, ECDSA).", Effect::Apply(certificate)),
    row("SSLCertificateKeyFile", Contexts::SERVER, Arity::One, "FILE", "PEM file with the key of the certificate of the same rank, without passphrase; read by control, so root alone need be able to", Effect::Apply(key)),
    row("SSLCertificateChainFile", Contexts::SERVER, Arity::One, "FILE", "PEM file with certificates that are sent after the host's own", Effect::Apply(chain)),
    row("SSLProtocol", Contexts::SERVER, Arity::Any, "[+|-]all|TLSv1.2|TLSv1.3 ...", "versions of TLS; -SSLv3, -TLSv1 and -TLSv1.1 are taken, for these are never offered", Effect::Apply(protocol)).or("all"),
    row("SSLCipherSuite", Contexts::SERVER, Arity::OneOrTwo, "[SSL|TLSv1.3] LIST", "cipher suites by OpenSSL's names and rules; of those for TLS 1.2 sluice has the ones with ECDHE and AES-GCM or CHACHA20-POLY1305, and a list that leaves none of its own is refused", Effect::Apply(cipher_suite)).or("all that sluice has"),
    row("SSLHonorCipherOrder", Contexts::SERVER, Arity::Flag, "On|Off", "whether the order of SSLCipherSuite beats the client's", Effect::Apply(honor_order)).or("Off"),
    row("SSLSessionTickets", Contexts::SERVER, Arity::Flag, "On|Off", "whether sessions are resumed by tickets; their keys change every 6 hours and are kept over reloads and upgrades", Effect::Apply(tickets)).or("On"),
    row("SSLSessionCache", Contexts::MAIN, Arity::One, "none|TYPE[:FILE]", "whether sessions are kept for clients without tickets: any type is a cache of 10000 sessions in the proxy's memory", Effect::Apply(session_cache)).or("none"),
    row("SSLSessionCacheTimeout", Contexts::SERVER, Arity::One, "SECONDS", "accepted with a notice: a session can be resumed until its ticket's key or its place in the cache is gone, 12 hours at most by ticket", Effect::Apply(session_timeout)),
    row("SSLCompression", Contexts::SERVER, Arity::Flag, "Off", "compression by TLS, which no version of it offers any more", Effect::Only(&["off"])).or("Off"),
    row("SSLUseStapling", Contexts::SERVER, Arity::Flag, "On|Off", "whether the authority's word on the certificate is sent along (OCSP): On is accepted with a warning and nothing is sent", Effect::Apply(stapling)).or("Off"),
    row("SSLStaplingCache", Contexts::MAIN, Arity::One, "TYPE[:FILE]", "memory for SSLUseStapling On", STAPLING),
    row("SSLStaplingResponderTimeout", Contexts::SERVER, Arity::One, "SECONDS", "of SSLUseStapling On", STAPLING),
    row("SSLStaplingStandardCacheTimeout", Contexts::SERVER, Arity::One, "SECONDS", "of SSLUseStapling On", STAPLING),
    row("SSLStaplingErrorCacheTimeout", Contexts::SERVER, Arity::One, "SECONDS", "of SSLUseStapling On", STAPLING),
    row("SSLStaplingReturnResponderErrors", Contexts::SERVER, Arity::Flag, "On|Off", "of SSLUseStapling On", STAPLING),
    row("SSLStaplingFakeTryLater", Contexts::SERVER, Arity::Flag, "On|Off", "of SSLUseStapling On", STAPLING),
    row("SSLInsecureRenegotiation", Contexts::SERVER, Arity::Flag, "Off", "renegotiation: there is none at all", Effect::Only(&["off"])).or("Off"),
    row("SSLStrictSNIVHostCheck", Contexts::SERVER, Arity::Flag, "On|Off", "whether requests on connections whose client named no host (SNI) are refused with 403, where an address has several virtual hosts: all of them if its first one says so, else those for hosts that do", Effect::Apply(strict_sni)).or("Off"),
    row("SSLRequireSSL", Contexts::SECTIONS, Arity::Any, "", "refuses requests that did not come by TLS with 403", Effect::Apply(require_tls)),
    row("SSLVHostSNIPolicy", Contexts::MAIN, Arity::One, "secure", "which requests are taken on a connection that was made for another name: those for hosts with the same certificates, protocols and cipher suites, others are answered with 421", Effect::Only(&["secure"])).or("secure"),
    row("SSLFIPS", Contexts::MAIN, Arity::Flag, "Off", "FIPS mode of the library", Effect::Only(&["off"])).or("Off"),
    row("SSLCryptoDevice", Contexts::MAIN, Arity::One, "builtin", "hardware for OpenSSL", Effect::Only(&["builtin"])).or("builtin"),
    row("SSLRandomSeed", Contexts::MAIN, Arity::TwoOrThree, "startup|connect SOURCE [BYTES]", "where OpenSSL takes randomness from", RANDOM),
    row("SSLPassPhraseDialog", Contexts::MAIN, Arity::One, "builtin|exec:PROGRAM||PROGRAM", "who is asked for passphrases", Effect::Apply(passphrase)),
];

const STAPLING: Effect =
    Effect::Notice("OCSP stapling is not done by this version of sluice: this sets nothing");
const RANDOM: Effect =
    Effect::Notice("randomness comes from the kernel: nothing needs to be seeded");
const SESSION_TIMEOUT: &str = "SSLSessionCacheTimeout is not applied: sessions are resumed while the key of their ticket is kept, 12 hours at most";
const PASSPHRASE: &str =
    "passphrases are never asked for: keys that need one are refused when they are read";

/// What a host's directives said, before inheritance.
#[derive(Clone, Debug, Default)]
pub(crate) struct TlsDraft {
    /// `SSLEngine`, and where.
    pub(crate) engine: Option<(bool, Mark)>,
    /// `SSLCertificateFile`
    pub(crate) certificates: Vec<spec::NamedFile>,
    /// `SSLCertificateKeyFile`
    pub(crate) keys: Vec<spec::NamedFile>,
    /// `SSLCertificateChainFile`
    pub(crate) chain: Option<spec::NamedFile>,
    /// `SSLProtocol`, and where.
    pub(crate) protocols: Option<(Versions, Mark)>,
    /// `SSLCipherSuite` for TLS 1.2.
    pub(crate) suites: Option<Vec<spec::CipherSuite>>,
    /// `SSLCipherSuite TLSv1.3`
    pub(crate) suites13: Option<Vec<spec::CipherSuite>>,
    /// `SSLHonorCipherOrder`
    pub(crate) honor_order: Option<bool>,
    /// `SSLSessionTickets`
    pub(crate) tickets: Option<bool>,
    /// `SSLSessionCache` of the main server.
    pub(crate) session_cache: bool,
    /// `RequestReadTimeout handshake=`
    pub(crate) handshake_timeout: Option<Duration>,
    /// `SSLVerifyClient` and its kin.
    pub(crate) clients: ClientsDraft,
}

/// Versions of TLS that sluice has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Versions {
    pub(crate) v12: bool,
    pub(crate) v13: bool,
}

fn engine(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let given = call.arg(0).to_owned();
    let on = match value::flag(&given) {
        Some(on) => on,
        None if given.eq_ignore_ascii_case("optional") => {
            // httpd 2.4.71 says so, and turns it off.
            call.warn(Fault::new("'SSLEngine optional' is no longer supported").at(0));
            false
        }
        None => return Err(Fault::new("Argument must be On or Off").at(0)),
    };
    let mark = call.mark(0);
    call.host().tls.engine = Some((on, mark));
    Ok(())
}

fn strict_sni(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    call.host().strict_sni = Some(call.flag()?);
    Ok(())
}

#[expect(clippy::unnecessary_wraps, reason = "the table has one signature")]
fn require_tls(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    // As in httpd, whatever follows.
    call.policy().requires_tls = true;
    Ok(())
}

fn named(call: &Call<'_, '_>) -> Result<spec::NamedFile, Fault> {
    let text = call.arg(0);
    if text.is_empty() {
        return Err(Fault::new(format!("{}: no file is named", call.row.name)).at(0));
    }
    if text.starts_with("pkcs11:") {
        return Err(super::not_yet(&format!("{} pkcs11:", call.row.name)).at(0));
    }
    Ok(spec::NamedFile {
        path: call.draft.server_root.join(text),
        at: call.place(),
    })
}

fn certificate(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let file = named(call)?;
    call.host().tls.certificates.push(file);
    Ok(())
}

fn key(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let file = named(call)?;
    call.host().tls.keys.push(file);
    Ok(())
}

fn chain(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let file = named(call)?;
    call.host().tls.chain = Some(file);
    Ok(())
}

/// Protocols as bits, oldest first.
const NAMES: [(&str, u8); 5] = [
    ("SSLv3", 1),
    ("TLSv1", 2),
    ("TLSv1.1", 4),
    ("TLSv1.2", 8),
    ("TLSv1.3", 16),
];

fn protocol(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let versions = versions(call)?;
    let mark = call.mark(0);
    call.host().tls.protocols = Some((versions, mark));
    Ok(())
}

/// Reads SSLProtocol or SSLProxyProtocol.
fn versions(call: &mut Call<'_, '_>) -> Result<Versions, Fault> {
    let name_of_row = call.row.name;
    let (mut set, mut begun) = (0_u8, false);
    // Named by themselves, not by `all`.
    let mut wanted = 0_u8;
    let mut last = [0; 8];
    for index in 0..call.count() {
        let word = call.arg(index).to_owned();
        let (sign, name) = match word.as_bytes().first() {
            Some(sign @ (b'+' | b'-')) => (*sign, &word[1..]),
            _ => (b'=', word.as_str()),
        };
        let bits = if name.eq_ignore_ascii_case("all") {
            30
        } else if name.eq_ignore_ascii_case("SSLv2") {
            if sign == b'-' {
                continue;
            }
            return Err(
                Fault::new(format!("{name_of_row}: SSLv2 is no longer supported")).at(index),
            );
        } else {
            let known = NAMES
                .iter()
                .position(|(known, _)| known.eq_ignore_ascii_case(name));
            let known = known.ok_or_else(|| {
                Fault::new(format!("{name_of_row}: Illegal protocol '{name}'"))
                    .at(index)
                    .help("sluice has TLSv1.2 and TLSv1.3")
            })?;
            last[known] = index;
            NAMES[known].1
        };
        let named = if bits == 30 { 0 } else { bits };
        match sign {
            b'-' => {
                set &= !bits;
                wanted &= !bits;
            }
            b'+' => {
                set |= bits;
                wanted |= named;
            }
            _ => {
                if begun {
                    let message = format!(
                        "{name_of_row}: Protocol '{name}' overrides already set parameter(s). Check if a +/- prefix is missing."
                    );
                    call.warn(Fault::new(message).at(index));
                }
                set = bits;
                wanted = named;
            }
        }
        begun = true;
    }
    if let Some(old) = (0..3).find(|&at| wanted & NAMES[at].1 != 0) {
        let message = format!(
            "{name_of_row} {} is not supported by sluice, nor is any version before TLSv1.2",
            NAMES[old].0
        );
        return Err(Fault::new(message)
            .at(last[old])
            .help("TLS 1.0 and 1.1 are withdrawn (RFC 8996): write TLSv1.2 or +TLSv1.2"));
    }
    Ok(Versions {
        v12: set & 8 != 0,
        v13: set & 16 != 0,
    })
}

fn cipher_suite(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let (modern, suites) = suites(call)?;
    let tls = &mut call.host().tls;
    if modern {
        tls.suites13 = Some(suites);
    } else {
        tls.suites = Some(suites);
    }
    Ok(())
}

/// Reads SSLCipherSuite or SSLProxyCipherSuite: whether it is for TLS 1.3, and what is left.
fn suites(call: &mut Call<'_, '_>) -> Result<(bool, Vec<spec::CipherSuite>), Fault> {
    let name = call.row.name;
    let (modern, at) = match (call.count(), call.arg(0)) {
        (1, _) => (false, 0),
        (_, word) if word.eq_ignore_ascii_case("SSL") => (false, 1),
        (_, word) if word.eq_ignore_ascii_case("TLSv1.3") => (true, 1),
        (_, word) => {
            return Err(Fault::new(format!("protocol '{word}' not supported")).at(0));
        }
    };
    let list = call.arg(at).to_owned();
    let chosen = if modern {
        ciphers::modern(&list)
    } else {
        ciphers::classic(&list)
    };
    if chosen.suites.is_empty() {
        let message = format!("{name}: sluice has none of these: {list}");
        let have = if modern {
            "it has for TLS 1.3: TLS_AES_256_GCM_SHA384, TLS_AES_128_GCM_SHA256, TLS_CHACHA20_POLY1305_SHA256"
        } else {
            "it has for TLS 1.2: ECDHE-ECDSA- or ECDHE-RSA- with AES256-GCM-SHA384, AES128-GCM-SHA256 or CHACHA20-POLY1305"
        };
        return Err(Fault::new(message).at(at).help(have));
    }
    if !chosen.absent.is_empty() {
        let message = format!(
            "{name}: left out, for sluice has no such suites: {}",
            chosen.absent.join(", ")
        );
        call.notice(Fault::new(message).at(at));
    }
    Ok((modern, chosen.suites))
}

/// `SSLVerifyClient` and `SSLProxyVerify`.
fn verify(call: &Call<'_, '_>) -> Result<spec::PeerVerify, Fault> {
    match call.arg(0).to_ascii_lowercase().as_str() {
        "none" | "off" => Ok(spec::PeerVerify::None),
        "optional" => Ok(spec::PeerVerify::Optional),
        "optional_no_ca" => Ok(spec::PeerVerify::OptionalNoCa),
        "require" | "on" => Ok(spec::PeerVerify::Require),
        _ => {
            let message = format!("{}: Invalid argument '{}'", call.row.name, call.arg(0));
            let fault = Fault::new(message).at(0);
            Err(fault.help("expected none, optional, require or optional_no_ca"))
        }
    }
}

/// `SSLVerifyDepth` and `SSLProxyVerifyDepth`.
fn depth(call: &Call<'_, '_>) -> Result<u32, Fault> {
    let depth = u32::try_from(value::atoi(call.arg(0)));
    depth.map_err(|_| Fault::new(format!("{}: Invalid argument", call.row.name)).at(0))
}

/// `SSLCARevocationCheck` and `SSLProxyCARevocationCheck`.
fn revocation(call: &Call<'_, '_>) -> Result<spec::Revocation, Fault> {
    let lenient = match call.arg(1) {
        "" => false,
        flag if flag.eq_ignore_ascii_case("no_crl_for_cert_ok") => true,
        flag => {
            let message = format!("{}: Invalid argument '{flag}'", call.row.name);
            return Err(Fault::new(message)
                .at(1)
                .help("expected no_crl_for_cert_ok or nothing"));
        }
    };
    match call.arg(0).to_ascii_lowercase().as_str() {
        "none" => Ok(spec::Revocation::None),
        "leaf" => Ok(spec::Revocation::Leaf { lenient }),
        "chain" => Ok(spec::Revocation::Chain { lenient }),
        other => {
            let message = format!("{}: Invalid argument '{other}'", call.row.name);
            Err(Fault::new(message)
                .at(0)
                .help("expected none, leaf or chain"))
        }
    }
}

fn honor_order(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    call.host().tls.honor_order = Some(call.flag()?);
    Ok(())
}

fn tickets(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    call.host().tls.tickets = Some(call.flag()?);
    Ok(())
}

fn session_cache(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let text = call.arg(0).to_owned();
    let kind = text
        .split(':')
        .next()
        .unwrap_or_default()
        .to_ascii_lowercase();
    let kept = match kind.as_str() {
        "none" | "nonenotnull" => false,
        "shmcb" | "dbm" | "memcache" | "redis" | "dc" | "default" => true,
        _ => {
            let message = format!("SSLSessionCache: '{text}' session cache not supported");
            return Err(Fault::new(message)
                .at(0)
                .help("expected none, or shmcb:FILE(BYTES)"));
        }
    };
    call.host().tls.session_cache = kept;
    Ok(())
}

fn session_timeout(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    if value::atoi(call.arg(0)) < 0 {
        return Err(Fault::new("SSLSessionCacheTimeout: Invalid argument").at(0));
    }
    let at = call.node.at(None);
    call.draft
        .notice_once(Severity::Notice, at, SESSION_TIMEOUT);
    Ok(())
}

fn stapling(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    if call.flag()? {
        let message = "SSLUseStapling On: OCSP stapling is not done by this version of sluice";
        let help = "clients ask the authority themselves; a certificate that demands stapling (must-staple) is refused by some";
        call.warn(Fault::new(message).at(0).help(help));
    }
    Ok(())
}

fn passphrase(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let text = call.arg(0);
    let known = text.eq_ignore_ascii_case("builtin")
        || text.starts_with('|')
        || text
            .get(..5)
            .is_some_and(|start| start.eq_ignore_ascii_case("exec:"));
    if !known {
        return Err(Fault::new("SSLPassPhraseDialog: Invalid argument").at(0));
    }
    let at = call.node.at(None);
    call.draft.notice_once(Severity::Notice, at, PASSPHRASE);
    Ok(())
}
