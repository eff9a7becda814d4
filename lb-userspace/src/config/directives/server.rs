//! Listen, virtual hosts, their names; who sluice runs as (apache.md 1.3, 1.5).

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::{Arity, Call, Contexts, Directive, Effect, Fault, Scope, Section, row};
use crate::config::{
    draft::{HostDraft, Listen},
    spec::{HostAddress, Slashes},
    url::split_authority,
};

/// What acts while it is read.
pub(super) const READING: &[Directive] = &[
    row(
        "Include",
        Contexts::ALL,
        Arity::Any,
        "FILE|DIRECTORY|PATTERN",
        "Reads other files here, relative to ServerRoot; an error when there is none",
        Effect::Read,
    ),
    row(
        "IncludeOptional",
        Contexts::ALL,
        Arity::Any,
        "FILE|DIRECTORY|PATTERN",
        "As Include; nothing happens when there is none",
        Effect::Read,
    ),
    row(
        "Define",
        Contexts::ALL,
        Arity::Any,
        "NAME [VALUE]",
        "Sets ${NAME} for the lines that follow, everywhere, and satisfies <IfDefine NAME>",
        Effect::Read,
    ),
    row(
        "UnDefine",
        Contexts::ALL,
        Arity::Any,
        "NAME",
        "Undoes a Define",
        Effect::Read,
    ),
    row(
        "<IfModule",
        Contexts::ALL,
        Arity::Any,
        "[!]mod_NAME.c|NAME_module",
        "Read if sluice has the module, or LoadModule named it; sluice_module is always there",
        Effect::Read,
    ),
    row(
        "<IfDefine",
        Contexts::ALL,
        Arity::Any,
        "[!]NAME",
        "Read if NAME is defined, by Define or -D",
        Effect::Read,
    ),
    row(
        "<IfVersion",
        Contexts::ALL,
        Arity::Any,
        "[!]=|<|<=|>|>= VERSION",
        "Read if the comparison holds for 2.4.71, the httpd whose behaviour sluice has",
        Effect::Read,
    ),
    row(
        "<IfFile",
        Contexts::ALL,
        Arity::Any,
        "[!]PATH",
        "Read if the file is there",
        Effect::Read,
    ),
    row(
        "<IfDirective",
        Contexts::ALL,
        Arity::Any,
        "[!]NAME",
        "Read if sluice knows the directive",
        Effect::Read,
    ),
    row(
        "<IfSection",
        Contexts::ALL,
        Arity::Any,
        "[!]NAME",
        "Read if sluice knows the section",
        Effect::Read,
    ),
];

/// Servers.
pub(super) const TABLE: &[Directive] = &[
    row("ServerRoot", Contexts::MAIN, Arity::One, "DIRECTORY",
        "directory that relative paths begin at", Effect::Apply(server_root))
        .or("the configuration file's directory"),
    row("Listen", Contexts::MAIN, Arity::Any, "[ADDRESS:]PORT [http|https]",
        "address and port to accept connections on; without an address all of IPv6 and IPv4. https (what port 443 is without it) turns TLS on in virtual hosts for it that have no SSLEngine", Effect::Apply(listen))
        .or("the ports of the virtual hosts, with a notice"),
    row("<VirtualHost", Contexts::MAIN, Arity::Any, "ADDRESS[:PORT] ...",
        "a server of its own for these local addresses: IP addresses, * or _default_; port * or none is any port",
        Effect::Section(virtual_host)),
    row("ServerName", Contexts::SERVER, Arity::One, "[SCHEME://]NAME[:PORT]",
        "name by which requests find this virtual host", Effect::Apply(server_name)),
    row("ServerAlias", Contexts::SERVER, Arity::Any, "NAME ...",
        "further names, with * and ? as wildcards", Effect::Apply(server_alias)),
    row("User", Contexts::MAIN, Arity::One, "NAME|#ID",
        "user that the proxy process runs as", Effect::Apply(user)),
    row("Group", Contexts::MAIN, Arity::One, "NAME|#ID",
        "group that the proxy process runs as", Effect::Apply(group)),
    row("UseCanonicalName", Contexts::ALL, Arity::One, "Off|On",
        "what the server calls itself in redirects, ProxyPassReverse, Via, SERVER_NAME, SERVER_PORT and %V: as the client calls it, or by ServerName and its port", Effect::Apply(canonical_name)).or("Off"),
    row("UseCanonicalPhysicalPort", Contexts::ALL, Arity::One, "Off|On",
        "whether the connection's port is the server's where neither the client nor (with UseCanonicalName On) ServerName says one", Effect::Apply(physical_port)).or("Off"),
    row("HostnameLookups", Contexts::SERVER.and(Contexts::LOCATION), Arity::One, "Off|On|Double",
        "whether clients' names are looked up for logs: On and Double are accepted with a warning, and %h is the address all the same", Effect::Apply(hostname_lookups)).or("Off"),
    row("TraceEnable", Contexts::SERVER, Arity::One, "Off",
        "whether TRACE is answered", Effect::Only(&["Off"])).or("Off"),
    row("AllowEncodedSlashes", Contexts::SERVER, Arity::One, "Off|On|NoDecode",
        "what becomes of %2F in a path: it is answered with 404, taken for a slash, passed on as it is", Effect::Apply(encoded_slashes)).or("Off"),
    row("StrictHostCheck", Contexts::SERVER, Arity::Flag, "On|Off",
        "whether a request for a name that no virtual host of the address has is refused with 400; the first one of an address says it for all of them", Effect::Apply(strict_host_check)).or("Off"),
    row("HttpProtocolOptions", Contexts::SERVER, Arity::Some, "Strict",
        "how strictly requests are read", Effect::Only(&["Strict"])).or("Strict"),
];

