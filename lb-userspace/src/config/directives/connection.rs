//! Timeouts, keep-alive and size limits of client connections (apache.md 3.19).

use std::time::Duration;

use super::{Arity, Call, Contexts, Directive, Effect, Fault, row};
use crate::config::{
    spec::ReadTimeout,
    value::{self, Unit},
};

pub(super) const TABLE: &[Directive] = &[
    row("Timeout", Contexts::SERVER, Arity::One, "SECONDS",
        "longest wait for the client or a member in one read or write, at least 1", Effect::Apply(timeout)).or("60"),
    row("KeepAlive", Contexts::SERVER, Arity::Flag, "On|Off",
        "whether a connection may carry several requests", Effect::Apply(keep_alive)).or("On"),
    row("KeepAliveTimeout", Contexts::SERVER, Arity::One, "TIME",
        "longest wait for the next request; seconds, or with unit ms, s, min or h", Effect::Apply(keep_alive_timeout)).or("5"),
    row("MaxKeepAliveRequests", Contexts::SERVER, Arity::One, "N",
        "requests on one connection after the first; 0 is no limit", Effect::Apply(max_keep_alive_requests)).or("100"),
    row("RequestReadTimeout", Contexts::SERVER, Arity::Some, "header=SECONDS[-SECONDS][,MinRate=N] [body=...] [handshake=...]",
        "longest time for a request's head, its body and a TLS handshake; with MinRate a second more for every N bytes, up to the second number. 0 is no limit but Timeout. A body's time rests while the member is the one to read. Of handshake= the upper end counts; without it a handshake may take as long as a head",
        Effect::Apply(request_read_timeout)).or("header=20-40,MinRate=500 body=20,MinRate=500"),
    row("LimitRequestLine", Contexts::SERVER, Arity::One, "BYTES",
        "longest request line. Of name-based virtual hosts the first of the address counts, for this and the next two: they apply before the name is known", Effect::Apply(limit_request_line)).or("8190"),
    row("LimitRequestFields", Contexts::SERVER, Arity::One, "N",
        "most header fields of a request; 0 is the parser's own bound", Effect::Apply(limit_request_fields)).or("100"),
    row("LimitRequestFieldSize", Contexts::SERVER, Arity::One, "BYTES",
        "longest header field, name and value", Effect::Apply(limit_request_field_size)).or("8190"),
    row("LimitRequestBody", Contexts::ALL, Arity::One, "BYTES",
        "accepted without effect, as in httpd: it is not applied to proxied requests", Effect::Apply(limit_request_body)),
    row("ListenBacklog", Contexts::MAIN, Arity::One, "N",
        "connections that may wait to be accepted", Effect::Apply(listen_backlog)).or("511"),
    row("AcceptFilter", Contexts::MAIN, Arity::Two, "http|https data|none",
        "data: the kernel hands a connection over once its client has sent something, or after half a minute (TCP_DEFER_ACCEPT). The protocol is that of Listen",
        Effect::Apply(accept_filter)).or("data for both"),
    row("GracefulShutdownTimeout", Contexts::MAIN, Arity::One, "SECONDS",
        "longest wait for requests in flight at a graceful stop; 0 is for ever", Effect::Apply(graceful_shutdown_timeout)).or("0"),
];

/// A number by `atoi`'s rules, with a warning where httpd would ignore what follows it.
pub(super) fn number(call: &mut Call<'_, '_>, index: usize) -> i64 {
    let text = call.arg(index).to_owned();
    let value = value::atoi(&text);
    if let Some(junk) = value::junk_after_number(&text) {
        let message = format!("'{junk}' is ignored, as in httpd: this is {value}");
        call.warn(
            Fault::new(message)
                .at(index)
                .help("write a whole number without a unit"),
        );
    }
    value
}

fn timeout(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let seconds = number(call, 0);
    if seconds < 1 {
        return Err(Fault::new("Timeout must be at least 1 second").at(0));
    }
    call.host().timeout = Some(Duration::from_secs(seconds.unsigned_abs()));
    Ok(())
}

fn keep_alive(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    call.host().keep_alive = Some(call.flag()?);
    Ok(())
}

fn keep_alive_timeout(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let Some(time) = value::time(call.arg(0), Unit::Seconds) else {
        let help = "expected a whole number with ms, s, min, h or no unit (seconds)";
        return Err(Fault::new("KeepAliveTimeout has wrong format")
            .at(0)
            .help(help));
    };
    call.host().keep_alive_timeout = Some(time);
    Ok(())
}

#[expect(clippy::unnecessary_wraps, reason = "the table has one signature")]
fn max_keep_alive_requests(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let count = number(call, 0);
    // httpd takes a negative number for 0.
    call.host().max_keep_alive_requests = Some(u32::try_from(count).unwrap_or(0));
    Ok(())
}

