//! The table of `lab::xdp_cases` on lb-common and through the loaded program: verdict, action and
//! counters must agree. The program runs by `BPF_PROG_TEST_RUN`: nothing is attached or sent.

use std::{
    collections::BTreeMap,
    fs,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aya::{
    maps::RingBuf,
    programs::{TestRun as _, TestRunOptions},
    util::KernelVersion,
};
use lab::{
    kernel::{Kernel, is_skipped},
    model::{self, Model, Setup},
    packet::{Packet, flags, set_checksum},
    xdp_cases::{self, Case},
};
use lb_common::{
    abi::map,
    forward::{mode, on_empty},
    journey::{Outcome, Then},
    limit::{Limit, LimitKind, action},
    parse::parse,
    settings::{Settings, gate},
    verdict::{Reason, Verdict},
};
use proptest::prelude::*;

/// The kernel takes no shorter frame than an Ethernet header.
const SHORTEST: usize = 14;

/// Has a case's frames travel on the host and holds them against what the table says.
fn on_host(case: &Case) -> (Model, Vec<(Outcome, Vec<u8>)>) {
    let model = Model::new(&case.setup);
    let outcomes = case
        .frames
        .iter()
        .enumerate()
        .map(|(n, (frame, service, reason))| {
            let (outcome, bytes) = model.travel(frame);
            let expected = Verdict {
                service: *service,
                member: outcome.verdict.member,
                reason: *reason,
                bytes: frame.len() as u64,
            };
            assert_eq!(
                outcome.verdict,
                expected,
                "{}, frame {n}: {}",
                case.name,
                outcome.verdict.reason.name()
            );
            (outcome, bytes)
        });
    let outcomes = outcomes.collect();
    (model, outcomes)
}

#[test]
fn table_holds_on_the_host() {
    for case in xdp_cases::cases() {
        on_host(&case);
    }
}

#[test]
fn table_holds_in_the_kernel() -> Result<()> {
    if is_skipped() {
        return Ok(());
    }
    let mut kernel = Kernel::load()?;
    let mut ran = 0;
    for case in xdp_cases::cases() {
        let (model, outcomes) = on_host(&case);
        kernel.apply(&case.setup)?;
        for (n, ((frame, ..), outcome)) in case.frames.iter().zip(outcomes).enumerate() {
            kernel
                .expect(frame, &outcome)
                .with_context(|| format!("{}, frame {n}", case.name))?;
            ran += 1;
        }
        ensure!(
            kernel.sources()? == model.sources(),
            "{}: sources differ",
            case.name
        );
    }
    ensure!(
        kernel.packets()? == ran,
        "a packet was counted in a second place"
    );
    Ok(())
}

#[test]
fn every_truncation_is_judged_alike() -> Result<()> {
    if is_skipped() {
        return Ok(());
    }
    let guarded = xdp_cases::host()
        .deny("203.0.113.0/24")
        .allow("203.0.113.7/32");
    let mut worlds = worlds();
    worlds.push(("guard", guarded, xdp_cases::seeds()));
    let mut kernel = Kernel::load()?;
    for (name, setup, seeds) in worlds {
        let model = Model::new(&setup);
        kernel.apply(&setup)?;
        for (n, frame) in seeds.into_iter().enumerate() {
            for len in SHORTEST..=frame.len() {
                let outcome = model.travel(&frame[..len]);
                kernel
                    .expect(&frame[..len], &outcome)
                    .with_context(|| format!("{name}, seed {n}, {len} bytes"))?;
            }
        }
    }
    Ok(())
}

/// Hosts that steer, translate and unpack, and whole frames for each.
fn worlds() -> Vec<(&'static str, Setup, Vec<Vec<u8>>)> {
    use xdp_cases::{answers, nat, rest, steering};
    let mut steered = steering::seeds();
    steered.extend(answers::seeds());
    let refusing = {
        let mut setup = steering::balancer(mode::IPIP);
        setup.steering.rings = vec![(1, Vec::new()), (2, Vec::new())];
        for (_, forward) in &mut setup.steering.forward {
            forward.on_empty = on_empty::RESET;
        }
        setup
    };
    vec![
        ("dsr", steering::balancer(mode::DSR), steered.clone()),
        ("ipip", steering::balancer(mode::IPIP), steered.clone()),
        (
            "gue to IPv6",
            steering::balancer_of(&steering::by(mode::GUE), &["fd00::11", "fd00::12"]),
            steered.clone(),
        ),
        ("nobody left", refusing, steered),
        (
            "nat",
            nat::translator(&["10.0.0.11", "10.0.0.12"], 1000),
            nat::seeds(),
        ),
        (
            "nat of IPv6",
            nat::translator(&["fd00::11", "fd00::12"], 1000),
            nat::seeds(),
        ),
        (
            "members behind a VLAN",
            steering::in_vlan(steering::balancer(mode::IPIP)),
            steering::vlan_seeds(),
        ),
        ("quic", rest::by_connection(), rest::quic_seeds()),
        ("unpacker", rest::unpacker(), rest::seeds()),
    ]
}

/// A frame in several buffers: the header names more bytes than the first buffer has.
#[test]
fn frame_of_several_buffers_is_counted_whole() -> Result<()> {
    if is_skipped() {
        return Ok(());
    }
    let setup = xdp_cases::host();
    let mut kernel = Kernel::load()?;
    kernel.apply(&setup)?;
    let jumbo = Packet::tcp(xdp_cases::CLIENT4, xdp_cases::SERVER4, flags::ACK)
        .payload(&[9; 8900])
        .build();
    let mut longer = jumbo.clone();
    longer[16..18].copy_from_slice(&9000u16.to_be_bytes());
    set_checksum(&mut longer[14..34]);
    for (frame, reason) in [(jumbo, Reason::LOCAL), (longer, Reason::BAD_IP_HEADER)] {
        let outcome = Model::new(&setup).travel(&frame);
        let verdict = outcome.0.verdict;
        assert_eq!(
            (verdict.reason, verdict.bytes),
            (reason, frame.len() as u64)
        );
        kernel.expect(&frame, &outcome)?;
    }
    Ok(())
}

/// One change of a frame.
#[derive(Clone, Debug)]
enum Change {
    Set(usize, u8),
    Flip(usize, u8),
    Cut(usize),
    Grow(usize, u8),
    Checksum,
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => (12usize..90, any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        4 => (12usize..90, 0u8..8).prop_map(|(at, bit)| Change::Flip(at, bit)),
        1 => (SHORTEST..120).prop_map(Change::Cut),
        1 => (0usize..64, any::<u8>()).prop_map(|(n, byte)| Change::Grow(n, byte)),
        3 => Just(Change::Checksum),
    ]
}

fn changed(mut frame: Vec<u8>, changes: &[Change]) -> Vec<u8> {
    for change in changes {
        match *change {
            Change::Set(at, byte) => frame.iter_mut().skip(at).take(1).for_each(|b| *b = byte),
            Change::Flip(at, bit) => frame
                .iter_mut()
                .skip(at)
                .take(1)
                .for_each(|b| *b ^= 1 << bit),
            Change::Cut(len) => frame.truncate(len),
            Change::Grow(n, byte) => frame.resize(frame.len() + n, byte),
            // So that what lies behind the checksum's test is reached as well.
            Change::Checksum => {
                let h = parse(frame.as_slice());
                if h.version == 4 && h.l4 >= h.l3 + 20 && h.l4 <= frame.len() {
                    set_checksum(&mut frame[h.l3..h.l4]);
                }
            }
        }
    }
    frame
}

/// How many changed frames each test makes.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(20_000)
}

