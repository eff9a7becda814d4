//! `cargo xtask bench xdp`: the program by `BPF_PROG_TEST_RUN`, beside floors, row by row in each
//! round. Nothing is attached and no packet is sent.
//!
//! What it does not show: the driver, DMA, the NIC's caches, and what a busy host's other work
//! pushes out of the CPU's. The same few bytes of packet are in the nearest cache all the time.

mod rows;
mod steering;

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use lab::kernel::Kernel;
use lb_common::verdict::{Action, Reason, Verdict};
use serde_json::{Value, json};

use self::rows::{Row, Sources};
use super::{
    figures::Spread,
    floors::{self, Floors},
    machine::Machine,
    markdown,
    table::Table,
    write_json,
};
use crate::exec::{self, Root, step};

/// How much to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Rounds; each measures every row once
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Packets of each row and round
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..))]
    packets: u32,
    /// Only rows whose name contains this, beside the floors
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// Also write everything measured to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also write the tables to this file; one that has a place for them keeps the rest
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
}

/// Packets before the timed ones: caches, branch predictors and, for rows that enter sources, the
/// table of sources (more than it has room for, so that the timed ones find it full).
const WARM: u32 = 20_000;
const WARM_SOURCES: u32 = 200_000;
/// Twice what the row goes through: a flow is known once its second packet was seen.
const WARM_MILLION: u32 = 2 * (1 << 20);
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;

/// What a run of packets took.
struct Timed {
    nanos: f64,
    answer: u32,
}

/// ns per packet of each round.
#[derive(Default)]
struct Rounds {
    /// Harness and program.
    total: Vec<f64>,
    /// The harness alone, in the same round.
    floor: Vec<f64>,
}

impl Rounds {
    /// What the program adds to the harness.
    fn net(&self) -> Option<Spread> {
        Spread::new(self.pairs().map(|(total, floor)| total - floor).collect())
    }

    fn ratio(&self) -> Option<Spread> {
        Spread::new(self.pairs().map(|(total, floor)| total / floor).collect())
    }

    /// How many times another row's net this one's is, round by round.
    fn against(&self, other: &Self) -> Option<f64> {
        let nets = |rounds: &Self| -> Vec<f64> {
            rounds.pairs().map(|(total, floor)| total - floor).collect()
        };
        let ratios = nets(self).into_iter().zip(nets(other)).map(|(a, b)| a / b);
        Spread::new(ratios.collect()).map(|ratio| ratio.median())
    }

    fn pairs(&self) -> impl Iterator<Item = (f64, f64)> {
        self.total.iter().copied().zip(self.floor.iter().copied())
    }
}

