//! `cargo xtask abi`: the layout of everything that programs, processes and versions share, as text,
//! against `lb-common/abi.txt`. A change that does not raise `ABI_VERSION` fails.
//!
//! Fields are listed by hand, but none can be forgotten: each list is also a pattern that must name
//! every field, or this does not compile.

use std::{
    fmt::Write as _,
    fs,
    mem::{align_of, offset_of, size_of},
    path::Path,
};

use anyhow::{Context as _, Result, bail};
use lb_common::{
    abi,
    addr::{Address, Be16},
    capture::{Capture, Event},
    deny::{PrefixEntry, origin},
    flow_table::{Budget, Entry, Flow4Key, Flow4Set, Flow4Way, Flow6Key, Flow6Set},
    forward::{Forward, Hop, Link, MemberCounter, hash_kind, mode, on_empty},
    fragment::{FragmentKey, FragmentValue},
    limit::{self, Limit, LimitKind, ServiceLimits, ServiceWindows, SourceKey, Windows, action},
    member::{
        MemberElection, MemberHead, MemberName, MemberRecord, MemberSlot, MemberState,
        MemberTraffic,
    },
    meta::{MAGIC, Meta, phase},
    nat::{NatEntry, seen},
    quic::{ServerIdKey, ServerIdValue},
    ring::{MAX_RINGS, RING_SLOTS, RingRow},
    service::{ServiceSet, ServiceWay, flag, kind},
    settings::{Settings, gate},
    verdict::{Counter, Reason},
};

/// Where the dump is kept, from the workspace.
const FILE: &str = "lb-common/abi.txt";

/// Compares the layouts with `lb-common/abi.txt`, or, with `bless`, writes it.
///
/// Either way fails if layouts changed and `ABI_VERSION` did not.
pub(crate) fn run(root: &Path, bless: bool) -> Result<()> {
    let path = root.join(FILE);
    let committed = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && bless => String::new(),
        Err(e) => return Err(e).with_context(|| path.display().to_string()),
    };
    let now = dump();
    if now == committed {
        println!("{FILE}: as committed (version {})", abi::ABI_VERSION);
        return Ok(());
    }
    let changes = changes(&committed, &now);
    if committed.lines().next() == now.lines().next() {
        bail!("{FILE}: layouts changed under the same ABI_VERSION; raise it in abi.rs\n{changes}");
    }
    if !bless {
        bail!("{FILE} is of another version: run `cargo xtask abi --bless` and commit\n{changes}");
    }
    fs::write(&path, now).with_context(|| path.display().to_string())?;
    println!("{FILE}: written (version {})\n{changes}", abi::ABI_VERSION);
    Ok(())
}

/// The lines that went and came.
fn changes(old: &str, new: &str) -> String {
    let lines = |sign: char, from: &str, than: &str| {
        from.lines()
            .filter(|line| !than.lines().any(|other| other == *line))
            .fold(String::new(), |text, line| format!("{text}{sign} {line}\n"))
    };
    lines('-', old, new) + &lines('+', new, old)
}

/// Appends one type: a line for it and one a field.
macro_rules! layout {
    ($out:ident, $type:ident { $($field:ident),* $(,)? }) => {{
        fn names_every_field(value: $type) {
            let $type { $($field: _),* } = value;
        }
        let _: fn($type) = names_every_field;
        $out.push_str(&line(stringify!($type), size_of::<$type>(), align_of::<$type>()));
        let fields = [$((stringify!($field), offset_of!($type, $field))),*];
        for (name, offset) in fields {
            $out.push_str(&format!("  {offset:>4} {name}\n"));
        }
    }};
    ($out:ident, $type:ident (..)) => {
        $out.push_str(&line(stringify!($type), size_of::<$type>(), align_of::<$type>()));
    };
}

fn line(name: &str, size: usize, align: usize) -> String {
    format!("{name} size {size} align {align}\n")
}

/// Everything shared, one fact a line.
fn dump() -> String {
    let mut out = format!("version {}\n", abi::ABI_VERSION);
    layout!(out, Address(..));
    layout!(out, Be16(..));
    layout!(out, Counter { packets, bytes });
    layout!(
        out,
        Limit {
            window_ns,
            packets,
            rate,
            action,
            prefix4,
            prefix6,
            origin,
            pad
        }
    );
    layout!(
        out,
        MemberElection {
            lbstatus,
            elected,
            error_since,
            retries,
            failed,
            reserved
        }
    );
    layout!(
        out,
        MemberHead {
            identity,
            state,
            address,
            incarnation,
            weight,
            balancer,
            port,
            lbset,
            pad,
            mac,
        }
    );
    layout!(
        out,
        MemberName {
            balancer,
            url,
            route
        }
    );
    layout!(
        out,
        MemberRecord {
            status,
            weight,
            lbset,
            pad,
            retired,
            reserved
        }
    );
    layout!(
        out,
        MemberSlot {
            head,
            election,
            traffic,
            record
        }
    );
    layout!(
        out,
        MemberTraffic {
            read,
            transferred,
            responses,
            reserved
        }
    );
    layout!(
        out,
        Meta {
            magic,
            abi,
            phase,
            generation,
            heartbeat,
            control_pid,
            proxy_pid,
            proxy_incarnation,
            state_sequence,
            build,
            boot,
            beat_tick,
            beat_shift,
            beat_offset,
            layouts,
        }
    );
    layout!(
        out,
        PrefixEntry {
            expires,
            origin,
            prefix
        }
    );
    layout!(out, ServiceLimits { source, service });
    layout!(out, ServiceSet { ways });
    layout!(
        out,
        ServiceWay {
            address,
            port,
            proto,
            kind,
            id,
            balancer,
            flags,
            range
        }
    );
    layout!(out, ServiceWindows { kinds });
    layout!(
        out,
        Settings {
            gates,
            service_seed,
            log_every,
            flow_seed,
            inserts,
            promotions,
            answers,
            pad,
            range_filter
        }
    );
    layout!(
        out,
        SourceKey {
            prefix,
            service,
            kind,
            pad
        }
    );
    layout!(out, Windows { words });
    steering(&mut out);
    constants(&mut out);
    out
}

