//! Both with one configuration and members of their own, which have the same names and do the same.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::{
    cast::Actor,
    harness::{PATIENCE, free_port},
    peers::{Pair, Seen, exchange, is_here, seen},
};

/// What of the variables about balancing a response tells.
const TOLD: &str = "Header always set X-Told \"%{BALANCER_NAME}e %{BALANCER_WORKER_NAME}e \
    %{BALANCER_WORKER_ROUTE}e %{BALANCER_SESSION_STICKY}e %{BALANCER_SESSION_ROUTE}e \
    %{BALANCER_ROUTE_CHANGED}e\"\n";

/// Messages whose number is compared (apache.md 5.7). Those about connections are not: with `retry=0`
/// their number depends on the clock.
const MESSAGES: [&str; 7] = [
    "AH00898", "AH01102", "AH01165", "AH01167", "AH01170", "AH01171", "AH01174",
];

/// One of the two with its members.
pub(super) struct Side {
    /// Who it is.
    pub(super) who: &'static str,
    /// Where it listens at 127.0.0.1.
    pub(super) port: u16,
    /// `{other}`
    pub(super) other: u16,
    actors: Vec<Actor>,
}

/// The two.
pub(super) struct Stage {
    pair: Pair,
    /// httpd, sluice.
    pub(super) sides: [Side; 2],
}

/// Requests, one after another.
#[derive(Clone, Copy)]
pub(super) struct Ask {
    pub(super) times: usize,
    /// Method, path behind the balancer's, query: `GET /x?a=503`.
    pub(super) line: &'static str,
    pub(super) field: Option<&'static str>,
}

/// So many requests.
pub(super) const fn ask(times: usize, line: &'static str) -> Ask {
    Ask {
        times,
        line,
        field: None,
    }
}

/// So many requests with a field.
pub(super) const fn with(times: usize, line: &'static str, field: &'static str) -> Ask {
    Ask {
        times,
        line,
        field: Some(field),
    }
}

/// A balancer and what becomes of requests for it.
pub(super) struct Scene<'a> {
    name: &'a str,
    lines: String,
    asks: Vec<Ask>,
    expected: &'a str,
}

/// A balancer `name` at `/NAME/`. `lines` are parted by `; `, members begin with their `{name}`.
/// `expected`: who answers each request: a member's name, `a/503` with a status of its, or an own
/// status alone.
pub(super) fn scene<'a>(name: &'a str, lines: &str, asks: &[Ask], expected: &'a str) -> Scene<'a> {
    let line = |line: &'_ str| {
        let start = if line.starts_with('{') {
            "BalancerMember http://"
        } else {
            ""
        };
        [start, line, "\n"].concat()
    };
    Scene {
        name,
        lines: lines.split("; ").map(line).collect(),
        asks: asks.to_vec(),
        expected,
    }
}

impl Stage {
    /// Starts both. `{a}` in the configuration is the address of the member a; those of `down` do
    /// not listen yet. `{port}` is where each listens, `{other}` another port of its own.
    pub(super) fn start(up: &[&'static str], down: &[&'static str], text: &str) -> Option<Self> {
        if !is_here() {
            return None;
        }
        let text = format!("{TOLD}{text}");
        let casts = [(); 2].map(|()| -> Vec<Actor> {
            let up = up.iter().map(|name| Actor::up(name));
            up.chain(down.iter().map(|name| Actor::down(name)))
                .collect()
        });
        let others = [free_port(), free_port()];
        let texts = [0, 1].map(|side| {
            let text = text.replace("{other}", &others[side].to_string());
            casts[side].iter().fold(text, |text, actor| {
                text.replace(&format!("{{{}}}", actor.name), &actor.address.to_string())
            })
        });
        let pair = Pair::of(texts.each_ref().map(String::as_str));
        let [theirs, ours] = casts;
        let [their_port, our_port] = pair.ports();
        let side = |who, port, other, actors| Side {
            who,
            port,
            other,
            actors,
        };
        Some(Self {
            pair,
            sides: [
                side("httpd", their_port, others[0], theirs),
                side("sluice", our_port, others[1], ours),
            ],
        })
    }

    /// Stops both, and starts them again.
    pub(super) fn restart(&mut self) {
        self.pair.restart();
    }

