//! `Protocols` and mod_http2's directives (apache.md 3.20). What tunes httpd's own machinery is
//! accepted with a notice; sluice's limits that have no directive are in docs/http.md.

use std::time::Duration;

use super::{Arity, Call, Contexts, Directive, Effect, Fault, connection::number, row};
use crate::config::{
    spec::{Protocol, Protocols},
    value::{self, Unit},
};

#[rustfmt::skip] // One row a line: it is read as a table.
pub(super) const TABLE: &[Directive] = &[
    row("Protocols", Contexts::SERVER, Arity::Some, "[h2] [h2c] [http/1.1]", "protocols that clients may choose: h2 over TLS by ALPN, h2c in clear by prior knowledge; HTTP/1.1 is always spoken to a client that chooses nothing. The first virtual host of an address decides about h2c, the one of the handshake's name about h2", Effect::Apply(protocols)).or("http/1.1"),
    row("ProtocolsHonorOrder", Contexts::SERVER, Arity::Flag, "On|Off", "whether the order of Protocols beats the client's", Effect::Apply(honor_order)).or("On"),
    row("H2Direct", Contexts::SERVER, Arity::Flag, "On|Off", "whether a connection in clear that begins with the preface of HTTP/2 is one, where Protocols has h2c", Effect::Apply(direct)).or("On"),
    row("H2MaxSessionStreams", Contexts::SERVER, Arity::One, "N", "requests that one connection may have open at a time", Effect::Apply(max_streams)).or("100"),
    row("H2WindowSize", Contexts::SERVER, Arity::One, "BYTES", "bytes of a request's body that a client may send ahead of the member, at least 1024; a connection's window is 1 MiB or this if it is more", Effect::Apply(window)).or("65535"),
    row("H2MaxDataFrameLen", Contexts::SERVER, Arity::One, "BYTES", "largest DATA frame that is sent, 0 for what the client allows", Effect::Apply(data_frame)).or("0"),
    row("H2StreamTimeout", Contexts::SERVER, Arity::One, "TIME", "longest wait for a client that neither sends its request's body nor takes its response; seconds, or with unit ms, s, min or h", Effect::Apply(stream_timeout)).or("Timeout"),
    row("H2MaxHeaderBlockLen", Contexts::SERVER, Arity::One, "BYTES", "largest block of response fields", Effect::Apply(|call| at_least(call, 0, HEADERS))),
    row("H2ModernTLSOnly", Contexts::SERVER, Arity::Flag, "On|Off", "whether h2 needs TLS as RFC 9113 asks for it: sluice has no other", Effect::Apply(|call| flag(call, MODERN))).or("On"),
    row("H2Upgrade", Contexts::SERVER.and(Contexts::LOCATION), Arity::Flag, "On|Off", "Upgrade from HTTP/1.1, which RFC 9113 has withdrawn", Effect::Apply(|call| flag(call, UPGRADE))).or("Off"),
    row("H2Push", Contexts::SERVER.and(Contexts::LOCATION), Arity::Flag, "On|Off", "server push, which browsers have given up", Effect::Apply(|call| flag(call, PUSH))).or("Off"),
    row("H2PushResource", Contexts::SERVER.and(Contexts::LOCATION), Arity::OneOrTwo, "PATH [critical]", "what is pushed", Effect::Notice(PUSH)),
    row("H2PushPriority", Contexts::SERVER, Arity::TwoOrThree, "TYPE [WHEN] [WEIGHT]", "order of what is pushed", Effect::Notice(PUSH)),
    row("H2PushDiarySize", Contexts::SERVER, Arity::One, "N", "memory of what was pushed", Effect::Apply(|call| at_least(call, 0, PUSH))),
    row("H2EarlyHints", Contexts::SERVER, Arity::Flag, "On|Off", "interim responses 103", Effect::Apply(|call| flag(call, HINTS))).or("Off"),
    row("H2CopyFiles", Contexts::SERVER, Arity::Flag, "On|Off", "how files are handed over", Effect::Apply(|call| flag(call, MACHINERY))),
    row("H2SerializeHeaders", Contexts::SERVER, Arity::Flag, "On|Off", "requests by way of HTTP/1.1", Effect::Apply(|call| flag(call, MACHINERY))),
    row("H2OutputBuffering", Contexts::SERVER, Arity::Flag, "On|Off", "buffers between httpd's threads", Effect::Apply(|call| flag(call, MACHINERY))),
    row("H2MinWorkers", Contexts::SERVER, Arity::One, "N", "threads for h2", Effect::Apply(|call| at_least(call, 1, MACHINERY))),
    row("H2MaxWorkers", Contexts::SERVER, Arity::One, "N", "threads for h2", Effect::Apply(|call| at_least(call, 1, MACHINERY))),
    row("H2MaxWorkerIdleSeconds", Contexts::SERVER, Arity::One, "SECONDS", "when such threads end", Effect::Apply(worker_idle)),
    row("H2StreamMaxMemSize", Contexts::SERVER, Arity::One, "BYTES", "buffers between httpd's threads", Effect::Apply(|call| at_least(call, 1024, MACHINERY))),
    row("H2TLSWarmUpSize", Contexts::SERVER, Arity::One, "BYTES", "bytes in small TLS records", Effect::Notice(MACHINERY)),
    row("H2TLSCoolDownSecs", Contexts::SERVER, Arity::One, "SECONDS", "when small TLS records come again", Effect::Notice(MACHINERY)),
    row("H2Padding", Contexts::SERVER, Arity::One, "BITS", "bytes added to frames, 0 to 8 bits", Effect::Apply(padding)).or("0"),
    row("H2WebSockets", Contexts::SERVER, Arity::Flag, "Off", "WebSockets over h2 (RFC 8441)", Effect::Only(&["off"])).or("Off"),
    row("H2ProxyRequests", Contexts::SERVER, Arity::Flag, "Off", "forward proxying over h2", Effect::Only(&["off"])).or("Off"),
];

