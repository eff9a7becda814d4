//! What only the loaded program shows of steering: CPUs that race for entries, captured packets.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aya::maps::RingBuf;
use lab::{
    kernel::{Kernel, is_skipped},
    model::Model,
    packet::{Packet, flags},
    xdp_cases::{self, steering},
};
use lb_common::{
    abi::map,
    capture::{Capture, Event},
    forward::mode,
    settings::{Settings, gate},
    verdict::{Reason, Verdict},
};

/// Two CPUs and flows that displace each other in one set: whatever is torn between them, no packet
/// goes to another flow's member, and each is counted once.
#[test]
fn torn_entries_steer_no_flow_to_anothers_member() -> Result<()> {
    const TIME: Duration = Duration::from_secs(2);
    const FLOWS: u16 = 48;
    if is_skipped() {
        return Ok(());
    }
    let members: Vec<String> = (1..=60).map(|n| format!("10.0.1.{n}")).collect();
    let members: Vec<&str> = members.iter().map(String::as_str).collect();
    for (client, vip, service) in [
        ("192.0.2.1", steering::VIP4, steering::SHOP4),
        ("[2001:db8::1]", steering::VIP6, steering::SHOP6),
    ] {
        let mut setup = steering::balancer_of(&steering::by(mode::DSR), &members);
        (setup.steering.sets, setup.steering.nat) = (1, 1);
        let mut kernel = Kernel::load_sized(1, 1)?;
        kernel.apply(&setup)?;
        // The ring says where each flow belongs; the table must never say otherwise.
        let model = Model::new(&setup);
        let frames: Vec<(Vec<u8>, Vec<u8>)> = (0..FLOWS)
            .map(|n| {
                let from = format!("{client}:{}", 1000 + n);
                let frame = Packet::tcp(&from, vip, flags::ACK).build();
                let (_, sent) = model.travel(&frame);
                (frame, sent)
            })
            .collect();
        let cell = |reason| {
            let verdict = Verdict {
                service,
                member: 0,
                reason,
                bytes: 0,
            };
            verdict.cell()
        };
        let (kernel, frames) = (&kernel, &frames);
        let start = Instant::now();
        let sent: u64 = thread::scope(|scope| -> Result<u64> {
            let senders: Vec<_> = (0..2)
                .map(|turn| {
                    scope.spawn(move || -> Result<u64> {
                        let mut sent = 0;
                        while start.elapsed() < TIME {
                            for (frame, right) in frames.iter().skip(turn).step_by(1 + turn) {
                                let (_, out) = kernel.run_whole(frame)?;
                                ensure!(out == *right, "sent as {out:02x?}, not {right:02x?}");
                                sent += 1;
                            }
                        }
                        Ok(sent)
                    })
                })
                .collect();
            senders
                .into_iter()
                .map(|s| s.join().expect("a sender does not panic"))
                .sum()
        })?;
        let mut counted = 0;
        for reason in [
            Reason::STEERED,
            Reason::STEERED_NEW,
            Reason::STEERED_BY_RING,
        ] {
            let packets = kernel.counter(cell(reason))?.packets;
            println!("{vip}: {} {packets}", reason.name());
            counted += packets;
        }
        ensure!(counted == sent, "{counted} of {sent}");
        ensure!(
            kernel.counter(cell(Reason::STEERED))?.packets > 0
                && kernel.counter(cell(Reason::STEERED_NEW))?.packets > u64::from(FLOWS),
            "flows did not displace each other"
        );
    }
    Ok(())
}

/// What the program tells of packets it captures: those that are wanted, as they left.
#[test]
fn captured_packets_are_those_wanted_as_they_left() -> Result<()> {
    if is_skipped() {
        return Ok(());
    }
    let setup = steering::balancer(mode::IPIP);
    let mut kernel = Kernel::load()?;
    kernel.apply(&setup)?;
    let mut settings = setup.settings();
    settings.gates |= gate::CAPTURE;
    kernel
        .array::<Settings>(map::SETTINGS)?
        .set(0, settings, 0)?;
    let wanted = Capture {
        reasons: 1 << Reason::STEERED.0 | 1 << Reason::NO_MEMBER.0,
        port: 80u16.to_be_bytes(),
        ..Capture::default()
    };
    kernel.array::<Capture>(map::CAPTURE)?.set(0, wanted, 0)?;
    let of = |to: &str| Packet::tcp(xdp_cases::CLIENT4, to, flags::ACK).build();
    let mut sent = Vec::new();
    for to in [
        steering::VIP4,
        steering::VIP4,
        "203.0.113.80:81",
        "203.0.113.80:8443",
    ] {
        sent.push(kernel.run_whole(&of(to))?.1);
    }
    let events = kernel.ebpf.map_mut(map::EVENTS).context(map::EVENTS)?;
    let mut events = RingBuf::try_from(events)?;
    let mut seen = Vec::new();
    while let Some(event) = events.next() {
        ensure!(event.len() == size_of::<Event>());
        let word = |at: usize| u16::from_ne_bytes([event[at], event[at + 1]]);
        let captured = usize::from(word(22));
        seen.push((
            word(16),
            word(18),
            event[20],
            event[32..32 + captured].to_vec(),
        ));
    }
    // The second packet only: the first was a new flow, the third has port 81.
    let member = Model::new(&setup)
        .travel(&of(steering::VIP4))
        .0
        .verdict
        .member;
    assert_eq!(
        seen,
        [(
            steering::SHOP4,
            member,
            Reason::STEERED.0,
            sent.swap_remove(1)
        )]
    );
    Ok(())
}
