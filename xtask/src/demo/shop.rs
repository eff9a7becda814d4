//! The part of the demo that is the same with and without namespaces: requests to `balancer://shop`
//! of the examples, whose members a and b share 5:1 and whose c stands by.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::{Context, Result};
use lab::{
    Curl, Member, Namespace, Sluice,
    curl::{Answer, letters},
    tables,
    wait::{self, PATIENCE},
};

use super::report::{Report, say};

/// The balancer's name in the examples.
const BALANCER: &str = "shop";
/// What httpd answers with to 5:1, from the first request on (apache.md 5.3).
const FIVE_TO_ONE: &str = "a a a b a a a a a b a a";
const FIVE_TO_ONE_REQUESTS: u32 = 12;

/// What the steps act on.
pub(super) struct Shop {
    /// `http://HOST:PORT` of the service.
    pub(super) url: String,
    /// The client.
    pub(super) curl: Curl,
    /// The daemon.
    pub(super) sluice: Sluice,
    /// Members a, b and c.
    pub(super) members: Vec<Member>,
    /// Where the members run; `None`: on this host.
    pub(super) homes: Option<Vec<Namespace>>,
    /// Where the maps are pinned, if there is a dataplane.
    pub(super) pins: Option<PathBuf>,
}

impl Shop {
    fn name_url(&self) -> String {
        format!("{}/name", self.url)
    }

    /// Distribution by loadfactor.
    pub(super) fn distribution(&self, report: &mut Report) -> Result<()> {
        report.section("Twelve requests over loadfactors 5:1, byrequests");
        let answers = self.curl.series(&self.name_url(), FIVE_TO_ONE_REQUESTS)?;
        let seen = letters(&answers);
        say(&seen);
        say(count(&answers));
        report.check(seen == FIVE_TO_ONE, "httpd's exact sequence for 5:1");
        Ok(())
    }

    /// Sticky sessions by cookie and by path parameter.
    pub(super) fn sticky(&self, report: &mut Report) -> Result<()> {
        report.section("Sessions stay with their member");
        let first = self
            .curl
            .get(&format!("{}/name?cookie=JSESSIONID", self.url))?;
        let cookie = first
            .header("set-cookie")
            .and_then(|value| value.split(';').next())
            .context("the member's cookie did not arrive")?
            .to_owned();
        let member = first.text().to_owned();
        say(format!("member {member} sets {cookie}"));
        let answers = self
            .curl
            .clone()
            .header(format!("Cookie: {cookie}"))
            .series(&self.name_url(), 10)?;
        say(format!("ten requests with it:       {}", letters(&answers)));
        report.check(all(&answers, &member), "the cookie's session is held");
        let url = format!("{}/name;jsessionid=session.b", self.url);
        let answers = self.curl.series(&url, 10)?;
        say(format!(";jsessionid=session.b:      {}", letters(&answers)));
        report.check(all(&answers, "b"), "the path parameter's session is held");
        Ok(())
    }

    /// A drain by the command line: requests, sessions, and the kernel's table.
    pub(super) fn drain(&self, report: &mut Report) -> Result<()> {
        report.section("Member a is drained by the command line");
        let said = self.sluice.cli(&["member", "drain", BALANCER, "a"])?;
        say(format!(
            "$ sluice member drain {BALANCER} a\n{}",
            said.all().trim()
        ));
        report.check(said.code == 0, "the command succeeds");
        let answers = self.curl.series(&self.name_url(), 8)?;
        say(format!("new requests:               {}", letters(&answers)));
        report.check(all(&answers, "b"), "new requests go elsewhere");
        let kept = self.curl.clone().header("Cookie: JSESSIONID=session.a");
        let answers = kept.series(&self.name_url(), 8)?;
        say(format!("requests of a's session:    {}", letters(&answers)));
        report.check(all(&answers, "a"), "its sessions stay");
        if let Some(pins) = &self.pins {
            let row = tables::member(pins, BALANCER, "a")?;
            say(format!(
                "the kernel's MEMBERS[{}]:     state {}",
                row.id,
                row.letters()
            ));
            report.check(
                row.letters() == "N",
                "the kernel's member table shows the drain",
            );
        } else {
            let state = self.sluice.state(BALANCER, "a")?;
            report.check(state == "N", "sluice member list shows the drain");
        }
        let said = self.sluice.cli(&["member", "enable", BALANCER, "a"])?;
        report.check(said.code == 0, "enabled again");
        let answers = self.curl.series(&self.name_url(), 12)?;
        say(format!("new requests:               {}", letters(&answers)));
        report.check(
            answers.iter().any(|answer| answer.body == "a"),
            "it takes requests again",
        );
        Ok(())
    }

    /// A member killed under load, and its return.
    pub(super) fn kill(&mut self, report: &mut Report) -> Result<()> {
        // It is to die in the middle of them, seen on a busy machine too.
        const REQUESTS: u32 = 2000;
        report.section("Member a is killed while requests run");
        let before = self.members[0].requests();
        let series = self.curl.start_series(&self.name_url(), REQUESTS)?;
        let address = self.members[0].address();
        wait::until("member a to be busy", PATIENCE, || {
            (self.members[0].requests() > before + 50).then_some(())
        })?;
        self.members[0].kill();
        let answers = series.finish()?;
        let errors = answers.iter().filter(|answer| answer.status != 200).count();
        say(format!("{REQUESTS} requests: {}", count(&answers)));
        say(format!("client errors: {errors}"));
        // The client has one request under way at any time.
        report.check(
            errors <= 1 && answers.len() == REQUESTS as usize,
            "no client error but what was in flight on it",
        );
        report.check(
            answers
                .iter()
                .rev()
                .take(50)
                .all(|answer| answer.body == "b"),
            "the others took over",
        );
        self.members[0] = self.start_member("a", 0, address)?;
        let url = self.name_url();
        wait::until("member a to be elected again", PATIENCE, || {
            let answers = self.curl.series(&url, 6).ok()?;
            answers
                .iter()
                .any(|answer| answer.body == "a")
                .then_some(())
        })?;
        report.check(true, "started again, it is used again after retry=1");
        Ok(())
    }

    fn start_member(&self, name: &str, index: usize, address: SocketAddr) -> Result<Member> {
        match &self.homes {
            Some(homes) => Member::start(&homes[index], name, address),
            None => Member::start_here(name, address),
        }
    }
}

/// Whether every answer is 200 and from this member.
pub(super) fn all(answers: &[Answer], member: &str) -> bool {
    !answers.is_empty()
        && answers
            .iter()
            .all(|answer| answer.status == 200 && answer.body == member)
}

/// How many answers each member gave.
fn count(answers: &[Answer]) -> String {
    ["a", "b", "c"]
        .map(|name| {
            let own = answers
                .iter()
                .filter(|answer| answer.status == 200 && answer.body == name);
            format!("{name} {}", own.count())
        })
        .join(", ")
}