const HEADERS: &str =
    "H2MaxHeaderBlockLen is not applied: the fields of a response are 64 KiB at most";
const MODERN: &str = "H2ModernTLSOnly Off is not applied: sluice has modern TLS alone";
const UPGRADE: &str = "H2Upgrade On is not applied: a client gets h2 by ALPN, h2c by prior knowledge; one that asks to upgrade is answered over HTTP/1.1";
const PUSH: &str = "nothing is pushed: browsers have given server push up";
const HINTS: &str = "H2EarlyHints On is not applied: interim responses are not passed on";
const MACHINERY: &str = "tunes machinery of httpd's that sluice has not: nothing to do";

/// What a host's directives said, before inheritance.
#[derive(Clone, Debug, Default)]
pub(crate) struct Http2Draft {
    /// `Protocols`; several lines add up.
    pub(crate) offered: Vec<Protocol>,
    /// `ProtocolsHonorOrder`
    pub(crate) honor_order: Option<bool>,
    /// `H2Direct`
    pub(crate) direct: Option<bool>,
    /// `H2MaxSessionStreams`
    pub(crate) max_streams: Option<u32>,
    /// `H2WindowSize`
    pub(crate) window: Option<u32>,
    /// `H2MaxDataFrameLen`
    pub(crate) data_frame: Option<u32>,
    /// `H2StreamTimeout`
    pub(crate) stream_timeout: Option<Duration>,
}

impl Http2Draft {
    /// With what the main server says where this host says nothing, and defaults.
    pub(crate) fn resolve(&self, main: &Self) -> Protocols {
        let fallback = Protocols::default();
        let offered = [&self.offered, &main.offered]
            .into_iter()
            .find(|list| !list.is_empty());
        Protocols {
            offered: offered.cloned().unwrap_or(fallback.offered),
            honor_order: self.honor_order.or(main.honor_order).unwrap_or(true),
            direct: self.direct.or(main.direct).unwrap_or(true),
            max_streams: self
                .max_streams
                .or(main.max_streams)
                .unwrap_or(fallback.max_streams),
            window: self.window.or(main.window).unwrap_or(fallback.window),
            data_frame: self.data_frame.or(main.data_frame).unwrap_or(0),
            stream_timeout: self.stream_timeout.or(main.stream_timeout),
        }
    }
}

