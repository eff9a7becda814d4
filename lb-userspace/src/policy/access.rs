//! Require and its containers: who may ask (mod_authz_core, mod_authz_host).

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{
    config::spec::Prefix,
    expr::{Expr, Facts, Table, Variable},
};

/// One `Require`, or a container of some.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Rule {
    /// `all granted` or `all denied`.
    All(bool),
    /// `ip`: one of these networks.
    Ip(Vec<Prefix>),
    /// `local`: from this host.
    Local,
    /// `host`, `Allow from NAME`: the client's name is one of these or within one of them.
    Host(Vec<String>),
    /// `forward-dns`: the client's address is one of these names'.
    ForwardDns(Vec<String>),
    /// `env`: one of these variables is set.
    Env(Vec<String>),
    /// `method`: one of these.
    Method(Vec<String>),
    /// `expr`.
    Expr(Expr),
    /// A rule within `<Limit>` or `<LimitExcept>`: it says nothing of requests by other methods.
    Limited(Methods, Box<Self>),
    /// `not`.
    Not(Box<Self>),
    /// `<RequireAll>`, `<RequireAny>`, `<RequireNone>`.
    Group(Combination, Vec<Self>),
}

/// The methods of a `<Limit>`, or with `except` those of a `<LimitExcept>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Methods {
    /// As written; GET is HEAD too.
    pub named: Vec<String>,
    /// All others are meant.
    pub except: bool,
}

impl Methods {
    /// Whether a request's is one of them.
    pub fn has(&self, request: &dyn Facts) -> bool {
        let method = request.variable(&Variable::Method).unwrap_or_default();
        let method = match &method[..] {
            b"HEAD" => b"GET",
            other => other,
        };
        let named = self.named.iter().any(|known| known.as_bytes() == method);
        named != self.except
    }
}

/// Where a request came to, and what names say of where it came from.
#[derive(Clone, Copy)]
pub struct Place<'p> {
    /// Our address on its connection.
    pub here: IpAddr,
    /// Who is asked for names.
    pub names: &'p dyn Names,
}

/// What is known of names.
pub trait Names {
    /// The name of the client's address, in lower case, where that name has this address.
    fn client_name(&self) -> Option<String>;
    /// Whether the client's address is one of a name's.
    fn client_is(&self, name: &str) -> bool;
}

/// Nobody has a name.
impl Names for () {
    fn client_name(&self) -> Option<String> {
        None
    }

    fn client_is(&self, _: &str) -> bool {
        false
    }
}

/// Whether `name` is `domain` or, at a dot, within it; without regard to case.
fn is_within(domain: &str, name: &str) -> bool {
    let Some(at) = name.len().checked_sub(domain.len()) else {
        return false;
    };
    let (before, end) = name.as_bytes().split_at(at);
    end.eq_ignore_ascii_case(domain.as_bytes())
        && (before.is_empty() || domain.starts_with('.') || before.ends_with(b"."))
}

/// How the rules of a container combine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Combination {
    /// Every rule that says anything must grant, and one must.
    All,
    /// One must grant. Rules outside of containers combine so.
    Any,
    /// None may grant.
    None,
}

/// What a rule says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Yes.
    Granted,
    /// No.
    Denied,
    /// Nothing: a `not` whose rule does not hold, or a `<RequireNone>` of such.
    Neutral,
}

/// A rule that can change nothing, or a container of such.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Pointless {
    /// A negative rule in `<RequireAny>` or outside of containers.
    #[error("negative {0} directive has no effect in {1} directive")]
    Negative(&'static str, &'static str),
    /// A container with negative rules alone.
    #[error("{0} directive contains only negative authorization directives")]
    OnlyNegative(&'static str),
}

impl Rule {
    /// Whether a name may have to be looked up for it.
    pub fn asks_for_names(&self) -> bool {
        match self {
            Self::Host(names) | Self::ForwardDns(names) => !names.is_empty(),
            Self::Limited(_, rule) | Self::Not(rule) => rule.asks_for_names(),
            Self::Group(_, rules) => rules.iter().any(Self::asks_for_names),
            Self::All(_)
            | Self::Ip(_)
            | Self::Local
            | Self::Env(_)
            | Self::Method(_)
            | Self::Expr(_) => false,
        }
    }