fn canonical_name(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let by_name = match call.arg(0).to_ascii_lowercase().as_str() {
        "on" => Some(true),
        "off" => Some(false),
        "dns" => {
            return Err(Fault::new("UseCanonicalName DNS is not supported")
                .at(0)
                .help("no request waits for a name server: On takes ServerName, Off what the client says"));
        }
        _ => return Err(Fault::new("parameter must be 'on', 'off', or 'dns'").at(0)),
    };
    if call.is_for_server() {
        call.host().canonical_name = by_name;
    } else {
        call.policy().canonical_name = by_name;
    }
    Ok(())
}

fn physical_port(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let physical = match call.arg(0).to_ascii_lowercase().as_str() {
        "on" => Some(true),
        "off" => Some(false),
        _ => return Err(Fault::new("parameter must be 'on' or 'off'").at(0)),
    };
    if call.is_for_server() {
        call.host().physical_port = physical;
    } else {
        call.policy().physical_port = physical;
    }
    Ok(())
}

fn encoded_slashes(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let slashes = match call.arg(0).to_ascii_lowercase().as_str() {
        "off" => Slashes::Refused,
        "on" => Slashes::Decoded,
        "nodecode" => Slashes::Kept,
        _ => {
            let message = "AllowEncodedSlashes must be On, Off, or NoDecode";
            return Err(Fault::new(message).at(0));
        }
    };
    call.host().encoded_slashes = Some(slashes);
    Ok(())
}

fn strict_host_check(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    call.host().strict_host = Some(call.flag()?);
    Ok(())
}

fn hostname_lookups(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let given = call.arg(0).to_ascii_lowercase();
    match given.as_str() {
        "off" => {}
        "on" | "double" => {
            let message = "names of clients are not looked up for logs: %h is the address";
            call.warn(Fault::new(message).at(0));
        }
        _ => {
            let message = "parameter must be 'on', 'off', or 'double'";
            return Err(Fault::new(message).at(0));
        }
    }
    Ok(())
}

fn server_root(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    // The reader acted on it already; here it is looked at.
    let path = call.draft.server_root.clone();
    match call.draft.source.kind(&path) {
        Ok(crate::config::source::Kind::Directory) => Ok(()),
        _ => Err(Fault::new("ServerRoot must be a valid directory").at(0)),
    }
}

fn listen(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    if !(1..=2).contains(&call.count()) {
        return Err(Fault::new("Listen requires 1 or 2 arguments.")
            .help("usage: Listen [ADDRESS:]PORT [http|https]"));
    }
    let text = call.arg(0);
    let invalid = || {
        Fault::new("Invalid address or port")
            .at(0)
            .help("expected PORT, ADDRESS:PORT or [IPV6]:PORT with a port from 1 to 65535")
    };
    let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
    let (host, port) = if digits(text) {
        ("", text)
    } else if let Some((host, port)) = text.rsplit_once(':').filter(|(_, port)| digits(port)) {
        (host, port)
    } else if text.contains(':') && !text.ends_with(']') {
        return Err(invalid());
    } else {
        return Err(Fault::new("Port must be specified")
            .at(0)
            .help("expected PORT, ADDRESS:PORT or [IPV6]:PORT"));
    };
    let port: u16 = port.parse().ok().filter(|p| *p != 0).ok_or_else(invalid)?;
    let ip = match host {
        "" | "*" => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => parse_ip(host).ok_or_else(|| {
            invalid()
                .help("sluice looks up no names here: give an IP address, an IPv6 one in brackets")
        })?,
    };
    let https = match (call.count(), call.arg(1).to_ascii_lowercase().as_str()) {
        (1, _) => port == 443,
        (_, "http") => false,
        (_, "https") => true,
        (_, other) => {
            let what = format!("Listen with protocol '{other}'");
            return Err(super::not_yet(&what).at(1));
        }
    };
    let address = SocketAddr::new(ip, port);
    if let Some(first) = call.draft.listens.iter().find(|l| l.address == address) {
        let help = format!(
            "the first is in line {} of {}",
            first.mark.line,
            first.mark.file.path.display()
        );
        return Err(
            Fault::new("Cannot define multiple Listeners on the same IP:port")
                .at(0)
                .help(help),
        );
    }
    let mark = call.mark(0);
    call.draft.listens.push(Listen {
        address,
        https,
        mark,
    });
    Ok(())
}