/// Measures and prints.
pub(super) fn run(_root: &Path, arguments: &Arguments) -> Result<()> {
    match exec::root() {
        Root::Already => {}
        Root::Sudo => return again_as_root(),
        Root::No => bail!("loading an XDP program needs root"),
    }
    let machine = Machine::look();
    let mut kernel = Kernel::load()?;
    let mut large = Kernel::load_sized(steering::SETS, steering::NAT)?;
    let mut huge = None;
    let mut floors = Floors::load()?;
    let mut rows = rows::all();
    rows.retain(|row| row.name.contains(&arguments.only));
    ensure!(!rows.is_empty(), "no row's name contains that");
    let mut measured: Vec<Rounds> = rows.iter().map(|_| Rounds::default()).collect();
    // The floors as rows of their own, against the first.
    let plain = [floors::PASS, floors::DROP, floors::PARSE];
    let balancing = [Sources::One, Sources::Known, Sources::Million, Sources::New];
    let mut not_its = Rounds::default();
    let mut placed = Vec::new();
    let mut balanced: Vec<Rounds> = balancing.iter().map(|_| Rounds::default()).collect();
    let mut bare: Vec<Rounds> = plain.iter().map(|_| Rounds::default()).collect();
    let frame = rows::frame_of_floors();

    for round in 1..=arguments.rounds {
        step(&format!("round {round} of {}", arguments.rounds));
        let pass = time(floors.program(floors::PASS)?, &frame, arguments.packets)?.nanos;
        for (name, rounds) in plain.iter().zip(&mut bare) {
            let timed = time(floors.program(name)?, &frame, arguments.packets)?;
            rounds.total.push(timed.nanos);
            rounds.floor.push(pass);
        }
        for (sources, rounds) in balancing.iter().zip(&mut balanced) {
            let (total, floor) = balance(&mut floors, *sources, arguments.packets)
                .with_context(|| format!("the least balancer, {sources:?}"))?;
            rounds.total.push(total);
            rounds.floor.push(floor);
        }
        let (total, floor) = pass_by(&mut floors, arguments.packets)?;
        not_its.total.push(total);
        not_its.floor.push(floor);
        for (row, rounds) in rows.iter().zip(&mut measured) {
            let kernel = match (row.is_large, row.sources) {
                (false, _) => &mut kernel,
                (true, Sources::Million) => match &mut huge {
                    Some(huge) => huge,
                    none => none.insert(Kernel::load_sized(steering::MORE_SETS, steering::NAT)?),
                },
                (true, _) => &mut large,
            };
            let seen = measure(kernel, &mut floors, row, arguments.packets)
                .with_context(|| format!("row {}", row.name))?;
            rounds.total.push(seen.total);
            rounds.floor.push(seen.floor);
            if row.sources == Sources::Million {
                placed.push(seen.share);
            }
        }
    }

    let mut table = Table::new(&[
        "packet",
        "verdict",
        "net ns/packet",
        "x harness",
        "x least balancer",
    ]);
    let mut figures = Vec::new();
    let floor_names = [
        ("floor: pass", "-"),
        ("floor: drop", "-"),
        ("floor: parse only", "-"),
        ("floor: minimal balancer, one flow", "sent on"),
        ("floor: minimal balancer, 65 536 flows", "sent on"),
        ("floor: minimal balancer, 1 048 576 flows", "sent on"),
        ("floor: minimal balancer, each flow new", "sent on"),
        ("floor: minimal balancer, not its service", "passed"),
    ];
    let all = floor_names
        .into_iter()
        .zip(bare.iter().chain(&balanced).chain([&not_its]))
        .map(|(names, rounds)| (names, rounds, None))
        .chain(rows.iter().zip(&measured).map(|(row, rounds)| {
            let floor = if row.reason == Reason::NOT_A_SERVICE {
                Some(&not_its)
            } else if row.reason.action() == Action::Send {
                // A row of new flows against new flows, and so on.
                let like = balancing.iter().position(|sources| *sources == row.sources);
                like.map(|like| &balanced[like])
            } else {
                None
            };
            ((row.name, row.reason.name()), rounds, floor)
        }));
    for ((name, verdict), rounds, floor) in all {
        let (Some(net), Some(ratio)) = (rounds.net(), rounds.ratio()) else {
            continue;
        };
        table.row(vec![
            name.to_owned(),
            verdict.to_owned(),
            net.range(0),
            format!("{:.2}", ratio.median()),
            floor
                .and_then(|floor| rounds.against(floor))
                .map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}")),
        ]);
        figures.push(json!({
            "row": name, "verdict": verdict, "net_ns": net.json(), "times_harness": ratio.json(),
            "total_ns_rounds": rounds.total, "harness_ns_rounds": rounds.floor,
        }));
    }
    let sizes = sizes(&kernel)?;
    let mut text = format!("{}\n\n{}", machine.line(), table.text());
    let _ = writeln!(
        text,
        "\nHarness: the kernel's test loop around a program that only passes, {} ns a packet; \
         net is what is above it in the same round, as median (least..most) of {} rounds of {} \
         packets. Rows with changing sources have a harness of their own, which changes the packet \
         and tail-calls; rows that rewrite packets one that puts the packet's first 64 bytes and its \
         beginning back after each. The minimal balancer: service, flow table of 1 048 576 (LRU), \
         member, counter, IPv4 in IPv4.",
        bare[0]
            .net()
            .and_then(|_| Spread::new(bare[0].floor.clone()))
            .map_or_else(|| "-".to_owned(), |spread| spread.range(0)),
        arguments.rounds,
        arguments.packets,
    );
    if let Some(share) = Spread::new(placed) {
        let _ = writeln!(
            text,
            "\nOf the packets of 1 048 576 flows {:.1} % met their flow in the table of 2 097 152, the \
             rest went by the ring.",
            100.0 * share.median(),
        );
    }
    let net_of = |name: &str| {
        let at = rows.iter().position(|row| row.name == name)?;
        measured[at].net().map(|net| net.median())
    };
    if let (Some(one), Some(two)) = (net_of(steering::ONCE), net_of(steering::TWICE)) {
        let _ = writeln!(
            text,
            "\nOn two CPUs at once a packet of a known flow costs {:+.0} %, each CPU's harness taken off.",
            100.0 * (two / one - 1.0),
        );
    }
    let mut programs = Table::new(&[
        "program",
        "verified",
        "translated, bytes",
        "machine code, bytes",
    ]);
    for (name, size) in &sizes {
        programs.row(vec![
            name.clone(),
            size["verified_instructions"].to_string(),
            size["translated_bytes"].to_string(),
            size["machine_code_bytes"].to_string(),
        ]);
    }
    let _ = write!(text, "\n{}", programs.text());
    print!("{text}");
    if let Some(path) = &arguments.markdown {
        markdown::write(path, "xdp", &text)?;
    }
    if let Some(path) = &arguments.json {
        write_json(
            path,
            &json!({
                "bench": "xdp", "machine": machine.json(), "rounds": arguments.rounds,
                "packets": arguments.packets, "programs": sizes, "rows": figures,
            }),
        )?;
    }
    Ok(())
}

