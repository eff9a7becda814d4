//! Members by name: a real name server changes its answers, fails and comes back; requests and
//! packets follow, and what is under way stays where it is.

use std::{collections::BTreeMap, net::IpAddr, net::SocketAddr};

use anyhow::{Context, Result, ensure};
use lab::{
    Curl, Lab, Member, Sluice,
    curl::letters,
    dns::Dns,
    scene::{member_address, service, site},
    sluice::FAILED,
    topology,
    vip::{self, Connection, PORT, VIP4},
    wait::{self, PATIENCE},
};
use serde_json::Value;

const VIP: SocketAddr = SocketAddr::new(IpAddr::V4(VIP4), PORT);

/// Ends in the order in which it is written here.
struct Names {
    sluice: Sluice,
    members: Vec<Member>,
    dns: Dns,
    curl: Curl,
    lab: Lab,
}

fn at(index: u8) -> IpAddr {
    member_address(index).ip()
}

/// `None`: it cannot run here, which has been said.
fn start(answers: &[(&str, IpAddr)], members: &str, ours: &str) -> Result<Option<Names>> {
    if let Some(why) = Dns::missing() {
        return lab::skip(&why).map(|()| None);
    }
    let lab = Lab::new()?;
    vip::share(&lab)?;
    let homes = vip::members(&lab)?;
    let dns = Dns::start(&lab.balancer, &lab.dir(), answers)?;
    let sluice = Sluice::start(&lab, &site(members, ours))?;
    Ok(Some(Names {
        sluice,
        members: homes,
        dns,
        curl: Curl::inside(&lab.client),
        lab,
    }))
}

impl Names {
    fn requests(&self, count: u32) -> Result<String> {
        let url = format!("http://{}/name", service());
        Ok(letters(&self.curl.series(&url, count)?))
    }

    fn flows(&self, count: u32) -> Result<BTreeMap<String, u32>> {
        vip::answers(&self.lab.client, VIP, count)
    }

    fn name(&self, name: &str) -> Result<Value> {
        let json = self.sluice.json(&["status"])?;
        let names = json["names"].as_array().context("names")?;
        let found = names.iter().find(|view| view["name"] == name);
        Ok(found
            .with_context(|| format!("no {name} in {json}"))?
            .clone())
    }

    /// Waits until requests are answered so.
    fn wait_for(&self, wanted: &str) -> Result<()> {
        wait::until("requests to follow the name", PATIENCE, || {
            (self.requests(1).ok()? == wanted).then_some(())
        })
        .with_context(|| self.sluice.log())
    }
}

const STEER: &str = "    SteerPass tcp://203.0.113.10:8080 balancer://b forward=dsr\n";

#[test]
fn packets_and_requests_follow_a_name_and_its_old_address_drains() -> Result<()> {
    let member = "    BalancerMember http://app.test:8080 route=x\n";
    let Some(mut names) = start(&[("app.test", at(0))], member, STEER)? else {
        return Ok(());
    };
    lab::same(&names.requests(2)?, "a a")?;
    let mut kept = Connection::open(&names.lab.client, VIP)?;
    lab::same(&kept.name()?, "a")?;
    let url = format!("http://{}/name?hold=1", service());
    let held = names.curl.start_series(&url, 1)?;
    names.members[0].wait_held(1)?;
    names
        .sluice
        .cli(&["member", "set", "b", "x", "loadfactor=7"])?
        .ok()?;

    names.dns.set(&[("app.test", at(1))])?;
    names.wait_for("b")?;
    let flows = names.flows(20)?;
    ensure!(flows == BTreeMap::from([("b".to_owned(), 20)]), "{flows:?}");
    // What was under way stays with the old address.
    lab::same(&kept.name()?, "a")?;
    names.members[0].release();
    lab::same(&letters(&held.finish()?), "a")?;
    let view = names.name("app.test")?;
    ensure!(
        view["used"] == serde_json::json!([at(1)]) && view["moves"] == 1,
        "{view}"
    );
    ensure!(view["ttl_seconds"] == 1 && view["error"] == "", "{view}");
    ensure!(view["age_seconds"].as_u64() < Some(20), "{view}");
    let row = names.sluice.member("b", "x")?;
    ensure!(
        row["lbfactor"] == 7.0 && row["elected"].as_u64() > Some(2),
        "{row}"
    );
    let log = names.sluice.log();
    ensure!(
        log.contains("app.test is at") && log.contains("which drains"),
        "{log}"
    );
    let metrics = names.sluice.cli(&["metrics"])?.ok()?.out;
    ensure!(
        metrics.contains("sluice_name_moves_total{name=\"app.test\"} 1\n"),
        "{metrics}"
    );
    let text = names.sluice.cli(&["status"])?.ok()?.out;
    ensure!(text.contains("app.test") && text.contains("AGE"), "{text}");

    // More addresses, in whatever order: who is in the answer stays.
    names.dns.set(&[("app.test", at(2)), ("app.test", at(1))])?;
    wait::until("both addresses to be known", PATIENCE, || {
        let view = names.name("app.test").ok()?;
        (view["addresses"].as_array()?.len() == 2).then_some(())
    })?;
    lab::same(&names.requests(3)?, "b b b")?;

    // No name server: the last answer stays, through a reload too.
    names.dns.kill();
    wait::until("a lookup to fail", PATIENCE, || {
        let view = names.name("app.test").ok()?;
        (view["failed"].as_u64()? > 0).then_some(())
    })?;
    names.sluice.reload(&site(member, STEER))?.ok()?;
    lab::same(&names.requests(2)?, "b b")?;
    ensure!(
        names.sluice.log().contains("is kept"),
        "{}",
        names.sluice.log()
    );
    names.dns.set(&[("app.test", at(2))])?;
    names.dns.revive()?;
    names.wait_for("c")?;
    lab::same(&kept.name()?, "a")?;
    Ok(())
}