    /// What it says of a request.
    pub fn verdict(&self, request: &dyn Facts, place: Place<'_>) -> Verdict {
        let grants = |holds| {
            if holds {
                Verdict::Granted
            } else {
                Verdict::Denied
            }
        };
        match self {
            Self::All(granted) => grants(*granted),
            Self::Ip(networks) => grants(request.remote().is_some_and(|address| {
                let address = address.to_canonical();
                networks.iter().any(|network| network.contains(address))
            })),
            Self::Local => grants(request.remote().is_some_and(|address| {
                let address = address.to_canonical();
                address.is_loopback() || address == place.here.to_canonical()
            })),
            Self::Host(domains) => grants(
                place
                    .names
                    .client_name()
                    .is_some_and(|name| domains.iter().any(|domain| is_within(domain, &name))),
            ),
            Self::ForwardDns(names) => {
                // Each of them is asked for, so that one round of lookups is enough.
                let own = names.iter().filter(|name| place.names.client_is(name));
                grants(own.count() > 0)
            }
            Self::Env(names) => grants(names.iter().any(|name| {
                let set = request.entry(Table::Environment, name.as_bytes());
                set.is_some()
            })),
            Self::Method(methods) => {
                let method = request.variable(&Variable::Method).unwrap_or_default();
                grants(methods.iter().any(|known| known.as_bytes() == &method[..]))
            }
            Self::Expr(expr) => grants(expr.holds(request)),
            Self::Limited(methods, rule) => {
                if methods.has(request) {
                    rule.verdict(request, place)
                } else {
                    Verdict::Neutral
                }
            }
            // As in httpd: a negated rule can deny, but never grant.
            Self::Not(rule) => match rule.verdict(request, place) {
                Verdict::Granted => Verdict::Denied,
                Verdict::Denied | Verdict::Neutral => Verdict::Neutral,
            },
            Self::Group(combination, rules) => {
                combination.verdict(rules.iter().map(|rule| rule.verdict(request, place)))
            }
        }
    }

    /// What a section's rules together say: where all of them are for other methods, yes.
    pub fn section_verdict(&self, request: &dyn Facts, place: Place<'_>) -> Verdict {
        let is_for_others = |rule: &Self| match rule {
            Self::Limited(methods, _) => !methods.has(request),
            _ => false,
        };
        match self {
            Self::Group(_, rules) if rules.iter().all(is_for_others) => Verdict::Granted,
            rule => rule.verdict(request, place),
        }
    }

    /// Whether a request may go on.
    pub fn allows(&self, request: &dyn Facts, place: Place<'_>) -> bool {
        self.verdict(request, place) == Verdict::Granted
    }
}

