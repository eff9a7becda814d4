//! `key=value` parameters of members (workers) and balancers (apache.md 4).

use std::time::Duration;

use super::{Call, Fault};
use crate::config::{
    spec::{AddressTtl, Health, Member, Place, Scheme, Upgrade},
    status::parse_status_flags,
    url::WorkerUrl,
    value::{self, Unit, atoi},
};

mod balancer;

pub(super) use balancer::set as set_balancer_keys;

/// Parses the URL of a worker of a scheme that this version speaks. The error is what follows the
/// directive's name.
pub(super) fn worker_url(text: &str) -> Result<WorkerUrl, String> {
    let url = WorkerUrl::parse(text).map_err(|error| error.to_string())?;
    if url.socket.is_some() && matches!(url.scheme.as_str(), "https" | "wss") {
        return Err(format!(
            "to {}:// over a Unix socket is not supported by this version of sluice",
            url.scheme
        ));
    }
    match url.scheme.as_str() {
        "http" | "https" | "ws" | "wss" => Ok(url),
        "h2" | "h2c" | "ajp" | "fcgi" | "scgi" | "uwsgi" | "ftp" | "fdpass" | "tcp" | "udp" => {
            Err(format!(
                "to {}:// is not supported by this version of sluice",
                url.scheme
            ))
        }
        scheme => Err(format!(
            "to {scheme}://: unknown scheme; this version has http://, https://, ws:// and wss://"
        )),
    }
}

/// Parses the URL of a member: that of a worker, or `tcp://` or `udp://` for L4 alone, which have no
/// path and may have no port. The error is what follows the directive's name.
pub(super) fn member_url(text: &str) -> Result<WorkerUrl, String> {
    match WorkerUrl::parse(text) {
        Ok(url) if matches!(url.scheme.as_str(), "tcp" | "udp") => {
            if matches!(url.path.as_str(), "" | "/") {
                Ok(WorkerUrl {
                    path: String::new(),
                    ..url
                })
            } else {
                Err(format!("to {}:// has no path: {text}", url.scheme))
            }
        }
        _ => worker_url(text),
    }
}

/// A member with every key at its default.
pub(super) fn member(url: &WorkerUrl, at: Place) -> Member {
    let scheme = match url.scheme.as_str() {
        "https" | "wss" => Scheme::Https,
        "tcp" => Scheme::Tcp,
        "udp" => Scheme::Udp,
        _ => Scheme::Http,
    };
    let upgrade = match url.scheme.as_str() {
        "ws" | "wss" => Upgrade::To(vec!["websocket".to_owned()]),
        _ => Upgrade::Never,
    };
    Member {
        url: format!("{}{}", url.authority(), url.path),
        scheme,
        tls: None,
        socket: url.socket.clone().map(Into::into),
        host: url.host.clone(),
        port: url.port.unwrap_or(scheme.default_port()),
        path: url.path.clone(),
        lbfactor: 100,
        lbset: 0,
        route: String::new(),
        redirect: String::new(),
        status: 0,
        retry: Duration::from_mins(1),
        timeout: None,
        connection_timeout: None,
        ttl: None,
        address_ttl: AddressTtl::Record,
        max: None,
        acquire: None,
        keepalive: false,
        disablereuse: false,
        response_field_size: 8192,
        receive_buffer: None,
        source: None,
        ping: None,
        ramp_up: None,
        upgrade,
        health: Health::default(),
        at,
    }
}

/// Sets keys of a member; each that is refused is an error of its own.
pub(super) fn set_member_keys(
    call: &mut Call<'_, '_>,
    member: &mut Member,
    params: &[(usize, String, String)],
    directive: &str,
) {
    for (index, key, value) in params {
        if let Err(problem) = set_member_key(call, member, *index, key, value) {
            problem.report(call, *index, |why| format!("{directive} {why}"));
        }
    }
}