/// An IPv4 address, or an IPv6 address in brackets.
fn parse_ip(text: &str) -> Option<IpAddr> {
    match text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
        Some(v6) => v6.parse().ok().map(IpAddr::V6),
        None => text.parse().ok().map(IpAddr::V4),
    }
}

fn virtual_host(call: &mut Call<'_, '_>) -> Result<Scope, Fault> {
    if call.count() == 0 {
        return Err(
            Fault::new("<VirtualHost> directive requires additional arguments")
                .help("expected addresses, for example *:80"),
        );
    }
    // httpd takes the main server's port as it is known at this line.
    let default_port = call.draft.hosts[0].server_port;
    let mut addresses = Vec::new();
    for index in 0..call.count() {
        match host_address(call.arg(index), default_port) {
            Ok(address) => addresses.push(address),
            Err(fault) => call.error(fault.at(index)),
        }
    }
    let mark = call.mark(0);
    let policy = call.draft.new_policy();
    call.draft.hosts.push(HostDraft {
        addresses,
        mark: Some(mark),
        policy,
        ..HostDraft::default()
    });
    Ok(Scope {
        host: call.draft.hosts.len() - 1,
        section: Section::None,
        policy,
        limit: None,
    })
}

fn host_address(text: &str, default_port: Option<u16>) -> Result<HostAddress, Fault> {
    let (host, port) = match text.rsplit_once(':') {
        // The last colon of a bare `[v6]` is inside the brackets.
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let port = match port {
        None => default_port,
        Some("*") => None,
        Some(digits) => {
            let port = digits
                .parse()
                .ok()
                .filter(|p: &u16| *p != 0 && !digits.starts_with('+'));
            Some(port.ok_or_else(|| {
                Fault::new("The address or port is invalid")
                    .help("expected a port from 1 to 65535, or *")
            })?)
        }
    };
    let ip = if host == "*" || host.eq_ignore_ascii_case("_default_") {
        None
    } else {
        let ip = parse_ip(host).ok_or_else(|| {
            Fault::new(format!(
                "<VirtualHost> address '{host}' is not an IP address"
            ))
            .help("sluice looks up no names here: give IP addresses, IPv6 ones in brackets, or *")
        })?;
        Some(ip)
    };
    Ok(HostAddress { ip, port })
}

fn server_name(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let text = call.arg(0);
    let name = text.split_once("://").map_or(text, |(_, rest)| rest);
    let Some((host, port)) = split_authority(name) else {
        return Err(match name.rsplit_once(':') {
            Some((_, port)) if port.parse::<u16>().is_err() || port == "0" => Fault::new(format!(
                "The port number \"{text}\" is outside the appropriate range (i.e., 1..65535)."
            ))
            .at(0),
            _ => Fault::new(format!("ServerName '{text}' is not a host name")).at(0),
        });
    };
    let name = host.trim_end_matches('.').to_ascii_lowercase();
    let host = call.host();
    host.server_port = port;
    host.server_name = (!name.is_empty()).then_some(name);
    Ok(())
}

fn server_alias(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    if call.scope.host == 0 {
        return Err(Fault::new("ServerAlias only used in <VirtualHost>"));
    }
    let names: Vec<String> = call
        .node
        .args
        .iter()
        .map(|word| word.text.trim_end_matches('.').to_ascii_lowercase())
        .collect();
    call.host().aliases.extend(names);
    Ok(())
}

#[expect(clippy::unnecessary_wraps, reason = "the table has one signature")]
fn user(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    call.draft.spec.user = Some(call.arg(0).to_owned());
    Ok(())
}

#[expect(clippy::unnecessary_wraps, reason = "the table has one signature")]
fn group(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    call.draft.spec.group = Some(call.arg(0).to_owned());
    Ok(())
}