/// One row in one round.
struct Seen {
    /// ns of harness and program.
    total: f64,
    /// ns of the harness alone.
    floor: f64,
    /// Part of the timed packets that ended as the row says, and not as it says others may.
    share: f64,
}

/// Measures a row once.
fn measure(kernel: &mut Kernel, floors: &mut Floors, row: &Row, packets: u32) -> Result<Seen> {
    kernel.apply(&row.setup)?;
    for frame in &row.before {
        time(kernel.program()?, frame, 1)?;
    }
    let verdict = Verdict {
        service: row.service,
        member: 0,
        reason: row.reason,
        bytes: row.frame.len() as u64,
    };
    let warm = match row.sources {
        Sources::One => WARM,
        Sources::Million => WARM_MILLION,
        Sources::Known | Sources::New => WARM_SOURCES,
    };
    let harness = harness(row.sources, row.rewrites);
    if row.rewrites {
        floors.restore_to(&row.frame)?;
    }
    floors.go_on_with(None)?;
    let time_row = |program: &Xdp| {
        if row.is_twice {
            time_twice(program, &row.frame, packets)
        } else {
            time(program, &row.frame, packets)
        }
    };
    let floor = time_row(floors.program(harness.unwrap_or(floors::PASS))?)?;
    floors.go_on_with(Some(kernel.program()?))?;
    let program = match harness {
        Some(name) => floors.program(name)?,
        None => kernel.program()?,
    };
    let packets_so = |kernel: &Kernel| -> Result<u64> {
        let mut all = kernel.counter(verdict.cell())?.packets;
        for reason in row.also {
            let other = Verdict {
                reason: *reason,
                ..verdict
            };
            all += kernel.counter(other.cell())?.packets;
        }
        Ok(all)
    };
    let before = packets_so(kernel)?;
    time(program, &row.frame, warm)?;
    let warmed = kernel.counter(verdict.cell())?.packets;
    let timed = time_row(program)?;
    let so = kernel.counter(verdict.cell())?.packets - warmed;
    let timed_packets = u64::from(packets) * if row.is_twice { 2 } else { 1 };
    // Every packet ended as the row says, or the row's name is a lie.
    let counted = packets_so(kernel)? - before;
    // A limit's row begins with the packets that its window lets through.
    let sent = u64::from(warm) + timed_packets - row.first_others;
    ensure!(
        counted == sent,
        "{counted} of {sent} packets ended as {}; of its service ended {}",
        row.reason.name(),
        ended(kernel, row.service)?
    );
    let wanted = match row.reason.action() {
        Action::Pass => XDP_PASS,
        Action::Drop => XDP_DROP,
        Action::Send => XDP_TX,
    };
    ensure!(timed.answer == wanted, "the program said {}", timed.answer);
    Ok(Seen {
        total: timed.nanos,
        floor: floor.nanos,
        share: so as f64 / timed_packets as f64,
    })
}

/// How the packets of a service ended so far, in words.
fn ended(kernel: &Kernel, service: u16) -> Result<String> {
    let mut text = String::new();
    for reason in Reason::ALL {
        let verdict = Verdict {
            service,
            member: 0,
            reason: *reason,
            bytes: 0,
        };
        let packets = kernel.counter(verdict.cell())?.packets;
        if packets > 0 {
            let _ = write!(text, " {} {packets}", reason.name());
        }
    }
    Ok(text)
}

/// The program that drives the one that is measured; `None`: the kernel's loop does.
const fn harness(sources: Sources, rewrites: bool) -> Option<&'static str> {
    match (sources, rewrites) {
        (Sources::One, false) => None,
        (Sources::Known, false) => Some(floors::SOURCES_64K),
        (Sources::New | Sources::Million, false) => Some(floors::SOURCES_16M),
        (Sources::One, true) => Some(floors::RESTORE),
        (Sources::Known, true) => Some(floors::RESTORE_64K),
        (Sources::Million, true) => Some(floors::RESTORE_1M),
        (Sources::New, true) => Some(floors::RESTORE_16M),
    }
}

