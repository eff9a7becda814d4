//! Our own directives, for use inside `<IfModule sluice_module>` (DESIGN section 7).

use super::{Arity, Call, Contexts, Directive, Effect, Fault, row};
use crate::config::{
    limit,
    report::{At, Severity},
    source::Kind,
    spec::{Interface, Metrics, Prefix, XdpMode},
    syntax::lexer::{FileText, Span},
};

pub(super) const TABLE: &[Directive] = &[
    row("XDPInterface", Contexts::MAIN, Arity::OneOrTwo, "NAME [mode=auto|native|generic]",
        "interface to attach the XDP program to; repeatable", Effect::Apply(xdp_interface)),
    row("GuardLimit", Contexts::SERVER, Arity::Some,
        "syn|flows|packets|udp|icmp RATE/s [burst=N] [per=/LEN4,/LEN6|service] [action=drop|report]",
        "most packets per second, of each source prefix (/32,/64) or of the whole service, with bursts of at most N (RATE). flows are new flows of steered services. In a virtual host for its addresses, else for every service, local and steered. action=report drops nothing and counts what would have been, as limit_reported, or steered_reported where it is steered; action=cookie is not in this version",
        Effect::Apply(guard_limit)),
    row("GuardDeny", Contexts::MAIN, Arity::Some, "PREFIX ...",
        "sources whose packets are dropped at the interface", Effect::Apply(guard_deny)),
    row("GuardAllow", Contexts::MAIN, Arity::Some, "PREFIX ...",
        "sources that neither GuardDeny nor limits apply to", Effect::Apply(guard_allow)),
    row("GuardDenyFile", Contexts::MAIN, Arity::One, "FILE",
        "as GuardDeny, a prefix a line; # begins a comment", Effect::Apply(guard_deny_file)),
    row("SluiceShards", Contexts::MAIN, Arity::One, "auto|N",
        "threads of the proxy, 1 to 1024", Effect::Apply(sluice_shards)).or("auto: one per CPU of the affinity mask, and no more than the control group's CPU quota, rounded up"),
    row("SluiceInstance", Contexts::MAIN, Arity::One, "NAME",
        "name of this instance for pins, locks and the command line: letters, digits, - and _, at most 32", Effect::Apply(sluice_instance))
        .or("default"),
    row("SluiceControl", Contexts::MAIN, Arity::OneOrTwo, "PATH [group=NAME]",
        "control socket, and the group that may use it beside root", Effect::Apply(sluice_control))
        .or("in the run directory"),
    row("SluiceMetrics", Contexts::MAIN, Arity::OneOrTwo, "ADDRESS:PORT [public]",
        "where GET /metrics is answered for Prometheus (docs/metrics.md). An address other than loopback only with `public`: whoever reaches it reads names, addresses and traffic of all members",
        Effect::Apply(sluice_metrics)).or("not served"),
];

/// Remembers that the file asks for the dataplane.
pub(super) fn needs_dataplane(call: &mut Call<'_, '_>) {
    let place = call.place();
    call.draft.spec.sluice.needs_dataplane.get_or_insert(place);
}

fn xdp_interface(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let name = call.arg(0).to_owned();
    // IFNAMSIZ is 16 with the zero; the kernel refuses '/', blanks and the two dots (dev_valid_name).
    let valid = !name.is_empty()
        && name.len() < 16
        && name != "."
        && name != ".."
        && !name.contains(['/', ':'])
        && !name.chars().any(char::is_whitespace);
    if !valid {
        return Err(Fault::new(format!("'{name}' is not an interface name"))
            .at(0)
            .help("expected 1 to 15 characters, for example eth0"));
    }
    let mode = match call.count() {
        1 => XdpMode::Auto,
        _ => match call.arg(1).to_ascii_lowercase().strip_prefix("mode=") {
            Some("auto") => XdpMode::Auto,
            Some("native") => XdpMode::Native,
            Some("generic") => XdpMode::Generic,
            _ => {
                let message = format!("XDPInterface: '{}' is not a mode", call.arg(1));
                return Err(Fault::new(message)
                    .at(1)
                    .help("expected mode=auto, mode=native or mode=generic"));
            }
        },
    };
    if call
        .draft
        .spec
        .sluice
        .interfaces
        .iter()
        .any(|known| known.name == name)
    {
        return Err(Fault::new(format!("XDPInterface {name} is already named")).at(0));
    }
    let at = call.place();
    call.draft
        .spec
        .sluice
        .interfaces
        .push(Interface { name, mode, at });
    needs_dataplane(call);
    Ok(())
}

