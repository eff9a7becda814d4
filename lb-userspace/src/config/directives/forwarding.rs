//! What is for forward proxies and for gateways to FastCGI and SCGI, and buffers of httpd's sockets:
//! accepted where it says nothing of what sluice does (apache.md 3.15, 3.17, 3.19).

use super::{Arity, Call, Contexts, Directive, Effect, Fault, row};
use crate::{
    config::{
        draft::{Applies, Elsewhere},
        url::WorkerUrl,
        value,
    },
    pattern::Pattern,
};

#[rustfmt::skip] // One row a line: it is read as a table.
pub(super) const TABLE: &[Directive] = &[
    row("ProxyRemote", Contexts::SERVER, Arity::Two, "*|SCHEME|URL PROXY-URL", "another proxy for requests to these URLs: an error where it is for a member, for sluice speaks to members alone", Effect::Apply(remote)),
    row("ProxyRemoteMatch", Contexts::SERVER, Arity::Two, "REGEX PROXY-URL", "likewise, by a pattern", Effect::Apply(remote_match)),
    row("NoProxy", Contexts::SERVER, Arity::Some, "HOST|.DOMAIN|NETWORK ...", "hosts that ProxyRemote is not for", FORWARD),
    row("ProxyDomain", Contexts::SERVER, Arity::One, ".DOMAIN", "domain of the names that a forward proxy is asked for", Effect::Apply(domain)),
    row("ProxyBlock", Contexts::SERVER, Arity::Some, "*|WORD ...", "hosts whose requests are refused: an error where a member's name is among them", Effect::Apply(block)),
    row("ProxyFCGIBackendType", ANY, Arity::One, "FPM|GENERIC", "members of fcgi://, which sluice has not", GATEWAYS),
    row("ProxyFCGISetEnvIf", ANY, Arity::Some, "CONDITION NAME [VALUE]", "members of fcgi://, which sluice has not", GATEWAYS),
    row("ProxySCGISendfile", ANY, Arity::One, "On|Off|FIELD", "members of scgi://, which sluice has not", GATEWAYS),
    row("ProxySCGIInternalRedirect", ANY, Arity::One, "On|Off|FIELD", "members of scgi://, which sluice has not", GATEWAYS),
    row("ReceiveBufferSize", Contexts::MAIN, Arity::One, "BYTES", "what the kernel keeps of what clients send: at least 512, or 0", Effect::Apply(buffer)),
    row("SendBufferSize", Contexts::MAIN, Arity::One, "BYTES", "what the kernel keeps for clients: at least 512, or 0", Effect::Apply(buffer)),
];

const ANY: Contexts = Contexts::ALL;
const FORWARDING: &str =
    "sluice is no forward proxy and speaks to members alone: what is for other hosts does nothing";
const FORWARD: Effect = Effect::Notice(FORWARDING);
const GATEWAYS: Effect =
    Effect::Notice("sluice has no members of fcgi:// or scgi://: what is for them does nothing");
const BUFFERS: &str = "buffers of clients' connections are the kernel's to size: it makes them grow as they are used, ReceiveBufferSize and SendBufferSize do nothing";

/// Remembers what must not be for a member.
fn elsewhere(call: &mut Call<'_, '_>, applies: Applies) {
    let elsewhere = Elsewhere {
        directive: call.row.name,
        applies,
        mark: call.mark(0),
    };
    call.draft.elsewhere.push(elsewhere);
    notice(call, FORWARDING);
}

fn notice(call: &mut Call<'_, '_>, text: &'static str) {
    let at = call.node.at(None);
    let severity = crate::config::report::Severity::Notice;
    call.draft.notice_once(severity, at, text);
}

/// The second argument must name a proxy with its port, or have none.
fn check_proxy(call: &Call<'_, '_>) -> Result<(), Fault> {
    let bad = |_| {
        Fault::new(format!(
            "{}: Bad syntax for a remote proxy server",
            call.row.name
        ))
        .at(1)
    };
    WorkerUrl::parse(call.arg(1)).map(drop).map_err(bad)
}

fn remote(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    check_proxy(call)?;
    let wanted = call.arg(0).to_ascii_lowercase();
    let applies = if wanted == "*" {
        Applies::Everything
    } else if wanted.contains(':') {
        Applies::Prefix(wanted)
    } else {
        Applies::Prefix(format!("{wanted}:"))
    };
    elsewhere(call, applies);
    Ok(())
}

fn remote_match(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    check_proxy(call)?;
    let bad =
        |_| Fault::new("Regular expression for ProxyRemoteMatch could not be compiled.").at(0);
    let pattern = Pattern::new(call.arg(0), false).map_err(bad)?;
    elsewhere(call, Applies::Pattern(pattern));
    Ok(())
}

#[expect(clippy::unnecessary_wraps, reason = "the table has one signature")]
fn block(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    for index in 0..call.count() {
        let word = call.arg(index).to_ascii_lowercase();
        let applies = if word == "*" {
            Applies::Everything
        } else {
            Applies::Host(word)
        };
        elsewhere(call, applies);
    }
    Ok(())
}

fn domain(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    if !call.arg(0).starts_with('.') {
        let message = "ProxyDomain: domain name must start with a dot.";
        return Err(Fault::new(message).at(0));
    }
    notice(call, FORWARDING);
    Ok(())
}

fn buffer(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let bytes = value::atoi(call.arg(0));
    if bytes != 0 && bytes < 512 {
        let message = format!(
            "{} must be >= 512 bytes, or 0 for system default.",
            call.row.name
        );
        return Err(Fault::new(message).at(0));
    }
    if bytes != 0 {
        notice(call, BUFFERS);
    }
    Ok(())
}