/// Why a key is refused.
pub(super) enum Problem {
    /// In httpd's words.
    Wrong(String),
    /// Likewise, and what is expected.
    Expected(&'static str, String),
    /// Not a key; the nearest one.
    Unknown(&'static str, Option<&'static str>),
    /// Not in this version.
    NotYet(String),
}

impl Problem {
    /// Says it of the argument with this index; `full` makes the message of what is wrong.
    pub(super) fn report(
        self,
        call: &mut Call<'_, '_>,
        index: usize,
        full: impl Fn(&str) -> String,
    ) {
        let fault = match self {
            Self::Wrong(why) => Fault::new(full(&why)),
            Self::Expected(why, values) => Fault::new(full(why)).help(format!("expected {values}")),
            Self::Unknown(why, nearest) => {
                let help = nearest.map(|name| format!("did you mean {name}=?"));
                Fault::new(full(why)).help(help.unwrap_or_default())
            }
            Self::NotYet(what) => super::not_yet(&what),
        };
        call.error(fault.at(index));
    }
}

/// In httpd's words.
pub(super) fn wrong(why: &str) -> Problem {
    Problem::Wrong(why.to_owned())
}

/// Whole seconds, by `atoi`, with a warning for what it ignores.
fn seconds(
    call: &mut Call<'_, '_>,
    index: usize,
    value: &str,
    least: i64,
    why: &str,
) -> Result<Duration, Problem> {
    whole(call, index, value, least, why).map(|n| Duration::from_secs(u64::from(n)))
}

/// A whole number, by `atoi`, with a warning for what it ignores.
fn whole(
    call: &mut Call<'_, '_>,
    index: usize,
    value: &str,
    least: i64,
    why: &str,
) -> Result<u32, Problem> {
    let number = atoi(value);
    if number < least {
        return Err(wrong(why));
    }
    if let Some(junk) = value::junk_after_number(value) {
        let message = format!("'{junk}' is ignored, as in httpd: this is {number}");
        call.warn(
            Fault::new(message)
                .at(index)
                .help("write a whole number without a unit"),
        );
    }
    u32::try_from(number).map_err(|_| wrong(why))
}

fn on_off(value: &str, why: &str) -> Result<bool, Problem> {
    value::flag(value).ok_or_else(|| wrong(why))
}

fn short(value: &str, why: &str) -> Result<String, Problem> {
    if value.len() < 64 {
        Ok(value.to_owned())
    } else {
        Err(wrong(why))
    }
}

fn set_member_key(
    call: &mut Call<'_, '_>,
    member: &mut Member,
    index: usize,
    key: &str,
    value: &str,
) -> Result<(), Problem> {
    match key.to_ascii_lowercase().as_str() {
        "loadfactor" => {
            let factor = float(value).filter(|f| (1.0..=100.0).contains(f));
            let factor =
                factor.ok_or_else(|| wrong("LoadFactor must be a number between 1..100"))?;
            // 1.0..=100.0 checked above.
            #[expect(
                clippy::cast_sign_loss,
                reason = "the range is checked in the line before"
            )]
            let hundredths = (factor * 100.0) as u32;
            member.lbfactor = hundredths;
        }
        "lbset" => {
            let why = "lbset must be between 0 and 99";
            let set = whole(call, index, value, 0, why)?;
            member.lbset = u8::try_from(set)
                .ok()
                .filter(|n| *n <= 99)
                .ok_or_else(|| wrong(why))?;
        }
        "route" => member.route = short(value, "Route length must be < 64 characters")?,
        "redirect" => member.redirect = short(value, "Redirect length must be < 64 characters")?,
        "status" => {
            member.status = parse_status_flags(value, member.status)
                .map_err(|why| Problem::Wrong(format!("Unknown status parameter option: {why}")))?;
        }
        "retry" => member.retry = seconds(call, index, value, 0, "Retry must be a positive value")?,
        "timeout" => {
            member.timeout = Some(seconds(
                call,
                index,
                value,
                1,
                "Timeout must be at least one second",
            )?);
        }
        "connectiontimeout" => {
            let time = value::time(value, Unit::Seconds)
                .ok_or_else(|| wrong("Connectiontimeout has wrong format"))?;
            if time.is_zero() {
                return Err(wrong("Connectiontimeout must be at least one millisecond."));
            }
            member.connection_timeout = Some(time);
        }
        "ttl" => {
            member.ttl = Some(seconds(
                call,
                index,
                value,
                1,
                "TTL must be at least one second",
            )?);
        }
        "addressttl" => member.address_ttl = address_ttl(value)?,
        "max" => {
            let max = whole(call, index, value, 0, "Max must be a positive number")?;
            // 0 is "as many as there are threads": no bound of its own.
            member.max = (max > 0).then_some(max);
        }
        "acquire" => {
            let time = value::time(value, Unit::Milliseconds)
                .ok_or_else(|| wrong("Acquire has wrong format"))?;
            if time.is_zero() {
                return Err(wrong("Acquire must be at least one millisecond"));
            }
            member.acquire = Some(time);
        }
        "keepalive" => member.keepalive = on_off(value, "KeepAlive must be On|Off")?,
        "disablereuse" => member.disablereuse = on_off(value, "DisableReuse must be On|Off")?,
        "enablereuse" => member.disablereuse = !on_off(value, "EnableReuse must be On|Off")?,
        "responsefieldsize" => {
            let why = "ResponseFieldSize must be greater than 0 bytes, or 0 for system default.";
            let bytes = whole(call, index, value, 0, why)?;
            member.response_field_size = if bytes == 0 { 8192 } else { bytes };
        }
        "receivebuffersize" => {
            let why = "ReceiveBufferSize must be >= 512 bytes, or 0 for system default.";
            member.receive_buffer = buffer_size(call, index, value, why)?;
        }
        "iobuffersize" => {
            let why = "IOBufferSize must be >= 512 bytes, or 0 for system default.";
            buffer_size(call, index, value, why)?;
            no_effect(
                call,
                index,
                key,
                "reads and writes have the size that there is to read and write",
            );
        }
        "min" => {
            whole(call, index, value, 0, "Min must be a positive number")?;
            no_effect(
                call,
                index,
                key,
                "no connection is made before it is needed, and idle ones stay for ttl",
            );
        }
        "smax" => {
            whole(call, index, value, 0, "Smax must be a positive number")?;
            no_effect(
                call,
                index,
                key,
                "ttl alone says how long idle connections stay",
            );
        }
        "flushpackets" => {
            if value::flag(value).is_none() && !value.eq_ignore_ascii_case("auto") {
                return Err(wrong("flushpackets must be on|off|auto"));
            }
            no_effect(
                call,
                index,
                key,
                "responses are always passed on as they come",
            );
        }
        "flushwait" => {
            let why = "flushwait must be <= 1000, or 0 for system default of 10 millseconds.";
            if whole(call, index, value, 0, why)? > 1000 {
                return Err(wrong(why));
            }
            no_effect(
                call,
                index,
                key,
                "responses are always passed on as they come",
            );
        }
        "flusher" => {
            if value.len() >= 16 {
                return Err(wrong("flusher name length must be < 16 characters"));
            }
            no_effect(call, index, key, "it is for fdpass:// members");
        }
        "secret" => {
            short(value, "Secret length must be < 64 characters")?;
            no_effect(call, index, key, "it is for ajp:// members");
        }
        "ping" => {
            let time = value::time(value, Unit::Seconds)
                .ok_or_else(|| wrong("Ping/Pong timeout has wrong format"))?;
            if time.is_zero() {
                let why = "Ping/Pong timeout must be at least one millisecond";
                return Err(wrong(why));
            }
            member.ping = Some(time);
        }
        "rampup" => {
            let why = "rampup must be at least one second";
            member.ramp_up = Some(seconds(call, index, value, 1, why)?);
        }
        "upgrade" => member.upgrade = upgrade(value)?,
        "hcmethod" | "hcinterval" | "hcpasses" | "hcfails" | "hcuri" | "hcexpr" | "hctemplate"
        | "hcpath" => {
            super::health::set(call, &mut member.health, key, value)?;
        }
        lower if MEMBER_KEYS_NOT_YET.contains(&lower) => {
            return Err(Problem::NotYet(format!("member key '{key}'")));
        }
        _ => {
            let names = MEMBER_KEYS.iter().map(|(name, ..)| *name);
            let known = names.chain(MEMBER_KEYS_NOT_YET.iter().copied());
            return Err(Problem::Unknown(
                "unknown Worker parameter",
                value::nearest(key, known),
            ));
        }
    }
    Ok(())
}