/// The least balancer in one round, as [`measure`] has it.
fn balance(floors: &mut Floors, sources: Sources, packets: u32) -> Result<(f64, f64)> {
    let mut frame = rows::frame_of_floors();
    floors::prepare(&mut frame);
    floors::pad(&mut frame);
    let name = harness(sources, true).context("a rewriting program has a harness")?;
    floors.balance(&frame)?;
    floors.restore_to(&frame)?;
    floors.go_on_with(None)?;
    let floor = time(floors.program(name)?, &frame, packets)?;
    ensure!(
        floor.answer == XDP_PASS,
        "the harness said {}",
        floor.answer
    );
    floors.go_on_with_floor(floors::BALANCE)?;
    // The third packet, so that two were restored: it must be the frame in one outer header.
    let mut out = vec![0; 2 * frame.len()];
    let result = floors.program(name)?.test_run(TestRunOptions {
        data_in: Some(&frame),
        data_out: Some(&mut out),
        repeat: 3,
        ..TestRunOptions::default()
    })?;
    out.truncate(result.data_size_out as usize);
    floors::check_sent_on(&frame, &out)?;
    let before = floors.balanced()?;
    let warm = match sources {
        Sources::Million => WARM_MILLION,
        _ => WARM_SOURCES,
    };
    time(floors.program(name)?, &frame, warm)?;
    let timed = time(floors.program(name)?, &frame, packets)?;
    ensure!(timed.answer == XDP_TX, "it said {}", timed.answer);
    // Each was sent on as a packet of the service, so each was restored.
    let sent = u64::from(warm) + u64::from(packets);
    let counted = floors.balanced()? - before;
    ensure!(counted == sent, "{counted} of {sent} packets were sent on");
    Ok((timed.nanos, floor.nanos))
}

fn time(program: &Xdp, frame: &[u8], packets: u32) -> Result<Timed> {
    let options = TestRunOptions {
        data_in: Some(frame),
        repeat: packets,
        ..TestRunOptions::default()
    };
    let result = program.test_run(options)?;
    Ok(Timed {
        // The kernel gives the mean of all repeats, in whole ns.
        nanos: result.duration.as_nanos() as f64,
        answer: result.return_value,
    })
}

/// What the least balancer takes for a packet that is not its service's.
fn pass_by(floors: &mut Floors, packets: u32) -> Result<(f64, f64)> {
    let mut frame = rows::frame_of_floors();
    floors::prepare(&mut frame);
    floors::pad(&mut frame);
    floors.balance(&frame)?;
    let harness = time(floors.program(floors::PASS)?, &frame, packets)?;
    let mut other = rows::other_frame();
    floors::pad(&mut other);
    let timed = time(floors.program(floors::BALANCE)?, &other, packets)?;
    ensure!(timed.answer == XDP_PASS, "it said {}", timed.answer);
    Ok((timed.nanos, harness.nanos))
}

/// [`time`] on CPUs 0 and 1 at once; their mean.
fn time_twice(program: &Xdp, frame: &[u8], packets: u32) -> Result<Timed> {
    let begin = std::sync::Barrier::new(2);
    let on = |cpu: usize| -> Result<Timed> {
        let mut set = rustix::thread::CpuSet::new();
        set.set(cpu);
        let pinned = rustix::thread::sched_setaffinity(None, &set);
        begin.wait();
        pinned.context("two CPUs are needed")?;
        time(program, frame, packets)
    };
    let [one, two] = std::thread::scope(|scope| {
        let threads = [0, 1].map(|cpu| scope.spawn(move || on(cpu)));
        threads.map(|thread| thread.join().expect("it does not panic"))
    });
    let (one, two) = (one?, two?);
    ensure!(one.answer == two.answer, "the CPUs disagree");
    Ok(Timed {
        nanos: f64::midpoint(one.nanos, two.nanos),
        answer: one.answer,
    })
}

/// Each program by its name, and what the kernel says of it.
fn sizes(kernel: &Kernel) -> Result<Vec<(String, Value)>> {
    let steps = lb_common::journey::Then::PROGRAMS;
    let names = ["sluice_xdp"]
        .into_iter()
        .chain(steps.iter().map(|(_, name)| *name));
    names
        .map(|name| {
            let info = kernel.named(name)?.info()?;
            let size = json!({
                "verified_instructions": info.verified_instruction_count(),
                "translated_bytes": info.size_translated(),
                "machine_code_bytes": info.size_jitted(),
            });
            Ok((name.to_owned(), size))
        })
        .collect()
}

/// Runs this very command again as root.
fn again_as_root() -> Result<()> {
    step("loading an XDP program needs root: running this with sudo");
    let here = std::env::current_exe().context("finding this program")?;
    let mut command = exec::as_root(here).context("root is needed")?;
    exec::run(command.args(std::env::args_os().skip(1)))
}
