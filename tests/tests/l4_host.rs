//! The host under steering: interfaces that come late, and what `doctor` says of VIPs, ways and
//! members.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use lab::{
    Lab, Namespace, Sluice,
    scene::{site, site_with, three},
    sluice::{Place, Said, ask},
    topology,
    vip::{self, PORT, VIP4},
    wait,
};
use serde_json::Value;

const SERVICE: SocketAddr = SocketAddr::new(IpAddr::V4(VIP4), PORT);

/// One service by `forward`, to members a, b and c.
fn configuration(forward: &str) -> String {
    site(
        &three(""),
        &format!("    SteerPass tcp://{VIP4}:{PORT} balancer://b forward={forward}\n"),
    )
}

fn alarm_of(sluice: &Sluice) -> Option<String> {
    let status = sluice.json(&["status"]).ok()?;
    let all = status["interfaces"].as_array()?;
    let eth0 = all.iter().find(|view| view["name"] == "eth0")?;
    Some(eth0["alarm"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn interface_that_comes_late_is_steered_with_its_own_address() -> Result<()> {
    let mut lab = Lab::new()?;
    vip::share(&lab)?;
    let _members = vip::members(&lab)?;
    let _tunnels: Vec<lab::unwrap::Unwrap> = (lab.members.iter())
        .map(lab::unwrap::Unwrap::start)
        .collect::<Result<_>>()?;
    // No eth0 when it starts; the proxy's own addresses are there without it.
    lab.unplug_balancer()?;
    lab.balancer.ip(&format!(
        "link set lo up\naddress add {}/32 dev lo\naddress add {}/128 dev lo nodad\n",
        topology::address(topology::BALANCER),
        topology::address6(topology::BALANCER),
    ))?;
    let sluice = Sluice::start(&lab, &configuration("ipip"))?;
    wait::until("the alarm", wait::PATIENCE, || {
        alarm_of(&sluice)?.contains("is not there").then_some(())
    })
    .with_context(|| sluice.log())?;
    let metrics = sluice.cli(&["metrics"])?.ok()?.out;
    ensure!(
        metrics.contains("sluice_xdp_interface_alarm{interface=\"eth0\"} 1"),
        "{metrics}"
    );
    let said = sluice.cli(&["status"])?.ok()?.out;
    ensure!(said.contains("is not there"), "{said}");

    lab.plug_balancer()?;
    wait::until("the program on eth0", wait::PATIENCE, || {
        alarm_of(&sluice)?.is_empty().then_some(())
    })?;
    wait::until("packets to be steered", wait::PATIENCE, || {
        vip::answers(&lab.client, SERVICE, 3).ok().map(drop)
    })?;
    let metrics = sluice.cli(&["metrics"])?.ok()?.out;
    ensure!(
        metrics.contains("sluice_xdp_interface_alarm{interface=\"eth0\"} 0"),
        "{metrics}"
    );
    // There was no route, and so no address to come from, when it was published.
    let wanted = topology::address(topology::BALANCER).to_string();
    let services = sluice.json(&["service", "list"])?.to_string();
    ensure!(
        services.contains(&format!("\"sources\":[\"{wanted}\"]")),
        "{services}"
    );
    let log = sluice.log();
    ensure!(log.contains("eth0 has appeared"), "{log}");
    Ok(())
}

#[test]
fn replacing_the_program_loses_no_packet() -> Result<()> {
    const WHERE: (Ipv4Addr, u16) = (topology::address(topology::BALANCER), 9);
    let lab = Lab::new()?;
    let with_table = |flows: u32| {
        configuration("dsr").replace(
            "XDPInterface eth0",
            &format!("XDPInterface eth0\nSteerFlowTable {flows}"),
        )
    };
    let sluice = Sluice::start(&lab, &with_table(2048))?;
    let program = || -> Result<u64> {
        let status = sluice.json(&["status"])?;
        let id = status["interfaces"][0]["program"].as_u64();
        id.with_context(|| format!("no program in {status}"))
    };
    // Datagrams that nobody waits for: the balancer's stack counts every one that comes through.
    let counted = || lab.balancer.snmp("Udp", "NoPorts");
    // The first one waits for ARP.
    (lab.client).inside(|| std::net::UdpSocket::bind("0.0.0.0:0")?.send_to(&[0], WHERE))??;
    let before = wait::until("the first datagram", wait::PATIENCE, || {
        counted().ok().filter(|count| *count > 0)
    })?;
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stop);
    let sender = lab.client.spawn(move || -> std::io::Result<u64> {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
        let mut sent = 0;
        while !told.load(Relaxed) {
            socket.send_to(&[0], WHERE)?;
            sent += 1;
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(sent)
    })?;
    let mut seen = vec![program()?];
    for flows in [4096, 2048, 4096] {
        sluice.reload(&with_table(flows))?.ok()?;
        seen.push(program()?);
    }
    stop.store(true, Relaxed);
    let sent = sender
        .join()
        .map_err(|_| anyhow::anyhow!("the sender panicked"))???;
    let mut different = seen.clone();
    different.dedup();
    ensure!(different.len() == 4, "programs {seen:?}");
    ensure!(sent > 50, "{sent} sent");
    wait::until("every datagram", wait::PATIENCE, || {
        (counted().ok()? - before == sent).then_some(())
    })
    .with_context(|| format!("{sent} sent, {:?} before, {:?} after", before, counted()))?;
    Ok(())
}

#[test]
fn reload_refuses_an_interface_that_nobody_has_seen() -> Result<()> {
    let lab = Lab::new()?;
    let sluice = Sluice::start(&lab, &configuration("dsr"))?;
    let more =
        configuration("dsr").replace("XDPInterface eth0", "XDPInterface eth0\nXDPInterface typo0");
    let said = sluice.reload(&more)?;
    ensure!(
        said.code == 1 && said.all().contains("XDPInterface typo0: no such interface"),
        "{said:?}"
    );
    Ok(())
}

#[test]
fn members_without_a_port_are_checked_at_the_services() -> Result<()> {
    let lab = Lab::new()?;
    vip::share(&lab)?;
    let mut members = vip::members(&lab)?;
    let all: Vec<String> = (0..3)
        .map(|index| {
            let ip = topology::address(topology::MEMBERS + index);
            format!("BalancerMember tcp://{ip} hcmethod=TCP hcinterval=1 hcpath=direct\n")
        })
        .collect();
    let all = all.concat();
    let steer = format!(
        "<Proxy balancer://l4>\n{all}</Proxy>\nSteerPass tcp://{VIP4}:{PORT} balancer://l4\n"
    );
    let sluice = Sluice::start(&lab, &site(&three(""), &steer))?;
    // A check at port 0 would have failed by then.
    let failed = |index: u8| -> Option<bool> {
        let url = format!("tcp://{}", topology::address(topology::MEMBERS + index));
        let all = sluice.json(&["member", "list"]).ok()?;
        let row = all["members"]
            .as_array()?
            .iter()
            .find(|m| m["url"] == url)?
            .clone();
        Some(row["state"].as_array()?.contains(&Value::from("C")))
    };
    members[2].kill();
    wait::until("the check of c to fail", wait::PATIENCE, || {
        failed(2)?.then_some(())
    })?;
    ensure!(failed(0) == Some(false) && failed(1) == Some(false));
    wait::until("new flows to stay away from c", wait::PATIENCE, || {
        let seen = vip::answers(&lab.client, SERVICE, 20).ok()?;
        (seen.len() == 2).then_some(())
    })?;
    Ok(())
}

/// Answers every second check on a member with a failure, and counts them.
struct Flapping {
    checks: Arc<AtomicUsize>,
    end: Arc<AtomicBool>,
}

impl Flapping {
    fn start(home: &Namespace) -> Result<Self> {
        let listener = home.inside(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)))??;
        listener.set_nonblocking(true)?;
        let flapping = Self {
            checks: Arc::default(),
            end: Arc::default(),
        };
        let (checks, end) = (Arc::clone(&flapping.checks), Arc::clone(&flapping.end));
        std::thread::spawn(move || {
            while !end.load(Relaxed) {
                if let Ok((client, _)) = listener.accept() {
                    // One that goes away early was no check.
                    let _ = Self::answer(client, &checks);
                } else {
                    std::thread::sleep(Duration::from_millis(2));
                }
            }
        });
        Ok(flapping)
    }

    fn answer(mut client: TcpStream, checks: &AtomicUsize) -> std::io::Result<()> {
        client.set_nonblocking(false)?;
        client.set_read_timeout(Some(Duration::from_secs(1)))?;
        let mut head = [0; 1024];
        if client.read(&mut head)? == 0 {
            return Ok(());
        }
        let status = if checks.fetch_add(1, Relaxed).is_multiple_of(2) {
            "200 OK"
        } else {
            "503 No"
        };
        write!(
            client,
            "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )
    }

    fn checks(&self) -> usize {
        self.checks.load(Relaxed)
    }
}

impl Drop for Flapping {
    fn drop(&mut self) {
        self.end.store(true, Relaxed);
    }
}

/// Two members of which every second check fails: one is damped, and moves the ring far less often.
#[test]
fn hcfails_and_hcpasses_damp_a_tcp_member_that_flaps() -> Result<()> {
    let lab = Lab::new()?;
    let plain = Flapping::start(&lab.members[1])?;
    let damped = Flapping::start(&lab.members[2])?;
    let [a, b, c] = [0, 1, 2].map(|index| topology::address(topology::MEMBERS + index));
    let steer = format!(
        "<Proxy balancer://l4>\nBalancerMember tcp://{a}\n\
         BalancerMember tcp://{b} hcmethod=GET hcinterval=200ms\n\
         BalancerMember tcp://{c} hcmethod=GET hcinterval=200ms hcfails=3 hcpasses=2\n</Proxy>\n\
         SteerPass tcp://{VIP4}:{PORT} balancer://l4\n"
    );
    let text = site_with(&three(""), &steer, "LogLevel info");
    let sluice = Sluice::start(&lab, &text)?;
    let said = |what: String| sluice.log().matches(&what).count();
    let changes = |ip| said(format!("ABLING tcp://{ip}:")) + said(format!("ABLING tcp://{ip}\n"));
    wait::until("checks", wait::PATIENCE, || {
        (plain.checks() > 26 && damped.checks() > 26).then_some(())
    })
    .with_context(|| sluice.log())?;
    let rings = said("new flows of balancer://l4 go to".to_owned());
    let [undamped, few] = [changes(b), changes(c)];
    // Three failures to leave, which six checks have, and two successes to come back, which four have.
    let most = damped.checks() / 5 + 1;
    ensure!(
        undamped >= 20 && (2..=most).contains(&few),
        "{undamped}, {few}: {}",
        sluice.log()
    );
    // The ring follows what the checks decided, and nothing else; changes of one moment at once.
    ensure!(
        (undamped / 2..=undamped + few).contains(&rings),
        "{rings} rings of {undamped} and {few} changes"
    );
    Ok(())
}

#[test]
fn flows_over_a_limit_that_reports_and_shares_of_the_ring_are_shown() -> Result<()> {
    let lab = Lab::new()?;
    vip::share(&lab)?;
    let _members = vip::members(&lab)?;
    let text = configuration("dsr").replace(
        "XDPInterface eth0",
        "XDPInterface eth0\n\
         GuardLimit syn 1000/s per=service action=report\n\
         GuardLimit flows 1/s burst=1 per=service action=report",
    );
    let sluice = Sluice::start(&lab, &text)?;
    let service = format!("tcp://{SERVICE}");
    let said = wait::until("a reported packet", wait::PATIENCE, || {
        vip::answers(&lab.client, SERVICE, 6).ok()?;
        let said = sluice.cli(&["service", "show", &service]).ok()?.out;
        said.contains("steered_reported").then_some(said)
    })?;
    ensure!(
        said.contains("limit   flows 1/s burst=1 per=service action=report")
            && said.contains("limit   syn 1000/s"),
        "{said}"
    );
    // Each member's share of the ring stands beside what it got.
    let shares: Vec<f64> = (said.lines().filter(|line| line.starts_with("http://")))
        .filter_map(|line| {
            line.split_whitespace()
                .nth(1)?
                .strip_suffix('%')?
                .parse()
                .ok()
        })
        .collect();
    ensure!(shares.len() == 3, "{said}");
    let sum: f64 = shares.iter().sum();
    ensure!((99.0..101.0).contains(&sum), "{said}");
    let status = sluice.cli(&["status"])?.ok()?.out;
    ensure!(status.contains("action=report"), "{status}");
    Ok(())
}

#[test]
fn capture_takes_a_service_by_any_of_its_names() -> Result<()> {
    let lab = Lab::new()?;
    vip::share(&lab)?;
    let _members = vip::members(&lab)?;
    let sluice = Sluice::start(&lab, &configuration("dsr"))?;
    let file = lab.dir().join("seen.pcapng");
    for which in [
        vec!["--verdict", "send", "--service", "tcp://203.0.113.10:8080"],
        vec!["--service", "203.0.113.10:8080", "--flow", "192.0.2.10:0"],
        vec!["--member", "a", "--flow", "203.0.113.10:8080"],
    ] {
        let mut child = (sluice.place().command())
            .args(["capture", "--count", "3", "--for", "20s", "-w"])
            .arg(&file)
            .args(&which)
            .spawn()?;
        let done = wait::until("three packets", wait::PATIENCE, || {
            vip::answers(&lab.client, SERVICE, 4).ok()?;
            child.try_wait().ok()?
        });
        let _ = child.kill();
        let _ = child.wait();
        ensure!(done?.success(), "{which:?}");
        let text = String::from_utf8_lossy(&std::fs::read(&file)?).into_owned();
        ensure!(text.matches("send steered").count() == 3, "{which:?}");
    }
    let said = sluice.cli(&[
        "capture",
        "-w",
        "/dev/null",
        "--service",
        "tcp://203.0.113.99:1",
    ])?;
    ensure!(
        said.code != 0 && said.err.contains("no service"),
        "{said:?}"
    );
    Ok(())
}

/// What `doctor` says, run by itself.
fn doctor(lab: &Lab, home: &Namespace, words: &[&str]) -> Result<(Said, Vec<Value>)> {
    let mut place = Place::in_lab(lab, "doctor")?;
    place.namespace = Some(home.clone());
    let said = ask((place.command()).args(["doctor", "--json"]).args(words))?;
    let checks = said.json()?["checks"].as_array().context("checks")?.clone();
    Ok((said, checks))
}

fn named<'a>(checks: &'a [Value], name: &str) -> Result<&'a Value> {
    let found = checks.iter().find(|check| check["name"] == name);
    found.with_context(|| format!("no check {name:?} in {checks:#?}"))
}

