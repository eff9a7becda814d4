//! Carrying rules out for one request: the order, the quirks and the limits of mod_rewrite, in a
//! server's context and in a section's.

use std::{cell::RefCell, cmp::Ordering};

use super::{
    Action, Condition, Cookie, Next, Relation, Rule, Test, escape,
    scheme::{Scheme, scheme},
    template::{Template, TooLong},
};
use crate::{
    config::spec::policy::Handler,
    expr::{Variable, number},
    pattern::Captures,
    policy::environment::{self, Environment},
};

mod facts;
mod finish;

use finish::CONTROLS;

/// A request that rules look at: beside what expressions ask for, where it came to.
pub trait Request: environment::Request {
    /// `scheme://host[:port]` by which the client calls this server.
    fn origin(&self) -> Vec<u8>;
    /// Whether a URL of our scheme with this host and port (`None`: the scheme's) is this server's.
    fn is_here(&self, host: &[u8], port: Option<u16>) -> bool;
    /// A key's value in a file of `RewriteMap`, by its index in the Spec.
    fn look_up(&self, _file: usize, _key: &[u8]) -> Option<Vec<u8>> {
        None
    }
}

/// The section that rules stand in.
#[derive(Clone, Copy, Debug)]
pub struct Directory<'d> {
    /// What it is for, with a slash at its end: what results begin with that do not begin with one.
    pub path: &'d str,
    /// `RewriteBase`: takes that beginning's place.
    pub base: Option<&'d str>,
    /// Where the request is going: `proxy:SCHEME://HOST`, with which its path begins. `None`: to no
    /// member.
    pub proxied: Option<&'d [u8]>,
}

/// What the rules made of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// What becomes of it.
    pub outcome: Outcome,
    /// `[CO=]`: cookies that every answer sets.
    pub cookies: Vec<Cookie>,
    /// `[H=]`: who answers.
    pub handler: Option<Handler>,
    /// `[END]`: no rule of a section is to follow.
    pub ended: bool,
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// No rule put anything in its path's place: `ProxyPass` decides.
    Declined,
    /// `ProxyPass` decides, and by this path.
    Passed {
        /// Decoded.
        path: Vec<u8>,
        /// `None`: none.
        query: Option<Vec<u8>>,
    },
    /// It names something on this server, and `ProxyPass` is not asked.
    Local,
    /// Of a section's rules: the request begins anew with this path.
    Anew {
        /// Begins with a slash; may be encoded.
        path: Vec<u8>,
        /// `None`: none.
        query: Option<Vec<u8>>,
    },
    /// Of a section's rules: it goes on to where it was going.
    Onward {
        /// Begins with a slash; decoded unless `raw`.
        path: Vec<u8>,
        /// `None`: none.
        query: Option<Vec<u8>>,
        /// `[NE]`: the path is sent as it is.
        raw: bool,
    },
    /// It goes to a member.
    Proxied {
        /// As in the rule.
        balancer: usize,
        /// Begins with a slash; decoded unless `raw`.
        path: Vec<u8>,
        /// `None`: none.
        query: Option<Vec<u8>>,
        /// `[NE]`: the path is sent as it is.
        raw: bool,
    },
    /// The client is sent elsewhere.
    Redirected {
        /// 300 to 399.
        status: u16,
        /// A URL.
        place: Vec<u8>,
    },
    /// It is answered with this status. `cause`: for the log, where no rule asked for it.
    Failed {
        /// Status.
        status: u16,
        /// What is wrong.
        cause: Option<&'static str>,
    },
}

/// Longest path that a rule may make, bytes: twice the longest request line, as in httpd.
const LONGEST_PATH: usize = 2 * 8190;

/// Most rules that are tried in all rounds after the first, so that `[N]` cannot keep a shard busy;
/// httpd lets them go round 10 000 times.
const MOST_TRIES: u32 = 1000;

const TOO_LONG: &str = "RewriteRule: the URI exceeded its maximum length";
const TOO_MANY: &str = "AH02596: RewriteRule: the maximum number of rounds was exceeded";
const QUESTION: &str = "AH10508: Unsafe URL with %3f URL rewritten without UnsafeAllow3F";

/// Applies a server's rules to a request for `path` (decoded) and `query`. What `[E=]` sets goes to
/// `environment`, which `request` reads.
pub fn apply(
    rules: &[Rule],
    request: &impl Request,
    environment: &RefCell<Environment>,
    path: &[u8],
    query: Option<&[u8]>,
) -> Applied {
    run(rules, None, request, environment, path, query)
}