fn request_read_timeout(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    for index in 0..call.count() {
        let text = call.arg(index).to_owned();
        let fail =
            |why: &str| Err(Fault::new(format!("RequestReadTimeout: {text}: {why}")).at(index));
        let Some((key, value)) = text.split_once('=') else {
            return fail("Invalid RequestReadTimeout parameter");
        };
        let key = key.to_ascii_lowercase();
        if !matches!(key.as_str(), "header" | "body" | "handshake") {
            return fail("Unknown RequestReadTimeout parameter");
        }
        let (times, rate) = match value.split_once(',') {
            Some((times, rate)) => (times, Some(rate)),
            None => (value, None),
        };
        let (low, high) = match times.split_once('-') {
            Some((low, high)) => (low, Some(high)),
            None => (times, None),
        };
        let seconds = |text: &str| text.parse::<u32>().ok();
        let numbers = (seconds(low), high.map(seconds));
        let Some((low, high)) = (match numbers {
            (Some(low), None) => Some((low, None)),
            (Some(low), Some(Some(high))) => Some((low, Some(high))),
            _ => None,
        }) else {
            return fail(&format!("Value '{times}' not numerical"));
        };
        if high.is_some() && rate.is_none() {
            return fail("Must set MinRate option if using timeout range");
        }
        let min_rate = match rate {
            None => 0,
            Some(rate) => {
                let Some((name, rate)) = rate
                    .split_once('=')
                    .filter(|(n, _)| n.eq_ignore_ascii_case("minrate"))
                else {
                    return fail("Unknown RequestReadTimeout parameter");
                };
                match rate.parse::<u32>() {
                    Ok(0) => return fail("Minimum data rate must be larger than 0"),
                    Ok(rate) => rate,
                    Err(_) => return fail(&format!("Value '{rate}' of {name} not numerical")),
                }
            }
        };
        if high.is_some_and(|high| high <= low) {
            return fail("Maximum timeout must be larger than initial timeout");
        }
        let time = |seconds: u32| Duration::from_secs(u64::from(seconds));
        let timeout = ReadTimeout {
            initial: time(low),
            max: high.map(time),
            min_rate,
        };
        let host = call.host();
        match key.as_str() {
            "header" => host.header_timeout = Some(timeout),
            "body" => host.body_timeout = Some(timeout),
            _ => host.tls.handshake_timeout = Some(timeout.longest()),
        }
    }
    Ok(())
}

/// A non-negative number, in httpd's words.
fn non_negative(call: &Call<'_, '_>) -> Result<u32, Fault> {
    let text = call.arg(0);
    u32::try_from(value::atoi(text)).map_err(|_| {
        Fault::new(format!(
            "{} \"{text}\" must be a non-negative integer",
            call.row.name
        ))
        .at(0)
    })
}

fn limit_request_line(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    call.host().limit_request_line = Some(limit(call)?);
    Ok(())
}

fn limit_request_fields(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    call.host().limit_request_fields = Some(limit(call)?);
    Ok(())
}

fn limit_request_field_size(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    call.host().limit_request_field_size = Some(limit(call)?);
    Ok(())
}

fn limit(call: &mut Call<'_, '_>) -> Result<u32, Fault> {
    let value = non_negative(call)?;
    number(call, 0);
    Ok(value)
}

fn limit_request_body(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    match call.arg(0).parse::<u64>() {
        Ok(_) => Ok(()),
        Err(_) => Err(Fault::new("LimitRequestBody requires a non-negative integer.").at(0)),
    }
}

fn listen_backlog(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let backlog = number(call, 0);
    if backlog < 1 {
        return Err(Fault::new("ListenBacklog must be > 0").at(0));
    }
    call.draft.spec.listen_backlog = u32::try_from(backlog).unwrap_or(u32::MAX);
    Ok(())
}

fn accept_filter(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let deferred = match call.arg(1).to_ascii_lowercase().as_str() {
        "none" => false,
        // What other systems call it; httpd on Linux makes no difference.
        "data" | "dataready" | "httpready" => true,
        other => {
            let message = format!("AcceptFilter: '{other}' is neither data nor none");
            return Err(Fault::new(message).at(1));
        }
    };
    match call.arg(0).to_ascii_lowercase().as_str() {
        "http" => call.draft.deferred[0] = deferred,
        "https" => call.draft.deferred[1] = deferred,
        other => {
            let message = format!("AcceptFilter: no Listen is for '{other}'");
            call.warn(Fault::new(message).at(0).help("write http or https"));
        }
    }
    Ok(())
}

fn graceful_shutdown_timeout(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let seconds = number(call, 0);
    if seconds < 0 {
        return Err(Fault::new("GracefulShutdownTimeout must not be negative").at(0));
    }
    call.draft.spec.graceful_shutdown_timeout = Duration::from_secs(seconds.unsigned_abs());
    Ok(())
}