#[test]
fn doctor_finds_who_owns_the_vip_and_the_ways_to_members() -> Result<()> {
    let lab = Lab::new()?;
    let file = lab.dir().join("steer.conf");
    std::fs::write(&file, configuration("ipip"))?;
    let arguments = ["-f", file.to_str().context("path")?];
    let vip = format!("VIP {VIP4}");

    // The VIP on the link of eth0, and nobody's.
    lab.balancer
        .ip(&format!("route add {VIP4}/32 dev eth0\n"))?;
    let (said, checks) = doctor(&lab, &lab.balancer, &arguments)?;
    ensure!(said.code != 0, "{said:?}");
    let owner = named(&checks, &vip)?;
    ensure!(owner["verdict"] == "fail", "{owner}");
    ensure!(
        owner["fix"] == format!("ip address add {VIP4}/32 dev eth0"),
        "{owner}"
    );
    let way = named(
        &checks,
        &format!("way to http://{}", lab::scene::member_address(0)),
    )?;
    ensure!(way["verdict"] == "ok", "{way}");
    let room = named(&checks, &format!("SteerPass tcp://{VIP4}:{PORT}: MTU"))?;
    ensure!(
        room["verdict"] == "warning" && room["fix"].to_string().contains("mtu 1520"),
        "{room}"
    );
    ensure!(named(&checks, "ip_forward")?["verdict"] == "ok");

    // A member that holds it on its link answers for it.
    lab.members[1].ip(&format!("address add {VIP4}/32 dev eth0\n"))?;
    lab.balancer.ip("neighbour flush dev eth0\n")?;
    let (_, checks) = doctor(&lab, &lab.balancer, &arguments)?;
    let owner = named(&checks, &vip)?;
    let url = format!("http://{}", lab::scene::member_address(1));
    ensure!(
        owner["verdict"] == "fail" && owner["found"].to_string().contains(&url),
        "{owner}"
    );
    // The member says so too, and what to do.
    let (said, checks) = doctor(&lab, &lab.members[1], &["--member", &VIP4.to_string()])?;
    ensure!(said.code == 1, "{said:?}");
    ensure!(named(&checks, &vip)?["verdict"] == "fail");
    ensure!(named(&checks, "eth0: arp_ignore")?["verdict"] == "fail");

    // All as it is to be.
    lab.members[1].ip(&format!("address del {VIP4}/32 dev eth0\n"))?;
    vip::share(&lab)?;
    lab.balancer
        .ip(&format!("address add {VIP4}/32 dev eth0\n"))?;
    let (_, checks) = doctor(&lab, &lab.balancer, &arguments)?;
    let owner = named(&checks, &vip)?;
    ensure!(owner["verdict"] == "ok", "{owner}");
    let (said, checks) = doctor(&lab, &lab.members[1], &["--member", &VIP4.to_string()])?;
    ensure!(said.code == 0, "{checks:?}");
    Ok(())
}

#[test]
fn doctor_names_a_member_without_a_way() -> Result<()> {
    let lab = Lab::new()?;
    let file = lab.dir().join("steer.conf");
    let text = configuration("dsr").replace(
        &format!("http://{}", lab::scene::member_address(2)),
        "http://10.99.0.1:8080",
    );
    std::fs::write(&file, text)?;
    let arguments = ["-f", file.to_str().context("path")?];
    let (_, checks) = doctor(&lab, &lab.balancer, &arguments)?;
    let way = named(&checks, "way to http://10.99.0.1:8080")?;
    ensure!(
        way["verdict"] == "fail" && way["found"] == "no route to 10.99.0.1",
        "{way}"
    );
    // dsr reaches the link alone.
    lab.balancer.ip(&format!(
        "route add 10.99.0.0/24 via {}\n",
        topology::address(topology::MEMBERS)
    ))?;
    let (_, checks) = doctor(&lab, &lab.balancer, &arguments)?;
    let way = named(&checks, "way to http://10.99.0.1:8080")?;
    ensure!(
        way["verdict"] == "fail" && way["fix"].to_string().contains("forward=ipip"),
        "{way}"
    );
    Ok(())
}
