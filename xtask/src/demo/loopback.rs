//! The demo without root: the proxy alone, on loopback and high ports.

use std::{
    net::{SocketAddr, TcpListener},
    path::Path,
    process::Command,
    thread,
};

use anyhow::{Context, Result};
use lab::{
    Curl, Member, Sluice,
    sluice::{Place, ask},
    sweep,
};

use super::{
    report::{Report, say},
    shop::Shop,
};

/// What it shows.
const EXAMPLE: &str = "examples/loopback.conf";
/// The example's addresses, in its order: the service, then members a, b and c.
const PORTS: [u16; 4] = [18080, 18081, 18082, 18083];

/// Shows what needs neither root nor XDP, and says what is left out.
pub(super) fn run(root: &Path, program: &Path, keep: bool) -> Result<()> {
    println!(
        "The demo on loopback. Left out, because it needs root: network namespaces, the XDP guard \
         with its floods, the kernel's tables."
    );
    let dir = std::env::temp_dir().join(format!("sluice-demo-{}", std::process::id()));
    std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    let outcome = show(root, program, keep, &dir);
    let _ = std::fs::remove_dir_all(&dir);
    outcome
}

fn show(root: &Path, program: &Path, keep: bool, dir: &Path) -> Result<()> {
    let example = root.join(EXAMPLE);
    let mut text = std::fs::read_to_string(&example)
        .with_context(|| format!("reading {}", example.display()))?;
    let mut members = Vec::new();
    for (name, port) in ["a", "b", "c"].into_iter().zip(&PORTS[1..]) {
        let wanted = SocketAddr::from(([127, 0, 0, 1], *port));
        // Another demo may run beside this one: then any free port does.
        let member = Member::start_here(name, wanted)
            .or_else(|_| Member::start_here(name, SocketAddr::from(([127, 0, 0, 1], 0))))?;
        text = text.replace(&wanted.to_string(), &member.address().to_string());
        members.push(member);
    }
    let wanted = SocketAddr::from(([127, 0, 0, 1], PORTS[0]));
    let listen = free(wanted)?;
    text = text.replace(&wanted.to_string(), &listen.to_string());

    let mut place = Place::here(dir, "loopback", listen)?;
    program.clone_into(&mut place.program);
    let sluice = Sluice::start_in(place.clone(), &text, &[])?;
    end_with_us(&sluice, dir)?;
    println!("sluice runs {EXAMPLE} on http://{listen}/");

    let mut report = Report::default();
    let mut shop = Shop {
        url: format!("http://{listen}"),
        curl: Curl::here(),
        sluice,
        members,
        homes: None,
        pins: None,
    };
    shop.distribution(&mut report)?;
    shop.sticky(&mut report)?;
    shop.drain(&mut report)?;
    shop.kill(&mut report)?;
    report.section("What sluice says of its members");
    say(shop.sluice.cli(&["member", "list"])?.all());
    let outcome = report.finish();
    if keep {
        let arguments = place.arguments().join(" ");
        println!(
            "\nEverything is left running until Ctrl-C. To try:\n\
             \x20 curl -i http://{listen}/\n\
             \x20 {0} {arguments} member list\n\
             \x20 {0} {arguments} member drain shop a",
            program.display()
        );
        loop {
            thread::park();
        }
    }
    outcome
}

/// The address itself if it is free, else one with a free port.
fn free(wanted: SocketAddr) -> Result<SocketAddr> {
    let listener = TcpListener::bind(wanted)
        .or_else(|_| TcpListener::bind(SocketAddr::new(wanted.ip(), 0)))
        .context("finding a free port")?;
    Ok(listener.local_addr()?)
}

/// On Ctrl-C: stops the daemon and removes the folder.
fn end_with_us(sluice: &Sluice, dir: &Path) -> Result<()> {
    let pid = sluice.control()?.as_raw_pid().to_string();
    let dir = dir.to_owned();
    sweep::on_signal(move || {
        let _ = ask(Command::new("kill").args(["-TERM", &pid]));
        let _ = std::fs::remove_dir_all(&dir);
    });
    Ok(())
}