impl Combination {
    /// The directive's name; `RequireAny` is also what stands outside of containers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::All => "<RequireAll>",
            Self::Any => "<RequireAny>",
            Self::None => "<RequireNone>",
        }
    }

    /// Of two.
    pub fn of(self, first: Verdict, second: Verdict) -> Verdict {
        self.verdict([first, second].into_iter())
    }

    fn verdict(self, rules: impl Iterator<Item = Verdict>) -> Verdict {
        let mut said = Verdict::Neutral;
        for verdict in rules {
            match (self, verdict) {
                (_, Verdict::Neutral) | (Self::None, Verdict::Denied) => {}
                (Self::All, Verdict::Denied) | (Self::None, Verdict::Granted) => {
                    return Verdict::Denied;
                }
                (Self::Any, Verdict::Granted) => return Verdict::Granted,
                (Self::All, Verdict::Granted) => said = Verdict::Granted,
                (Self::Any, Verdict::Denied) => said = Verdict::Denied,
            }
        }
        said
    }

    /// Whether a container of these rules makes sense; `named` is its name in messages.
    ///
    /// # Errors
    /// What httpd refuses when it reads the configuration.
    pub fn check(self, rules: &[Rule], named: &'static str) -> Result<(), Pointless> {
        let negative = |rule: &&Rule| matches!(rule, Rule::Not(_) | Rule::Group(Self::None, _));
        if self == Self::All || rules.is_empty() {
            return if !rules.is_empty() && rules.iter().all(|rule| negative(&rule)) {
                Err(Pointless::OnlyNegative(named))
            } else {
                Ok(())
            };
        }
        match rules.iter().find(negative) {
            Some(Rule::Not(_)) => Err(Pointless::Negative("Require", named)),
            Some(_) => Err(Pointless::Negative("<RequireNone>", named)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::{
        Combination::{All, Any, None},
        *,
    };
    use crate::{
        expr::Dialect,
        policy::environment::{Environment, tests::Probe},
    };

    const HERE: Place<'static> = Place {
        here: IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)),
        names: &(),
    };

    /// The client is `app.example.test`, and `home.example.test` has its address too.
    struct Named;

    impl Names for Named {
        fn client_name(&self) -> Option<String> {
            Some("app.example.test".to_owned())
        }

        fn client_is(&self, name: &str) -> bool {
            name == "home.example.test"
        }
    }

    #[test]
    fn a_name_is_within_a_domain_at_a_dot_alone() {
        let environment = RefCell::default();
        let request = Probe::new(&environment);
        let named = Place {
            names: &Named,
            ..HERE
        };
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        for (domains, allows) in [
            ("app.example.test", true),
            ("APP.Example.test", true),
            ("example.test", true),
            (".example.test", true),
            (".test", true),
            ("other.test example.test", true),
            ("ample.test", false),
            ("p.example.test", false),
            ("an.app.example.test", false),
            ("example", false),
        ] {
            let rule = Rule::Host(words(domains));
            assert_eq!(rule.allows(&request, named), allows, "{domains}");
            assert!(!rule.allows(&request, HERE), "{domains} and no name");
        }
        let forward = |names| Rule::ForwardDns(words(names));
        assert!(forward("a.test home.example.test").allows(&request, named));
        assert!(!forward("app.example.test").allows(&request, named));
        assert!(not(forward("a.test")).asks_for_names());
        assert!(!Rule::Group(All, vec![ip("10"), not(Rule::Local)]).asks_for_names());
    }

    fn ip(text: &str) -> Rule {
        Rule::Ip(vec![
            crate::config::prefix::subnet(text).expect("a network"),
        ])
    }

    fn not(rule: Rule) -> Rule {
        Rule::Not(Box::new(rule))
    }

    #[test]
    fn each_rule_looks_at_its_property() {
        let environment = RefCell::default();
        // From 192.0.2.7, GET.
        let request = Probe::new(&environment);
        let holds = Expr::condition("%{REQUEST_METHOD} == 'GET'", Dialect::Request);
        for (rule, allows) in [
            (Rule::All(true), true),
            (Rule::All(false), false),
            (ip("192.0.2"), true),
            (ip("192.0.2.7"), true),
            (ip("10"), false),
            (Rule::Local, false),
            (Rule::Env(vec!["site".to_owned()]), false),
            (
                Rule::Method(vec!["POST".to_owned(), "GET".to_owned()]),
                true,
            ),
            (Rule::Method(vec!["POST".to_owned()]), false),
            (Rule::Expr(holds.expect("an expression")), true),
            (not(ip("10")), false),
        ] {
            assert_eq!(rule.allows(&request, HERE), allows, "{rule:?}");
        }
        let here = Place {
            here: [192, 0, 2, 7].into(),
            ..HERE
        };
        let local = Rule::Local.verdict(&request, here);
        assert_eq!(local, Verdict::Granted);
        let set = RefCell::new(Environment::default());
        set.borrow_mut().set("SITE", b"1".to_vec());
        assert!(Rule::Env(vec!["site".to_owned()]).allows(&Probe::new(&set), HERE));
    }

    #[test]
    fn containers_combine_as_in_httpd() {
        let environment = RefCell::default();
        let request = Probe::new(&environment);
        let (yes, no) = (|| Rule::All(true), || Rule::All(false));
        for (combination, rules, verdict) in [
            (All, vec![yes(), yes()], Verdict::Granted),
            (All, vec![yes(), no()], Verdict::Denied),
            (All, vec![yes(), not(no())], Verdict::Granted),
            (All, vec![yes(), not(yes())], Verdict::Denied),
            (Any, vec![no(), yes()], Verdict::Granted),
            (Any, vec![no(), no()], Verdict::Denied),
            (None, vec![no()], Verdict::Neutral),
            (None, vec![no(), yes()], Verdict::Denied),
            (All, vec![], Verdict::Neutral),
            (
                All,
                vec![yes(), Rule::Group(None, vec![ip("192.0.2.7")])],
                Verdict::Denied,
            ),
        ] {
            let group = Rule::Group(combination, rules);
            assert_eq!(group.verdict(&request, HERE), verdict, "{group:?}");
        }
    }

    #[test]
    fn containers_that_can_grant_nothing_are_refused() {
        let yes = || Rule::All(true);
        assert!(Any.check(&[not(yes())], "<RequireAny>").is_err());
        assert!(All.check(&[not(yes())], "<RequireAll>").is_err());
        assert!(All.check(&[yes(), not(yes())], "<RequireAll>").is_ok());
        assert!(None.check(&[not(yes())], "<RequireNone>").is_err());
        assert!(Any.check(&[Rule::Group(None, vec![yes()])], "x").is_err());
        assert!(Any.check(&[], "x").is_ok());
    }
}