/// Layouts of the maps of steering.
fn steering(out: &mut String) {
    layout!(
        out,
        Budget {
            beat,
            inserts,
            promotions,
            answers
        }
    );
    layout!(
        out,
        Capture {
            reasons,
            every,
            address,
            port,
            service,
            member,
            pad
        }
    );
    layout!(out, Entry(..));
    layout!(
        out,
        Event {
            time,
            ifindex,
            len,
            service,
            member,
            reason,
            pad,
            captured,
            sent,
            reserved,
            data
        }
    );
    layout!(
        out,
        Flow4Key {
            source,
            port,
            service
        }
    );
    layout!(out, Flow4Set { ways });
    layout!(out, Flow4Way { key, value });
    layout!(
        out,
        Flow6Key {
            source,
            destination,
            source_port,
            destination_port,
            service,
            pad
        }
    );
    layout!(
        out,
        Flow6Set {
            values,
            tails,
            sources,
            destinations
        }
    );
    layout!(
        out,
        Forward {
            seed,
            source6,
            source4,
            balancer,
            mode,
            hash,
            on_empty,
            dscp,
            quic_len,
            pad,
            mtu,
            gue_port,
            tcp_idle,
            udp_idle,
            nat_first,
            nat_ports,
            reserved
        }
    );
    layout!(
        out,
        FragmentKey {
            source,
            destination,
            id,
            proto
        }
    );
    layout!(
        out,
        FragmentValue {
            beat,
            member,
            service,
            answer,
            incarnation
        }
    );
    layout!(
        out,
        Hop {
            given,
            learned,
            asked,
            reserved
        }
    );
    layout!(
        out,
        Link {
            to,
            from,
            ifindex,
            mtu
        }
    );
    layout!(
        out,
        MemberCounter {
            packets,
            bytes,
            flows,
            by_ring
        }
    );
    layout!(
        out,
        NatEntry {
            value,
            client_port,
            service_port,
            our_port,
            service,
            client,
            destination,
            seen,
            ifindex,
            client_mac,
            our_mac
        }
    );
    layout!(out, RingRow(..));
    layout!(
        out,
        ServerIdKey {
            balancer,
            len,
            pad,
            id
        }
    );
    layout!(
        out,
        ServerIdValue {
            member,
            incarnation,
            pad
        }
    );
}

/// Numbers that mean the same to every reader of a map.
fn constants(out: &mut String) {
    macro_rules! constants {
        ($($path:path),* $(,)?) => {
            $(
                // Writing into a String cannot fail.
                let _ = writeln!(
                    out,
                    "{} = {:#x}",
                    stringify!($path).replace(' ', ""),
                    u64::from($path),
                );
            )*
        };
    }
    constants!(
        abi::MAX_MEMBERS,
        abi::MAX_SERVICES,
        abi::SERVICE_SETS,
        abi::BUSY_COLUMNS,
        abi::MAX_SOURCES,
        abi::MAX_PREFIXES,
        MAGIC,
        Reason::COUNT,
        MemberState::DISABLED,
        MemberState::STOPPED,
        MemberState::DRAIN,
        MemberState::STANDBY,
        MemberState::SPARE,
        MemberState::IGNORE_ERRORS,
        MemberState::ERROR,
        MemberState::HEALTH_FAILED,
        action::DROP,
        action::REPORT,
        flag::LIMITED,
        gate::DENY4,
        gate::DENY6,
        gate::ALLOW4,
        gate::ALLOW6,
        gate::LIMITS,
        gate::ICMP_LIMITS,
        gate::LOG,
        gate::GUARD,
        gate::STEER,
        gate::RANGES,
        gate::DECAP,
        gate::CAPTURE,
        gate::FLOWS,
        flag::WIDE,
        flag::ECHO,
        kind::LOCAL,
        kind::FORWARDED,
        kind::VIP,
        kind::NAT,
        kind::DECAP,
        mode::DSR,
        mode::IPIP,
        mode::GUE,
        mode::NAT,
        hash_kind::FIVE_TUPLE,
        hash_kind::SOURCE,
        hash_kind::QUIC,
        on_empty::DROP,
        on_empty::RESET,
        seen::CLIENT_FIN,
        seen::MEMBER_FIN,
        seen::ANSWERED,
        seen::UDP,
        Entry::OVERFLOWED,
        MAX_RINGS,
        RING_SLOTS,
        abi::MAX_FRAGMENTS,
        abi::MAX_SERVER_IDS,
        abi::MAX_DECAP,
        abi::EVENT_BYTES,
        origin::FILE,
        origin::COMMAND,
        limit::origin::FILE,
        limit::origin::COMMAND,
        phase::EMPTY,
        phase::APPLYING,
        phase::READY,
        phase::STOPPED,
        phase::APPLYING_STOPPED,
    );
    for (map, revision) in abi::map::ALL.iter().zip(abi::map::REVISIONS) {
        let _ = writeln!(out, "map {map} revision {revision}");
    }
    for (index, name) in LimitKind::NAMES.iter().enumerate() {
        let _ = writeln!(out, "limit {index} {name}");
    }
    for reason in Reason::ALL {
        let _ = writeln!(
            out,
            "reason {} {} {:?}",
            reason.0,
            reason.name(),
            reason.action()
        );
    }
}