/// Applies a section's rules likewise; `path` is what httpd would have as the file's name: of a
/// request that goes to a member, [`Directory::proxied`] with the decoded path behind.
pub fn apply_within(
    directory: Directory<'_>,
    rules: &[Rule],
    request: &impl Request,
    environment: &RefCell<Environment>,
    path: &[u8],
    query: Option<&[u8]>,
) -> Applied {
    run(rules, Some(directory), request, environment, path, query)
}

fn run(
    rules: &[Rule],
    directory: Option<Directory<'_>>,
    request: &impl Request,
    environment: &RefCell<Environment>,
    path: &[u8],
    query: Option<&[u8]>,
) -> Applied {
    let mut run = Run {
        request,
        environment,
        directory,
        uri: path.to_vec(),
        replaced: false,
        query: query.map(<[u8]>::to_vec),
        to: None,
        status: 302,
        rule: None,
        condition: None,
        cookies: Vec::new(),
        handler: None,
        ended: false,
    };
    let outcome = match run.rules(rules) {
        Ok(changed) => match run.directory {
            Some(directory) => run.finish_within(directory, changed, path, query),
            None => run.finish(changed, query),
        },
        Err(outcome) => outcome,
    };
    Applied {
        outcome,
        cookies: run.cookies,
        handler: run.handler,
        ended: run.ended,
    }
}

/// How far the rules got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Changed {
    No,
    Yes,
    /// By a rule with `[NE]`.
    Raw,
    /// And `[PT]` said.
    Passed,
}

/// What one rule did.
enum Did {
    Nothing,
    Kept,
    Replaced,
}

/// A request on its way through the rules.
struct Run<'r, R> {
    request: &'r R,
    environment: &'r RefCell<Environment>,
    directory: Option<Directory<'r>>,
    /// httpd's `r->filename`.
    uri: Vec<u8>,
    /// A rule made it.
    replaced: bool,
    query: Option<Vec<u8>>,
    /// The balancer of a `[P]` rule.
    to: Option<usize>,
    /// Of a redirect.
    status: u16,
    rule: Option<(Vec<u8>, Captures)>,
    condition: Option<(Vec<u8>, Captures)>,
    cookies: Vec<Cookie>,
    handler: Option<Handler>,
    ended: bool,
}

fn failed(status: u16, cause: &'static str) -> Outcome {
    Outcome::Failed {
        status,
        cause: Some(cause),
    }
}

