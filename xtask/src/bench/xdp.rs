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
    let mut floors = Floors::load()?;
    let mut rows = rows::all();
    rows.retain(|row| row.name.contains(&arguments.only));
    ensure!(!rows.is_empty(), "no row's name contains that");
    let mut measured: Vec<Rounds> = rows.iter().map(|_| Rounds::default()).collect();
    // The floors as rows of their own, against the first.
    let plain = [floors::PASS, floors::DROP, floors::PARSE];
    let balancing = [Sources::One, Sources::Known, Sources::New];
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
        for (row, rounds) in rows.iter().zip(&mut measured) {
            let kernel = if row.is_large {
                &mut large
            } else {
                &mut kernel
            };
            let (total, floor) = measure(kernel, &mut floors, row, arguments.packets)
                .with_context(|| format!("row {}", row.name))?;
            rounds.total.push(total);
            rounds.floor.push(floor);
        }
    }

    let mut table = Table::new(&["packet", "verdict", "net ns/packet", "x harness"]);
    let mut figures = Vec::new();
    let floor_names = [
        ("floor: pass", "-"),
        ("floor: drop", "-"),
        ("floor: parse only", "-"),
        ("floor: minimal balancer, one flow", "sent on"),
        ("floor: minimal balancer, 65 536 flows", "sent on"),
        ("floor: minimal balancer, each flow new", "sent on"),
    ];
    let all = floor_names
        .into_iter()
        .zip(bare.iter().chain(&balanced))
        .chain(
            rows.iter()
                .map(|row| (row.name, row.reason.name()))
                .zip(&measured),
        );
    for ((name, verdict), rounds) in all {
        let (Some(net), Some(ratio)) = (rounds.net(), rounds.ratio()) else {
            continue;
        };
        table.row(vec![
            name.to_owned(),
            verdict.to_owned(),
            net.range(0),
            format!("{:.2}", ratio.median()),
        ]);
        figures.push(json!({
            "row": name, "verdict": verdict, "net_ns": net.json(), "times_harness": ratio.json(),
            "total_ns_rounds": rounds.total, "harness_ns_rounds": rounds.floor,
        }));
    }
    let size = size(&kernel)?;
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
    let _ = writeln!(
        text,
        "\nProgram: {} instructions verified, {} bytes translated, {} bytes of machine code.",
        size["verified_instructions"], size["translated_bytes"], size["machine_code_bytes"],
    );
    print!("{text}");
    if let Some(path) = &arguments.markdown {
        markdown::write(path, "xdp", &text)?;
    }
    if let Some(path) = &arguments.json {
        write_json(
            path,
            &json!({
                "bench": "xdp", "machine": machine.json(), "rounds": arguments.rounds,
                "packets": arguments.packets, "program": size, "rows": figures,
            }),
        )?;
    }
    Ok(())
}

/// One row in one round: ns of harness and program, and of the harness alone.
fn measure(
    kernel: &mut Kernel,
    floors: &mut Floors,
    row: &Row,
    packets: u32,
) -> Result<(f64, f64)> {
    kernel.apply(&row.setup)?;
    let verdict = Verdict {
        service: row.service,
        member: 0,
        reason: row.reason,
        bytes: row.frame.len() as u64,
    };
    let warm = match row.sources {
        Sources::One => WARM,
        Sources::Known | Sources::New => WARM_SOURCES,
    };
    let harness = harness(row.sources, row.rewrites);
    if row.rewrites {
        floors.restore_to(&row.frame)?;
    }
    floors.go_on_with(None)?;
    let floor = time(
        floors.program(harness.unwrap_or(floors::PASS))?,
        &row.frame,
        packets,
    )?;
    floors.go_on_with(Some(kernel.program()?))?;
    let program = match harness {
        Some(name) => floors.program(name)?,
        None => kernel.program()?,
    };
    let packets_so = |kernel: &Kernel| -> Result<u64> {
        let mut all = kernel.counter(verdict.cell())?.packets;
        if let Some(reason) = row.also {
            let other = Verdict { reason, ..verdict };
            all += kernel.counter(other.cell())?.packets;
        }
        Ok(all)
    };
    let before = packets_so(kernel)?;
    time(program, &row.frame, warm)?;
    let timed = time(program, &row.frame, packets)?;
    // Every packet ended as the row says, or the row's name is a lie.
    let counted = packets_so(kernel)? - before;
    // A limit's row begins with the packets that its window lets through.
    let sent = u64::from(warm) + u64::from(packets) - row.first_others;
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
    Ok((timed.nanos, floor.nanos))
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
        (Sources::New, false) => Some(floors::SOURCES_16M),
        (Sources::One, true) => Some(floors::RESTORE),
        (Sources::Known, true) => Some(floors::RESTORE_64K),
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
    time(floors.program(name)?, &frame, WARM_SOURCES)?;
    let timed = time(floors.program(name)?, &frame, packets)?;
    ensure!(timed.answer == XDP_TX, "it said {}", timed.answer);
    // Each was sent on as a packet of the service, so each was restored.
    let sent = u64::from(WARM_SOURCES) + u64::from(packets);
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

fn size(kernel: &Kernel) -> Result<Value> {
    let info = kernel.program()?.info()?;
    Ok(json!({
        "verified_instructions": info.verified_instruction_count(),
        "translated_bytes": info.size_translated(),
        "machine_code_bytes": info.size_jitted(),
    }))
}

/// Runs this very command again as root.
fn again_as_root() -> Result<()> {
    step("loading an XDP program needs root: running this with sudo");
    let here = std::env::current_exe().context("finding this program")?;
    let mut command = exec::as_root(here).context("root is needed")?;
    exec::run(command.args(std::env::args_os().skip(1)))
}
