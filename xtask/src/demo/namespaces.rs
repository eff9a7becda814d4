//! The demo in network namespaces: client, balancer, members and attackers as hosts of their own.

use std::{path::Path, process::Command, thread};

use anyhow::{Context, Result};
use lab::{
    Curl, Lab, LabOptions, Member, Sluice, has_tool,
    sluice::{Place, ask},
    sweep, tables, topology,
};

use super::{
    floods,
    report::{Report, say},
    shop::Shop,
};

/// What it shows.
const EXAMPLE: &str = "examples/first-light.conf";
/// Instance name.
const INSTANCE: &str = "first-light";

/// Builds the lab, starts sluice on the example, shows, and takes everything away.
pub(super) fn run(root: &Path, program: &Path, keep: bool) -> Result<()> {
    let swept = sweep::sweep_dead();
    if swept > 0 {
        println!("Swept what {swept} crashed runs had left.");
    }
    let lab = Lab::with(LabOptions {
        members: 3,
        attackers: 2,
    })?;
    println!(
        "The lab: namespaces {0}-client, {0}-balancer, {0}-member1..3, {0}-attacker1..2, bridged in \
         {0}-bridge; bpf filesystem {1}.",
        lab.prefix(),
        lab.bpffs().display()
    );
    let members = ["a", "b", "c"]
        .into_iter()
        .zip(&lab.members)
        .zip(topology::MEMBERS..)
        .map(|((name, home), last)| {
            Member::start(home, name, (topology::address(last), 8080).into())
        })
        .collect::<Result<Vec<_>>>()?;
    let example = root.join(EXAMPLE);
    let text = std::fs::read_to_string(&example)
        .with_context(|| format!("reading {}", example.display()))?;
    let mut place = Place::in_lab(&lab, INSTANCE)?;
    program.clone_into(&mut place.program);
    let sluice = Sluice::start_in(place, &text, &[])?;
    println!("sluice runs {EXAMPLE}.");

    let mut report = Report::default();
    let pins = sluice.pins();
    let mut shop = Shop {
        url: format!("http://{}", topology::address(topology::BALANCER)),
        curl: Curl::inside(&lab.client),
        sluice,
        members,
        homes: Some(lab.members.clone()),
        pins: Some(pins.clone()),
    };
    shop.distribution(&mut report)?;
    shop.sticky(&mut report)?;
    shop.drain(&mut report)?;
    shop.kill(&mut report)?;
    report.section("The same over IPv6");
    let url = format!("http://[{}]/name", topology::address6(topology::BALANCER));
    let answers = shop.curl.series(&url, 6)?;
    say(lab::curl::letters(&answers));
    report.check(
        answers.iter().all(|answer| answer.status == 200),
        "answered",
    );
    floods::run(&lab, &shop, &pins, &mut report)?;
    dump(&pins, &shop, &mut report)?;
    let outcome = report.finish();
    if keep {
        stay(&lab, &shop);
    }
    outcome
}

/// The member table with its field names: as bpftool shows it, or as we do.
fn dump(pins: &Path, shop: &Shop, report: &mut Report) -> Result<()> {
    report.section("The members in the kernel's table");
    let rows = tables::members(pins)?;
    report.check(rows.len() == 3, "three members are in it");
    let map = pins.join("MEMBERS");
    say("id  url                        route  state  loadfactor  elected  failed  bytes read");
    for row in &rows {
        say(format!(
            "{:<3} {:<26} {:<6} {:<6} {:<11} {:<8} {:<7} {}",
            row.id,
            row.url,
            row.route,
            row.letters(),
            row.slot.head.weight / 100,
            row.slot.election.elected,
            row.slot.election.failed,
            row.slot.traffic.read
        ));
    }
    let first = rows.first().map_or(1, |row| row.id);
    if has_tool("bpftool") {
        let key = first.to_ne_bytes().map(|byte| byte.to_string());
        let mut command = Command::new("bpftool");
        command
            .args(["map", "lookup", "pinned"])
            .arg(&map)
            .arg("key")
            .args(key);
        let said = ask(&mut command)?;
        say(format!(
            "$ bpftool map lookup pinned {} key {first} 0 0 0",
            map.display()
        ));
        say(&said.out);
        let named = ["identity", "state", "weight", "elected"];
        report.check(
            named.iter().all(|field| said.out.contains(field)),
            "bpftool shows the fields by name",
        );
    } else {
        say("bpftool is not installed (cargo xtask setup); sluice's own dump:");
        say(shop.sluice.cli(&["member", "list", "--json"])?.out);
    }
    Ok(())
}

/// Prints what to try, and waits for Ctrl-C, on which the lab is taken away.
fn stay(lab: &Lab, shop: &Shop) -> ! {
    let place = shop.sluice.place();
    let sluice = format!(
        "ip netns exec {} {} {}",
        lab.balancer.name(),
        place.program.display(),
        place.arguments().join(" ")
    );
    println!(
        "\nEverything is left running until Ctrl-C. To try, as root:\n\
         \x20 ip netns exec {} curl -i {}/\n\
         \x20 {sluice} status\n\
         \x20 {sluice} member drain shop a\n\
         \x20 {sluice} member list\n\
         \x20 {sluice} deny add {}\n\
         \x20 bpftool map dump pinned {}/MEMBERS",
        lab.client.name(),
        shop.url,
        topology::address(topology::ATTACKERS),
        shop.sluice.pins().display()
    );
    loop {
        thread::park();
    }
}