impl<R: Request> Run<'_, R> {
    fn rules(&mut self, rules: &[Rule]) -> Result<Changed, Outcome> {
        let mut changed = Changed::No;
        let (mut round, mut tries, mut at) = (1_u32, 0_u32, 0_usize);
        while let Some(rule) = rules.get(at) {
            if round > 1 {
                tries += 1;
                if tries > MOST_TRIES {
                    return Err(failed(500, TOO_MANY));
                }
            }
            at += 1;
            match self.rule(rule)? {
                Did::Nothing => {
                    // The first rule that is not chained is the chain's last.
                    let mut link = rule;
                    while link.chained
                        && let Some(next) = rules.get(at)
                    {
                        link = next;
                        at += 1;
                    }
                    continue;
                }
                Did::Kept => {}
                Did::Replaced if rule.noescape => changed = Changed::Raw,
                Did::Replaced => changed = Changed::Yes,
            }
            if self.uri.len() > LONGEST_PATH {
                return Err(failed(500, TOO_LONG));
            }
            if let Action::Fail(status) = rule.action {
                if self.query_is_broken(changed) {
                    return Err(failed(403, CONTROLS));
                }
                return Err(Outcome::Failed {
                    status,
                    cause: None,
                });
            }
            match rule.next {
                Next::Rule => {}
                Next::Skip(count) => at = at.saturating_add(count as usize),
                Next::Stop => break,
                Next::End => {
                    self.ended = true;
                    break;
                }
                Next::Pass => return Ok(Changed::Passed),
                Next::Again(most) => {
                    round += 1;
                    if round >= most {
                        return Err(failed(500, TOO_MANY));
                    }
                    at = 0;
                }
            }
        }
        Ok(changed)
    }

    fn rule(&mut self, rule: &Rule) -> Result<Did, Outcome> {
        let from = self.stripped();
        let found = rule.pattern.captures(&self.uri[from..]);
        if found.is_some() == rule.negated {
            return Ok(Did::Nothing);
        }
        self.condition = None;
        self.rule = found.map(|captures| (self.uri[from..].to_vec(), captures));
        let too_long = |_: TooLong| failed(500, TOO_LONG);
        if !self.conditions(&rule.conditions).map_err(too_long)? {
            return Ok(Did::Nothing);
        }
        let to = match &rule.action {
            Action::Keep | Action::Fail(_) => None,
            Action::Rewrite { to, .. } | Action::Redirect { to, .. } | Action::Proxy { to, .. } => {
                let filled = to.fill(self, rule.escape.as_ref(), rule.query.last);
                let (text, question) = filled.map_err(too_long)?;
                if question && !rule.allows_question {
                    return Err(failed(403, QUESTION));
                }
                Some(text)
            }
        };
        self.set_environment(&rule.environment).map_err(too_long)?;
        self.set_cookies(&rule.cookies).map_err(too_long)?;
        let Some(to) = to else {
            self.handler = rule.handler.or(self.handler);
            return Ok(Did::Kept);
        };
        self.replace(rule, to);
        self.replaced = true;
        Ok(Did::Replaced)
    }

    /// Whether the path is the URL of a member still.
    fn is_proxied(&self) -> bool {
        let proxied = self
            .directory
            .is_some_and(|directory| directory.proxied.is_some());
        proxied && self.uri.starts_with(b"proxy:")
    }

    /// How much of the path patterns do not see: the section's own, where a rule's result begins with
    /// that. A path that was asked for does not, for to httpd it is a file's below `DocumentRoot`.
    fn stripped(&self) -> usize {
        let own = self.directory.map_or("", |directory| directory.path);
        if self.replaced && self.uri.starts_with(own.as_bytes()) && !self.is_proxied() {
            own.len()
        } else {
            0
        }
    }

    fn conditions(&mut self, conditions: &[Condition]) -> Result<bool, TooLong> {
        let mut conditions = conditions.iter();
        while let Some(condition) = conditions.next() {
            let holds = self.condition(condition)?;
            if condition.or {
                if holds {
                    // The rest of the alternatives, the last of which has no [OR].
                    let _ = conditions.by_ref().find(|other| !other.or);
                }
            } else if !holds {
                return Ok(false);
            }
        }
        // As in httpd: an [OR] with nothing behind it holds.
        Ok(true)
    }

    fn condition(&mut self, condition: &Condition) -> Result<bool, TooLong> {
        let holds = match &condition.test {
            Test::Holds(expr) => match expr.matched(self) {
                Some(groups) => {
                    if !condition.negated {
                        self.condition = groups;
                    }
                    true
                }
                None => false,
            },
            test => {
                let (input, _) = condition.input.fill(self, None, false)?;
                match test {
                    Test::Matches(pattern) => match pattern.captures(&input) {
                        Some(captures) => {
                            if !condition.negated {
                                self.condition = Some((input, captures));
                            }
                            true
                        }
                        None => false,
                    },
                    Test::Text {
                        relation,
                        with,
                        ignores_case,
                    } => relation.holds(order(*relation, &input, with.as_bytes(), *ignores_case)),
                    Test::Number(relation, with) => relation.holds(number(&input).cmp(with)),
                    Test::Holds(_) => false,
                }
            }
        };
        Ok(holds != condition.negated)
    }

    fn set_environment(&self, changes: &[Template]) -> Result<(), TooLong> {
        for change in changes {
            let (text, _) = change.fill(self, None, false)?;
            let mut environment = self.environment.borrow_mut();
            if let Some(name) = text.strip_prefix(b"!") {
                environment.unset(&String::from_utf8_lossy(name));
                continue;
            }
            let colon = text.iter().position(|&byte| byte == b':');
            let (name, value) = match colon {
                Some(at) => (&text[..at], &text[at + 1..]),
                None => (&text[..], &b""[..]),
            };
            environment.set(&String::from_utf8_lossy(name), value.to_vec());
        }
        Ok(())
    }

    fn set_cookies(&mut self, cookies: &[Template]) -> Result<(), TooLong> {
        for cookie in cookies {
            let (text, _) = cookie.fill(self, None, false)?;
            if let Some(cookie) = Cookie::read(&text)
                && !self.cookies.iter().any(|set| set.name == cookie.name)
            {
                self.cookies.push(cookie);
            }
        }
        Ok(())
    }

    /// Puts a rule's result in the path's place.
    fn replace(&mut self, rule: &Rule, mut to: Vec<u8>) {
        if let Action::Proxy { balancer, .. } = rule.action {
            // What follows the host: it is the file's, and ends here.
            if to.first() != Some(&b'/') {
                to.insert(0, b'/');
            }
            self.uri = to;
            self.split_query(rule);
            self.to = Some(balancer);
            return;
        }
        let redirects = matches!(rule.action, Action::Redirect { .. });
        let mut prefixed = false;
        if to.first() != Some(&b'/') && scheme(&to).is_none() && !self.is_proxied() {
            if let Some(directory) = self.directory {
                to.splice(..0, directory.path.bytes());
                prefixed = true;
            } else if !redirects {
                to.insert(0, b'/');
                prefixed = true;
            }
        }
        self.uri = to;
        self.split_query(rule);
        match rule.action {
            Action::Redirect { status, .. } => {
                if scheme(&self.uri).is_none() {
                    let mut whole = self.request.origin();
                    if self.uri.first() != Some(&b'/') {
                        whole.push(b'/');
                    }
                    whole.append(&mut self.uri);
                    self.uri = whole;
                }
                self.status = status;
            }
            Action::Rewrite {
                status, doubled, ..
            } => {
                self.reduce();
                if scheme(&self.uri).is_some() {
                    self.status = status;
                } else if !rule.keeps_slashes && !prefixed && !doubled {
                    let slashes = self.uri.iter().take_while(|&&byte| byte == b'/').count();
                    self.uri.drain(..slashes.saturating_sub(1));
                }
                if scheme(&self.uri).is_none() {
                    self.handler = rule.handler.or(self.handler);
                }
            }
            Action::Keep | Action::Fail(_) | Action::Proxy { .. } => {}
        }
    }

    fn split_query(&mut self, rule: &Rule) {
        if rule.query.none {
            self.query = None;
            return;
        }
        let skip = match scheme(&self.uri) {
            Some(Scheme {
                has_query: false, ..
            }) => {
                self.query = None;
                return;
            }
            Some(scheme) => scheme.len,
            None => 0,
        };
        if rule.query.discard {
            self.query = None;
        }
        let is_question = |byte: &u8| *byte == b'?';
        let rest = &self.uri[skip..];
        let at = if rule.query.last {
            rest.iter().rposition(is_question)
        } else {
            rest.iter().position(is_question)
        };
        let Some(at) = at else { return };
        let mut query = self.uri.split_off(skip + at);
        query.remove(0);
        if !rule.query.append {
            self.query = Some(query);
        } else if !query.is_empty() {
            query.push(b'&');
            query.extend(self.query.take().unwrap_or_default());
            self.query = Some(query);
        }
        self.query = self.query.take().and_then(|mut query| {
            if query.is_empty() {
                return None;
            }
            if query.ends_with(b"&") {
                query.pop();
            }
            Some(query)
        });
    }

    /// Takes scheme and host off a URL that leads here.
    fn reduce(&mut self) {
        let own = self.request.variable(&Variable::Scheme);
        let own = own.unwrap_or_default();
        let Some(rest) = self
            .uri
            .get(..own.len())
            .filter(|start| start.eq_ignore_ascii_case(&own))
            .and_then(|_| self.uri[own.len()..].strip_prefix(b"://"))
        else {
            return;
        };
        let slash = rest.iter().position(|&byte| byte == b'/');
        let (authority, path) = rest.split_at(slash.unwrap_or(rest.len()));
        let colon = authority.iter().position(|&byte| byte == b':');
        let (host, port) = match colon {
            Some(at) => {
                let port = number(&authority[at + 1..]);
                (&authority[..at], Some(u16::try_from(port).unwrap_or(0)))
            }
            None => (authority, None),
        };
        if self.request.is_here(host, port) {
            self.uri = if path.is_empty() {
                b"/".to_vec()
            } else {
                path.to_vec()
            };
        }
    }
}

/// How mod_rewrite orders two texts: the longer is the greater, but for case-insensitive ones.
fn order(relation: Relation, a: &[u8], b: &[u8], ignores_case: bool) -> Ordering {
    match (ignores_case, relation) {
        (true, _) => a.to_ascii_lowercase().cmp(&b.to_ascii_lowercase()),
        (false, Relation::Equal) => a.cmp(b),
        (false, _) => a.len().cmp(&b.len()).then_with(|| a.cmp(b)),
    }
}