fn guard_limit_fault(error: limit::LimitError) -> Fault {
    let message = error.message;
    // `limit set` shares the words, without a directive to name.
    let message = if message.starts_with("GuardLimit") {
        message
    } else {
        format!("GuardLimit: {message}")
    };
    Fault::new(message).at(error.word)
}

fn guard_limit(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let words: Vec<&str> = call.node.args.iter().map(|w| w.text.as_str()).collect();
    let parsed = limit::parse_words(&words);
    let mut limit = parsed.map_err(guard_limit_fault)?;
    limit.at = call.place();
    if call.scope.host > 0 {
        limit.addresses = Some(call.host().addresses.clone());
    }
    let same = |known: &crate::config::spec::GuardLimit| {
        let per = std::mem::discriminant(&known.per) == std::mem::discriminant(&limit.per);
        known.kind == limit.kind && per && known.addresses == limit.addresses
    };
    if let Some(known) = call
        .draft
        .spec
        .sluice
        .limits
        .iter()
        .find(|known| same(known))
    {
        let message = format!(
            "GuardLimit {}: there is one already, in line {}",
            words[0], known.at.line
        );
        return Err(Fault::new(message)
            .at(0)
            .help("a service has one limit of a kind per source and one per service"));
    }
    call.draft.spec.sluice.limits.push(limit);
    needs_dataplane(call);
    Ok(())
}

/// The arguments as prefixes; each that is none is an error of its own.
fn prefixes(call: &mut Call<'_, '_>) -> Vec<Prefix> {
    let mut prefixes = Vec::new();
    for index in 0..call.count() {
        match call.arg(index).parse::<Prefix>() {
            Ok(prefix) => prefixes.push(prefix),
            Err(error) => {
                let message = format!("{}: {error}", call.row.name);
                call.error(
                    Fault::new(message)
                        .at(index)
                        .help("expected a prefix such as 192.0.2.0/24 or 2001:db8::/32"),
                );
            }
        }
    }
    prefixes
}

#[expect(clippy::unnecessary_wraps, reason = "the table has one signature")]
fn guard_deny(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let prefixes = prefixes(call);
    call.draft.spec.sluice.deny.extend(prefixes);
    needs_dataplane(call);
    Ok(())
}

#[expect(clippy::unnecessary_wraps, reason = "the table has one signature")]
fn guard_allow(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let prefixes = prefixes(call);
    call.draft.spec.sluice.allow.extend(prefixes);
    needs_dataplane(call);
    Ok(())
}

fn guard_deny_file(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let path = call.draft.server_root.join(call.arg(0));
    let fail = |why: String| Fault::new(format!("GuardDenyFile {}: {why}", path.display())).at(0);
    let source = call.draft.source;
    match source.kind(&path) {
        Ok(Kind::File) => {}
        Ok(_) => return Err(fail("is not a regular file".to_owned())),
        Err(error) => return Err(fail(error.to_string())),
    }
    let bytes = source
        .read(&path, MAX_DENY_FILE_BYTES)
        .map_err(|error| fail(error.to_string()))?;
    let file = FileText::new(path, bytes);
    for number in 1..=file.last_line() {
        let line = file.line(number);
        let text = line.split('#').next().unwrap_or_default().trim();
        if text.is_empty() {
            continue;
        }
        match text.parse::<Prefix>() {
            Ok(prefix) => call.draft.spec.sluice.deny.push(prefix),
            Err(error) => {
                let before = line.find(text).unwrap_or_default();
                let span = Span {
                    line: number,
                    column: line[..before].chars().count() as u32 + 1,
                    width: text.chars().count() as u32,
                };
                let at = At {
                    file: &file,
                    line: number,
                    span: Some(span),
                    order: call.node.order,
                };
                let help = "expected one prefix a line, such as 192.0.2.0/24";
                call.draft
                    .reports
                    .push(Severity::Error, at, error.to_string(), help);
            }
        }
    }
    needs_dataplane(call);
    Ok(())
}