#[test]
fn name_that_is_not_found_at_start_stops_nobody_and_joins_when_it_is() -> Result<()> {
    let members = format!(
        "    BalancerMember http://{} route=a\n    BalancerMember http://late.test:8080 route=late\n",
        member_address(0)
    );
    let Some(names) = start(&[], &members, "")? else {
        return Ok(());
    };
    lab::same(&names.requests(4)?, "a a a a")?;
    lab::same(&names.sluice.state("b", "late")?, "E")?;
    wait::until("the alarm", PATIENCE, || {
        names
            .sluice
            .log()
            .contains("name late.test cannot be resolved")
            .then_some(())
    })?;
    // Where somebody is there to correct it, it is refused.
    let other = "    BalancerMember http://nobody.test:8080\n";
    let said = names.sluice.reload(&site(&(members.clone() + other), ""))?;
    ensure!(
        said.code == FAILED && said.err.contains("nobody.test"),
        "{said:?}"
    );
    lab::same(&names.requests(2)?, "a a")?;

    names.dns.set(&[("late.test", at(1))])?;
    wait::until("the member to join", PATIENCE, || {
        names.requests(2).ok()?.contains('b').then_some(())
    })
    .with_context(|| names.sluice.log())?;
    lab::same(&names.sluice.state("b", "late")?, "")?;
    Ok(())
}

#[test]
fn only_member_without_an_address_is_answered_with_its_reason() -> Result<()> {
    let log = "    BalancerMember http://late.test:8080 route=late retry=0\n";
    let Some(names) = start(&[], log, "")? else {
        return Ok(());
    };
    let url = format!("http://{}/name", service());
    ensure!(names.curl.get(&url)?.status == 503);
    let log = names.sluice.log();
    ensure!(
        log.contains("AH00898: DNS lookup failure for: late.test returned by /name"),
        "{log}"
    );
    // Counted when the answer is on its way.
    wait::until("the request to be counted", PATIENCE, || {
        let metrics = names.sluice.cli(&["metrics"]).ok()?.out;
        (metrics.contains("reason=\"unresolved\"} 1")).then_some(())
    })
}

#[test]
fn addressttl_of_minus_one_keeps_the_first_answer() -> Result<()> {
    let members = "    BalancerMember http://fixed.test:8080 route=fixed addressttl=-1\n    \
                   BalancerMember http://app.test:8080 route=app addressttl=1\n";
    let first = [("fixed.test", at(0)), ("app.test", at(1))];
    let Some(names) = start(&first, members, "")? else {
        return Ok(());
    };
    lab::same(&names.requests(4)?, "a b a b")?;
    names
        .dns
        .set(&[("fixed.test", at(1)), ("app.test", at(2))])?;
    wait::until("the other name to move", PATIENCE, || {
        names.requests(2).ok()?.contains('c').then_some(())
    })
    .with_context(|| names.sluice.log())?;
    let seen = names.requests(4)?;
    ensure!(seen.contains('a') && !seen.contains('b'), "{seen}");
    Ok(())
}