/// A key that is taken and changes nothing, in httpd's model alone or with members of another kind.
fn no_effect(call: &mut Call<'_, '_>, index: usize, key: &str, why: &str) {
    let message = format!("member key '{key}' has no effect: {why}");
    call.notice(Fault::new(message).at(index));
}

/// Whole seconds up to 2^31 - 1, with unit or without, or -1.
fn address_ttl(value: &str) -> Result<AddressTtl, Problem> {
    let why = "AddressTTL must be -1 or a number of seconds not exceeding (2147483647)";
    if value == "-1" {
        return Ok(AddressTtl::Forever);
    }
    let time = value::time(value, Unit::Seconds).ok_or_else(|| wrong(why))?;
    if time.subsec_nanos() != 0 || time.as_secs() > 2_147_483_647 {
        return Err(wrong(why));
    }
    Ok(AddressTtl::Every(time.max(Duration::from_secs(1))))
}

fn buffer_size(
    call: &mut Call<'_, '_>,
    index: usize,
    value: &str,
    why: &str,
) -> Result<Option<u32>, Problem> {
    let bytes = whole(call, index, value, 0, why)?;
    if (1..512).contains(&bytes) {
        return Err(wrong(why));
    }
    Ok((bytes > 0).then_some(bytes))
}

/// A protocol, several with commas, `ANY` or `NONE`.
fn upgrade(value: &str) -> Result<Upgrade, Problem> {
    if value.len() >= 16 {
        return Err(wrong("upgrade protocol length must be < 16 characters"));
    }
    Ok(match value.to_ascii_lowercase().as_str() {
        "" | "none" => Upgrade::Never,
        "any" | "*" => Upgrade::Any,
        list => Upgrade::To(
            list.split(',')
                .map(|name| name.trim().to_owned())
                .filter(|name| !name.is_empty())
                .collect(),
        ),
    })
}