/// Sends changed frames through host and kernel; says which verdicts they met.
fn change_and_compare(
    kernel: &mut Kernel,
    setup: &Setup,
    seeds: Vec<Vec<u8>>,
    cases: u32,
) -> Result<BTreeMap<&'static str, u32>> {
    let model = Model::new(setup);
    kernel.apply(setup)?;
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases,
        failure_persistence: None,
        // What was sent before is part of the case.
        max_shrink_iters: 0,
        ..ProptestConfig::default()
    });
    let frames = (
        proptest::sample::select(seeds),
        proptest::collection::vec(change(), 0..6),
    );
    let seen = std::cell::RefCell::new(BTreeMap::new());
    runner.run(&frames, |(frame, changes)| {
        let frame = changed(frame, &changes);
        let outcome = model.travel(&frame);
        *seen
            .borrow_mut()
            .entry(outcome.0.verdict.reason.name())
            .or_default() += 1;
        kernel
            .expect(&frame, &outcome)
            .map_err(|e| TestCaseError::fail(format!("{e:#}")))
    })?;
    Ok(seen.into_inner())
}

#[test]
fn changed_frames_are_judged_alike() -> Result<()> {
    if is_skipped() {
        return Ok(());
    }
    let setup = xdp_cases::host()
        .deny("203.0.113.0/24")
        .deny("192.0.2.128/25")
        .deny_until("2001:db8:ff::/48", 1)
        .allow("203.0.113.7/32")
        .allow("2001:db8::/33");
    let mut kernel = Kernel::load()?;
    let seen = change_and_compare(&mut kernel, &setup, xdp_cases::seeds(), cases())?;
    // A property that meets two reasons out of twenty proves little.
    ensure!(cases() < 5000 || seen.len() >= 9, "only {seen:?}");
    println!("{seen:?}");
    Ok(())
}