#[test]
fn clients_are_let_in_by_the_name_that_they_have_now() -> Result<()> {
    let client = IpAddr::from(topology::address(topology::CLIENT));
    let member = format!("    BalancerMember http://{}:8080\n", at(0));
    let guarded = "    <Location /name>\n        Require host .clients.test\n        \
                   Require forward-dns home.test\n    </Location>\n";
    let Some(mut names) = start(&[], &member, guarded)? else {
        return Ok(());
    };
    let url = format!("http://{}/name", service());
    let status = |names: &Names| Ok::<_, anyhow::Error>(names.curl.get(&url)?.status);
    let wait_for = |names: &Names, what: &str, wanted: u16| {
        wait::until(what, PATIENCE, || {
            (status(names).ok()? == wanted).then_some(())
        })
        .with_context(|| names.sluice.log())
    };
    ensure!(status(&names)? == 403, "a client without a name");
    names.dns.set(&[("c1.clients.test", client)])?;
    wait_for(&names, "the client's name to let it in", 200)?;
    names.dns.set(&[("c1.xclients.test", client)])?;
    wait_for(&names, "another name to keep it out", 403)?;
    let home = [("c1.xclients.test", client), ("home.test", client)];
    names.dns.set(&home)?;
    wait_for(&names, "its address to be that of a name", 200)?;
    names.dns.kill();
    wait_for(&names, "a name server that is away to keep it out", 403)?;
    // Who asks for nothing by name does not wait for it.
    let open = format!("http://{}/", service());
    ensure!(names.curl.get(&open)?.status != 403);
    let log = names.sluice.log();
    ensure!(
        log.contains("AH01630: client denied by server configuration: /name"),
        "{log}"
    );
    Ok(())
}

/// Nothing listens there.
const REFUSES: [IpAddr; 2] = [
    IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
    IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 2)),
];

/// Has a name answer with these from now on, and waits until it is known.
fn answers(names: &Names, name: &str, addresses: &[IpAddr]) -> Result<()> {
    let given: Vec<_> = addresses.iter().map(|ip| (name, *ip)).collect();
    names.dns.set(&given)?;
    let mut wanted: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    wanted.sort();
    wait::until("the answer to be known", PATIENCE, || {
        let view = names.name(name).ok()?;
        let known = view["addresses"].as_array()?.iter();
        let mut known: Vec<_> = known.filter_map(Value::as_str).collect();
        known.sort_unstable();
        (known == wanted).then_some(())
    })
    .with_context(|| names.sluice.log())
}

#[test]
fn further_addresses_of_a_name_are_tried_when_the_first_fails() -> Result<()> {
    let member = "    BalancerMember http://app.test:8080 route=x retry=0 connectiontimeout=1 \
                  disablereuse=On\n";
    let Some(names) = start(&[("app.test", REFUSES[0])], member, "")? else {
        return Ok(());
    };
    let url = format!("http://{}/name", service());
    ensure!(names.curl.get(&url)?.status == 503);
    // The member stays where it is: that is all that a table of members shows.
    answers(&names, "app.test", &[REFUSES[0], at(1)])?;
    lab::same(&names.requests(3)?, "b b b")?;
    lab::same(&names.sluice.state("b", "x")?, "")?;
    ensure!(names.name("app.test")?["used"] == serde_json::json!([REFUSES[0]]));
    // Every one has the whole time: nobody answers for the second of these.
    let silent = IpAddr::from([192, 0, 2, 1]);
    answers(&names, "app.test", &[REFUSES[0], silent, at(2)])?;
    lab::same(&names.requests(2)?, "c c")?;
    // The member is in error when all have failed.
    answers(&names, "app.test", &REFUSES)?;
    ensure!(names.curl.get(&url)?.status == 503);
    let log = names.sluice.log();
    ensure!(
        log.contains("attempt to connect to app.test:8080 (127.0.0.2:8080) failed"),
        "{log}"
    );
    Ok(())
}

#[test]
fn connection_to_a_further_address_ends_with_that() -> Result<()> {
    let member = "    BalancerMember http://app.test:8080 route=x retry=0\n";
    let Some(names) = start(&[("app.test", REFUSES[0])], member, "")? else {
        return Ok(());
    };
    answers(&names, "app.test", &[REFUSES[0], at(1)])?;
    lab::same(&names.requests(2)?, "b b")?;
    answers(&names, "app.test", &[REFUSES[0], at(2)])?;
    lab::same(&names.requests(2)?, "c c")?;
    Ok(())
}

#[test]
fn checks_try_further_addresses_unless_packets_are_steered() -> Result<()> {
    let member = "    BalancerMember http://app.test:8080 route=x hcmethod=TCP hcinterval=100ms\n";
    let found = |ours: &str| -> Result<Option<String>> {
        let Some(names) = start(&[("app.test", REFUSES[0])], member, ours)? else {
            return Ok(None);
        };
        wait::until("the check to fail", PATIENCE, || {
            (names.sluice.state("b", "x").ok()?.contains('C')).then_some(())
        })?;
        answers(&names, "app.test", &[REFUSES[0], at(1)])?;
        if ours.is_empty() {
            wait::until("the check to pass", PATIENCE, || {
                (!names.sluice.state("b", "x").ok()?.contains('C')).then_some(())
            })
            .with_context(|| names.sluice.log())?;
            return Ok(Some(names.requests(2)?));
        }
        let url = format!("http://{}/name", service());
        Ok(Some(names.curl.get(&url)?.status.to_string()))
    };
    if let Some(found) = found("")? {
        lab::same(&found, "b b")?;
    }
    if let Some(found) = found(STEER)? {
        lab::same(&found, "503")?;
    }
    Ok(())
}