#[expect(clippy::unnecessary_wraps, reason = "the table has one signature")]
fn protocols(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    for index in 0..call.count() {
        let protocol = match call.arg(index).to_ascii_lowercase().as_str() {
            "http/1.1" => Protocol::Http11,
            "h2" => Protocol::H2,
            "h2c" => Protocol::H2c,
            other => {
                // httpd takes any word.
                let message = format!("Protocols: '{other}' is no protocol that sluice knows");
                call.warn(Fault::new(message).at(index));
                continue;
            }
        };
        let offered = &mut call.host().http2.offered;
        if !offered.contains(&protocol) {
            offered.push(protocol);
        }
    }
    Ok(())
}

fn honor_order(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    call.host().http2.honor_order = Some(call.flag()?);
    Ok(())
}

fn direct(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    call.host().http2.direct = Some(on_or_off(call)?);
    Ok(())
}

fn max_streams(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let streams = bounded(call, 1)?;
    call.host().http2.max_streams = Some(streams);
    Ok(())
}

fn window(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let bytes = bounded(call, 1024)?;
    call.host().http2.window = Some(bytes);
    Ok(())
}

fn data_frame(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let bytes = bounded(call, 0)?;
    call.host().http2.data_frame = Some(bytes);
    Ok(())
}

fn stream_timeout(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let Some(time) = value::time(call.arg(0), Unit::Seconds) else {
        let help = "expected a whole number with ms, s, min, h or no unit (seconds)";
        return Err(Fault::new("Invalid timeout value").at(0).help(help));
    };
    // httpd takes 0 for its own default.
    call.host().http2.stream_timeout = (!time.is_zero()).then_some(time);
    Ok(())
}

fn worker_idle(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    if value::time(call.arg(0), Unit::Seconds).is_none() {
        return Err(Fault::new("Invalid idle limit value").at(0));
    }
    notice(call, MACHINERY);
    Ok(())
}

fn padding(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let bits = number(call, 0);
    if !(0..=8).contains(&bits) {
        return Err(Fault::new(format!(
            "number of bits must be {}",
            if bits < 0 { ">= 0" } else { "<= 8" }
        ))
        .at(0));
    }
    if bits > 0 {
        notice(call, MACHINERY);
    }
    Ok(())
}

/// A number of which httpd says how large it has to be; the same bound.
fn bounded(call: &mut Call<'_, '_>, least: u32) -> Result<u32, Fault> {
    let value = number(call, 0);
    u32::try_from(value)
        .ok()
        .filter(|value| *value >= least)
        .ok_or_else(|| Fault::new(format!("{}: value must be >= {least}", call.row.name)).at(0))
}

fn at_least(call: &mut Call<'_, '_>, least: u32, text: &'static str) -> Result<(), Fault> {
    if bounded(call, least)? > 0 {
        notice(call, text);
    }
    Ok(())
}

/// A switch that is off in sluice.
fn flag(call: &mut Call<'_, '_>, text: &'static str) -> Result<(), Fault> {
    let said = on_or_off(call)?;
    // The one that is on.
    if said != (call.row.name == "H2ModernTLSOnly") {
        notice(call, text);
    }
    Ok(())
}

fn on_or_off(call: &Call<'_, '_>) -> Result<bool, Fault> {
    value::flag(call.arg(0)).ok_or_else(|| Fault::new("value must be On or Off").at(0))
}

fn notice(call: &mut Call<'_, '_>, text: &'static str) {
    let message = format!("{}: {text}", call.row.name);
    let message = if text.starts_with(call.row.name) {
        text.to_owned()
    } else {
        message
    };
    call.notice(Fault::new(message));
}