    /// Runs scenes, each with a balancer of its own at a path of its name.
    pub(super) fn play(up: &[&'static str], down: &[&'static str], scenes: &[Scene<'_>]) {
        let mut text = String::new();
        for Scene { name, lines, .. } in scenes {
            text.extend(["<Proxy balancer://", name, ">\n", lines, "</Proxy>\n"]);
            text.extend(["ProxyPass /", name, "/ balancer://", name, "/\n"]);
        }
        let Some(stage) = Self::start(up, down, &text) else {
            return;
        };
        let mut failures = Vec::new();
        for scene in scenes {
            failures.extend(stage.differences_in(scene));
        }
        stage.end(&failures);
        stage.compare_logs();
    }

    /// Messages about balancing are logged as often by both.
    fn compare_logs(&self) {
        let count = |log: &str| MESSAGES.map(|id| (id, log.matches(&format!(" {id}: ")).count()));
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (theirs, ours) = (count(&self.pair.their_log()), count(&self.pair.log()));
            if theirs == ours {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "messages: httpd {theirs:?}\nsluice {ours:?}"
            );
            // Both write when they like.
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Fails with these and with the logs, if there are any.
    pub(super) fn end(&self, failures: &[String]) {
        assert!(
            failures.is_empty(),
            "{}\n\nhttpd:\n{}\nsluice:\n{}",
            failures.join("\n"),
            self.pair.their_log(),
            self.pair.log()
        );
    }

    /// Asks both and says what differs.
    pub(super) fn differs(&self, line: &str, fields: &[&str]) -> Option<String> {
        let [theirs, ours] = self.sides.each_ref().map(|side| side.ask(line, fields));
        (theirs != ours).then(|| format!("{line} {fields:?}\nhttpd:  {theirs:?}\nsluice: {ours:?}"))
    }

    fn differences_in(&self, scene: &Scene<'_>) -> Option<String> {
        let [theirs, ours] = self.sides.each_ref().map(|side| side.run(scene));
        let names = |seen: &[Seen]| seen.iter().map(name_of).collect::<Vec<_>>().join(" ");
        let (they, we) = (names(&theirs), names(&ours));
        if they != scene.expected || we != scene.expected {
            return Some(format!(
                "{}: expected\n  {}\nhttpd\n  {they}\nsluice\n  {we}",
                scene.name, scene.expected
            ));
        }
        let mut pairs = theirs.iter().zip(&ours).enumerate();
        let (number, (theirs, ours)) = pairs.find(|(_, (theirs, ours))| theirs != ours)?;
        Some(format!(
            "{}, request {}:\nhttpd:  {theirs:#?}\nsluice: {ours:#?}",
            scene.name,
            number + 1
        ))
    }
}

/// Who answered.
pub(super) fn name_of(seen: &Seen) -> String {
    let member = seen.fields.iter().find(|(name, _)| name == "x-member");
    match (member, seen.status) {
        (Some((_, member)), 200) => member.clone(),
        (Some((_, member)), status) => format!("{member}/{status}"),
        (None, status) => status.to_string(),
    }
}

impl Side {
    /// A member of its.
    pub(super) fn actor(&self, name: &str) -> &Actor {
        let actor = self.actors.iter().find(|actor| actor.name == name);
        actor.unwrap_or_else(|| panic!("no member {name}"))
    }

    fn run(&self, scene: &Scene<'_>) -> Vec<Seen> {
        let mut seen = Vec::new();
        for Ask { times, line, field } in &scene.asks {
            let (method, path) = line.split_once(' ').expect("a method and a path");
            let line = format!("{method} /{}{path}", scene.name);
            let fields: Vec<&str> = field.iter().copied().collect();
            for _ in 0..*times {
                seen.push(self.ask(&line, &fields));
            }
        }
        seen
    }

    /// One request, on a connection of its own.
    pub(super) fn ask(&self, line: &str, fields: &[&str]) -> Seen {
        self.send(line, fields, &[])
    }

    /// One request with what follows its head, on a connection of its own. A connection that ends
    /// without an answer is status 0.
    pub(super) fn send(&self, line: &str, fields: &[&str], body: &[u8]) -> Seen {
        let unless = |name: &str, line: &'static str| {
            let has = fields.iter().any(|field| field.starts_with(name));
            if has { "" } else { line }
        };
        let host = unless("Host:", "Host: site.test\r\n");
        let close = unless("Connection:", "Connection: close\r\n");
        let fields: String = fields.iter().flat_map(|field| [field, "\r\n"]).collect();
        let fields = self.with_ports(&fields);
        let mut request = format!("{line} HTTP/1.1\r\n{host}{fields}{close}\r\n").into_bytes();
        request.extend_from_slice(body);
        self.raw(&request)
    }

    /// What comes back for these bytes.
    pub(super) fn raw(&self, request: &[u8]) -> Seen {
        self.read(&exchange(("127.0.0.1", self.port), request))
    }

    /// What an answer says, with names in the place of addresses.
    pub(super) fn read(&self, answer: &[u8]) -> Seen {
        let mut seen = seen(answer).unwrap_or(Seen {
            status: 0,
            fields: Vec::new(),
            body: String::new(),
        });
        // Fields of pages for malformed requests (docs/differences.md).
        if seen.status == 400 {
            seen.fields.retain(|(name, _)| name != "x-told");
        }
        // The members of the two differ in their ports alone, and so do the two.
        for (_, value) in &mut seen.fields {
            *value = self.without_ports(value);
        }
        seen.body = self.without_ports(&seen.body);
        seen
    }

    /// With addresses in the place of members' names in braces.
    pub(super) fn with_ports(&self, text: &str) -> String {
        self.actors.iter().fold(text.to_owned(), |text, actor| {
            text.replace(&format!("{{{}}}", actor.name), &actor.address.to_string())
        })
    }

    /// With names in the place of addresses.
    pub(super) fn without_ports(&self, text: &str) -> String {
        let text = text.replace(&format!("127.0.0.1:{}", self.port), "{self}");
        let text = text.replace(&format!(".test:{}", self.port), ".test:{self}");
        self.actors.iter().fold(text, |text, actor| {
            text.replace(&actor.address.to_string(), &format!("{{{}}}", actor.name))
        })
    }
}