fn sluice_shards(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let text = call.arg(0);
    call.draft.spec.sluice.shards = if text.eq_ignore_ascii_case("auto") {
        None
    } else {
        let shards = text
            .parse()
            .ok()
            .filter(|n: &u32| (1..=1024).contains(n) && !text.starts_with('+'));
        let wrong = || {
            Fault::new(format!("SluiceShards: '{text}' is not a number of shards"))
                .at(0)
                .help("expected auto, or 1 to 1024")
        };
        Some(shards.ok_or_else(wrong)?)
    };
    Ok(())
}

fn sluice_instance(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let name = call.arg(0);
    // It becomes the name of a directory.
    let valid = (1..=64).contains(&name.len())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
    if !valid {
        let message = format!("SluiceInstance: '{name}' is not a name");
        return Err(Fault::new(message)
            .at(0)
            .help("expected 1 to 64 letters, digits, - or _"));
    }
    let name = name.to_owned();
    call.draft.spec.sluice.instance = name;
    Ok(())
}

fn sluice_control(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let path = call.draft.server_root.join(call.arg(0));
    // sun_path holds 108 bytes with the zero.
    if call.arg(0).is_empty() || path.as_os_str().len() > 107 {
        return Err(Fault::new("SluiceControl: the socket's path must have 1 to 107 bytes").at(0));
    }
    let group = match call.count() {
        1 => None,
        _ => {
            if let Some(group) = call
                .arg(1)
                .strip_prefix("group=")
                .filter(|group| !group.is_empty())
            {
                Some(group.to_owned())
            } else {
                let message = format!("SluiceControl: '{}' is not group=NAME", call.arg(1));
                return Err(Fault::new(message).at(1));
            }
        }
    };
    call.draft.spec.sluice.control = Some(path);
    call.draft.spec.sluice.control_group = group;
    Ok(())
}

fn sluice_metrics(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let address: std::net::SocketAddr = call.arg(0).parse().map_err(|_| {
        Fault::new(format!(
            "SluiceMetrics: '{}' is not ADDRESS:PORT",
            call.arg(0)
        ))
        .at(0)
        .help("expected an IP address and a port, for example 127.0.0.1:9330 or [::1]:9330")
    })?;
    if address.port() == 0 {
        return Err(Fault::new("SluiceMetrics: the port must be 1 to 65535").at(0));
    }
    let public = call.count() == 2;
    if public && !call.arg(1).eq_ignore_ascii_case("public") {
        let message = format!("SluiceMetrics: '{}' is not public", call.arg(1));
        return Err(Fault::new(message).at(1));
    }
    if !public && !address.ip().to_canonical().is_loopback() {
        let message = format!("SluiceMetrics: {} is not a loopback address", address.ip());
        return Err(Fault::new(message)
            .at(0)
            .help("`SluiceMetrics ADDRESS:PORT public` lets everybody who reaches it read them"));
    }
    if let Some(known) = &call.draft.spec.sluice.metrics {
        let message = format!(
            "SluiceMetrics: there is one already, in line {}",
            known.at.line
        );
        return Err(Fault::new(message));
    }
    let at = call.place();
    call.draft.spec.sluice.metrics = Some(Metrics { address, at });
    Ok(())
}

/// Largest GuardDenyFile, bytes.
const MAX_DENY_FILE_BYTES: u64 = 64 << 20;