/// A number as C's `atof` reads it: as much of the text as makes one.
fn float(text: &str) -> Option<f64> {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    // A second dot ends the number.
    let digits = match text[..end].match_indices('.').nth(1) {
        Some((second, _)) => &text[..second],
        None => &text[..end],
    };
    digits.parse().ok()
}

/// A key, for suggestions and documentation: name, default, meaning.
pub(super) type Key = (&'static str, &'static str, &'static str);

/// Keys of a member.
#[rustfmt::skip] // One row a line: it is read as a table.
pub(super) const MEMBER_KEYS: &[Key] = &[
    ("loadfactor", "1", "share of the requests: 1 to 100, two decimals"),
    ("lbset", "0", "0 to 99; members of the lowest set with a usable one are used"),
    ("route", "", "what a session's cookie or path names this member by; under 64 bytes"),
    ("redirect", "", "route of the member that takes over its sessions; under 64 bytes"),
    ("status", "", "flags with + or -: D disabled, S stopped, N drain, I ignore errors, H hot standby, R hot spare, E in error, C failed its health check"),
    ("retry", "60", "seconds in error before it is tried again; 0 is at once"),
    ("timeout", "ProxyTimeout", "seconds for one read or write, at least 1"),
    ("connectiontimeout", "timeout", "time to connect; seconds, or with unit ms, s, min, h"),
    ("ttl", "", "seconds after which an idle connection is closed, at least 1"),
    ("addressttl", "the record's", "seconds that the addresses of the member's name hold, or with unit; at least 1; -1 is for ever. Without: as long as the name server says, from a second to an hour"),
    ("max", "", "connections of the whole proxy process; 0 is no limit"),
    ("acquire", "", "time to wait for a connection when max is reached; milliseconds, or with unit"),
    ("keepalive", "Off", "SO_KEEPALIVE on its connections"),
    ("disablereuse", "Off", "a connection for each request"),
    ("enablereuse", "On", "the same, the other way round"),
    ("responsefieldsize", "8192", "bytes of the longest header field of a response; 0 is the default"),
    ("receivebuffersize", "0", "bytes of its connections' receive buffers, at least 512; 0 is the system's default"),
    ("iobuffersize", "8192", "no effect: reads and writes have the size that there is to read and write"),
    ("min", "0", "no effect: no connection is made before it is needed"),
    ("smax", "max", "no effect: ttl alone says how long idle connections stay"),
    ("flushpackets", "Off", "no effect: responses are always passed on as they come"),
    ("flushwait", "10", "no effect: responses are always passed on as they come"),
    ("flusher", "flush", "no effect: it is for fdpass:// members"),
    ("secret", "", "no effect: it is for ajp:// members"),
    ("ping", "", "time in which the member has to say 100 (Continue) to a request with a body before the body is sent, else another is tried; seconds, or with unit ms, s, min, h"),
    ("rampup", "", "seconds in which a member that comes back, or is added, comes to its whole share; at least 1 (not httpd's)"),
    ("upgrade", "NONE", "protocols that a client may switch a connection to: websocket, another name, ANY (but h2c, which has to be named) or NONE; ws:// and wss:// mean websocket"),
    ("hcmethod", "None", "how its health is checked: None, TCP, OPTIONS, HEAD, GET, and OPTIONS11, HEAD11, GET11 for HTTP/1.1; members of balancers only"),
    ("hcinterval", "30", "time between two checks, at least 100ms; seconds, or with unit; varied by a tenth, so that checks spread"),
    ("hcpasses", "1", "checks that must succeed before a failed member is used again"),
    ("hcfails", "1", "checks that must fail before a member is no longer used; successes between do not count"),
    ("hcuri", "", "what is added to the member's path for OPTIONS, HEAD and GET; under 64 bytes"),
    ("hcexpr", "", "name of the ProxyHCExpr that says whether an answer is a success; without: status 200 to 399"),
    ("hctemplate", "", "name of the ProxyHCTemplate whose keys are taken over"),
    ("hcpath", "direct", "the way of a check to the member: direct, to its own address; ours"),
];
/// Keys of a member that this version refuses.
pub(super) const MEMBER_KEYS_NOT_YET: &[&str] = &[];
/// Keys of a balancer.
#[rustfmt::skip] // One row a line: it is read as a table.
pub(super) const BALANCER_KEYS: &[Key] = &[
    ("lbmethod", "byrequests", "how a member is elected: byrequests, bytraffic, bybusyness or heartbeat; not httpd's: leastlatency (of two drawn at random the one that would answer sooner) and hash (requests with one hashkey to one member)"),
    ("stickysession", "", "NAME of the cookie and path parameter with the session's route, or COOKIE|PARAMETER; under 64 bytes"),
    ("stickysessionsep", ".", "character before the route, or Off: the whole value is the route"),
    ("scolonpathdelim", "Off", "whether ; ends a path parameter too"),
    ("stickycookie", "Off", "whether sluice writes the session's cookie, so that no Header line is needed; members without route get one made of their URL"),
    ("nofailover", "Off", "503 where a session's member is not usable"),
    ("timeout", "0", "seconds to wait for a usable member before 503, at least 1 where given"),
    ("maxattempts", "members - 1", "members tried after the first"),
    ("failonstatus", "", "statuses, 100 to 599, that put the member into error: 500,503"),
    ("failontimeout", "Off", "whether a response that is late puts the member into error"),
    ("forcerecovery", "On", "whether all members are tried again when all are in error"),
    ("hashkey", "source", "what lbmethod=hash goes by: source, header:NAME, cookie:NAME or path; a request without it goes by its source (not httpd's)"),
    ("retrybudget", "", "percent of the requests of ten seconds that may be tried again on another member, 1 to 100; ten always may (not httpd's)"),
    ("ejectmax", "", "percent of the members, 1 to 100, that may be out when one is put into error because its answers fail (five in a row are 5xx or none, or half of at least 20 in ten seconds); without: none is (not httpd's)"),
    ("growth", "0", "members that the balancer-manager may add: 1 to 100"),
    ("nonce", "", "what a change in the balancer-manager has to carry, at most 36 characters; None: it changes nothing; without: new at each start"),
];
/// Keys of a balancer that this version refuses.
pub(super) const BALANCER_KEYS_NOT_YET: &[&str] = &[];