/// The same where frames are rewritten: tables so large that no flow displaces another, for that
/// depends on the time.
#[test]
fn changed_frames_are_rewritten_alike() -> Result<()> {
    if is_skipped() {
        return Ok(());
    }
    let (sets, nat) = (16_384, 65_536);
    let mut kernel = Kernel::load_sized(sets, nat)?;
    let mut met = BTreeMap::<&str, u32>::new();
    for (name, mut setup, seeds) in worlds() {
        (setup.steering.sets, setup.steering.nat) = (sets, nat);
        // Which changed address is this host's the model knows only where all are.
        if name == "unpacker" && model::loopback_forwards() {
            continue;
        }
        let seen = change_and_compare(&mut kernel, &setup, seeds, cases() / 8)
            .with_context(|| name.to_owned())?;
        for (reason, n) in seen {
            *met.entry(reason).or_default() += n;
        }
    }
    println!("{met:?}");
    ensure!(cases() < 5000 || met.len() >= 20, "only {met:?}");
    Ok(())
}

#[test]
fn bpftool_prints_the_fields_of_a_pinned_member() -> Result<()> {
    if is_skipped() {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let bpffs = folder.path().join("bpf");
    fs::create_dir(&bpffs)?;
    rustix::mount::mount(
        "bpf",
        &bpffs,
        "bpf",
        rustix::mount::MountFlags::empty(),
        None::<&std::ffi::CStr>,
    )?;
    let printed = print_member(&bpffs);
    rustix::mount::unmount(&bpffs, rustix::mount::UnmountFlags::DETACH)?;
    let printed = printed?;
    for field in [
        "identity",
        "state",
        "incarnation",
        "weight",
        "lbstatus",
        "elected",
        "transferred",
    ] {
        ensure!(
            printed.contains(&format!("\"{field}\"")),
            "no {field} in {printed}"
        );
    }
    Ok(())
}

fn print_member(bpffs: &std::path::Path) -> Result<String> {
    let Some(bpftool) = lab::tool_path("bpftool") else {
        ensure!(
            std::env::var_os("CI").is_none(),
            "bpftool is missing (cargo xtask setup)"
        );
        anyhow::bail!("bpftool is missing (cargo xtask setup)");
    };
    let mut kernel = Kernel::load()?;
    let pin = bpffs.join(map::MEMBERS);
    kernel
        .ebpf
        .map_mut(map::MEMBERS)
        .context(map::MEMBERS)?
        .pin(&pin)?;
    let output = Command::new(bpftool)
        .args(["map", "lookup", "pinned"])
        .arg(&pin)
        .args(["key", "1", "0", "0", "0"])
        .output()?;
    ensure!(
        output.status.success(),
        "bpftool: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// Two CPUs, windows that end many times meanwhile: what passes is the limit's rate, and every
/// packet is counted once.
#[test]
fn limit_holds_across_cpus_and_windows() -> Result<()> {
    const PACKETS: u32 = 1000;
    const WINDOW: Duration = Duration::from_millis(40);
    const WINDOWS: u32 = 10;
    if is_skipped() {
        return Ok(());
    }
    let syn = Packet::tcp(xdp_cases::CLIENT4, xdp_cases::SERVER4, flags::SYN).build();
    let limited = Limit {
        window_ns: u64::try_from(WINDOW.as_nanos())?,
        ..model::limit(PACKETS, action::DROP)
    };
    for is_per_source in [false, true] {
        let (setup, reason) = if is_per_source {
            let setup = xdp_cases::host().limit_source(xdp_cases::WEB4, LimitKind::SYN, limited);
            (setup, Reason::SYN_SOURCE_LIMIT)
        } else {
            let setup = xdp_cases::host().limit_service(xdp_cases::WEB4, LimitKind::SYN, limited);
            (setup, Reason::SYN_SERVICE_LIMIT)
        };
        let mut kernel = Kernel::load()?;
        kernel.apply(&setup)?;
        let kernel = &kernel;
        let start = Instant::now();
        let sent: u64 = thread::scope(|scope| -> Result<u64> {
            let senders: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(|| -> Result<u64> {
                        let mut sent = 0;
                        while start.elapsed() < WINDOW * WINDOWS {
                            let options = TestRunOptions {
                                data_in: Some(&syn),
                                repeat: 500,
                                ..TestRunOptions::default()
                            };
                            kernel.program()?.test_run(options)?;
                            sent += 500;
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
        let windows = start.elapsed().as_nanos().div_ceil(WINDOW.as_nanos());
        let cell = |reason| {
            Verdict {
                service: xdp_cases::WEB4,
                member: 0,
                reason,
                bytes: 0,
            }
            .cell()
        };
        let passed = kernel.counter(cell(Reason::LOCAL))?.packets;
        let dropped = kernel.counter(cell(reason))?.packets;
        ensure!(passed + dropped == sent, "{passed} and {dropped} of {sent}");
        // One window more, for the run begins within one; one packet a CPU and window too many.
        let most = (u64::try_from(windows)? + 1) * u64::from(PACKETS + 1);
        // A busy host may let whole windows go by unused; that a limit opens again shows in two.
        let least = 2 * u64::from(PACKETS);
        ensure!(
            (least..=most).contains(&passed),
            "{passed} passed, {least} to {most} should"
        );
    }
    Ok(())
}

#[test]
fn verdicts_are_logged_only_while_the_gate_is_open() -> Result<()> {
    if is_skipped() {
        return Ok(());
    }
    let frame = &xdp_cases::seeds()[0];
    let mut kernel = Kernel::load()?;
    kernel.apply(&xdp_cases::host())?;
    let mut logged = |gates: u64, log_every: u64, frames: usize| -> Result<usize> {
        let mut settings = xdp_cases::host().settings();
        settings.gates |= gates;
        settings.log_every = log_every;
        kernel
            .array::<Settings>(map::SETTINGS)?
            .set(0, settings, 0)?;
        for _ in 0..frames {
            kernel.run(frame)?;
        }
        let logs = kernel.ebpf.map_mut("AYA_LOGS").context("AYA_LOGS")?;
        let mut logs = RingBuf::try_from(logs)?;
        let mut count = 0;
        while logs.next().is_some() {
            count += 1;
        }
        Ok(count)
    };
    assert_eq!(logged(0, 1, 50)?, 0);
    assert_eq!(logged(gate::LOG, 1, 50)?, 50);
    // One in ten of 500, drawn: 0 or 500 would take a broken sampler.
    let sampled = logged(gate::LOG, 10, 500)?;
    assert!((1..500).contains(&sampled), "{sampled} of 500");
    Ok(())
}

/// What the verifier made of it, and a price for a packet: printed, and bounded loosely enough for
/// any machine. `cargo test -p tests --test xdp_table -- --nocapture program_has_room`
#[test]
fn program_has_room_to_the_verifiers_limit() -> Result<()> {
    if is_skipped() {
        return Ok(());
    }
    let start = Instant::now();
    let mut kernel = Kernel::load()?;
    let loaded = start.elapsed();
    println!("loaded in {loaded:?}");
    for name in ["sluice_xdp"]
        .into_iter()
        .chain(Then::PROGRAMS.iter().map(|(_, name)| *name))
    {
        let info = kernel.named(name)?.info()?;
        let verified = info
            .verified_instruction_count()
            .context("since Linux 5.16")?;
        println!(
            "{name}: verified {verified}, translated {:?}, machine code {} bytes",
            info.size_translated(),
            info.size_jitted(),
        );
        // The limit is a million. Another kernel's verifier may need several times this one's steps;
        // the oldest kernel's, which runs this in `cargo xtask vm`, needs most.
        let room = if KernelVersion::current()? < KernelVersion::new(6, 2, 0) {
            500_000
        } else {
            250_000
        };
        ensure!(verified < room, "{name}: verified {verified} instructions");
    }

    let seeds = xdp_cases::seeds();
    for (name, setup) in [
        ("plain", xdp_cases::host()),
        ("no services", Setup::guarded(&[])),
    ] {
        kernel.apply(&setup)?;
        for (n, frame) in seeds.iter().enumerate() {
            let nanos = (0..5)
                .map(|_| {
                    let options = TestRunOptions {
                        data_in: Some(frame),
                        repeat: 100_000,
                        ..TestRunOptions::default()
                    };
                    Ok(kernel.program()?.test_run(options)?.duration.as_nanos())
                })
                .collect::<Result<Vec<_>>>()?;
            println!("{name}, seed {n}: {:?} ns", nanos.iter().min());
        }
    }
    Ok(())
}
