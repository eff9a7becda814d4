//! The directive table: name, contexts, arguments, what it does. Parsing, suggestions for misspelt
//! names and docs/configuration.md all come from it.
//!
//! Messages are httpd's where it has one (apache.md 1.4).

use super::{
    draft::{Asked, AskedFor, Draft, Mark},
    report::Severity,
    spec::Place,
    syntax::{conditions::Condition, tree::Node},
    value,
    variables::asked_for as variables_asked_for,
};

mod access;
mod answers;
mod balancer;
mod connection;
mod foreign;
mod forwarding;
mod guard;
mod headers;
mod health;
mod heartbeat;
pub(crate) mod http2;
mod keys;
mod log;
mod process;
mod proxy;
mod rewrite;
mod sections;
mod server;
mod steer;
pub(crate) mod tls;
mod variables;

pub(crate) use proxy::balancer_name;
pub(crate) use proxy::covering;

/// Where a directive may stand: a set of the constants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Contexts(u8);

impl Contexts {
    /// Outside every section.
    pub(crate) const MAIN: Self = Self(1);
    /// In `<VirtualHost>`.
    pub(crate) const HOST: Self = Self(2);
    /// In `<Location>`.
    pub(crate) const LOCATION: Self = Self(4);
    /// In `<Proxy>`.
    pub(crate) const PROXY: Self = Self(8);
    /// Outside sections and in virtual hosts.
    pub(crate) const SERVER: Self = Self(3);
    /// In `<If>` and its kin.
    pub(crate) const IF: Self = Self(16);
    /// In every section that is for some requests: `<Location>`, `<Proxy>`, `<If>`.
    pub(crate) const SECTIONS: Self = Self(28);
    /// Everywhere.
    pub(crate) const ALL: Self = Self(31);

    /// Both sets.
    pub(crate) const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    fn names(self) -> String {
        [
            (Self::MAIN, "server"),
            (Self::HOST, "virtual host"),
            (Self::LOCATION, "location"),
            (Self::PROXY, "proxy"),
            (Self::IF, "if"),
        ]
        .into_iter()
        .filter(|(context, _)| self.has(*context))
        .map(|(_, name)| name)
        .collect::<Vec<_>>()
        .join(", ")
    }
}

/// How many arguments, with httpd's words for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arity {
    /// On or Off.
    Flag,
    /// One.
    One,
    /// Two.
    Two,
    /// One or two.
    OneOrTwo,
    /// Two or three.
    TwoOrThree,
    /// One to three.
    OneToThree,
    /// At least one.
    Some,
    /// The handler looks itself.
    Any,
}

impl Arity {
    /// What is wrong with `count` arguments.
    fn complaint(self, count: usize) -> Option<&'static str> {
        let (allowed, words) = match self {
            Self::Flag => (1..=1, "must be On or Off"),
            Self::One => (1..=1, "takes one argument"),
            Self::Two => (2..=2, "takes two arguments"),
            Self::OneOrTwo => (1..=2, "takes 1-2 arguments"),
            Self::TwoOrThree => (2..=3, "takes two or three arguments"),
            Self::OneToThree => (1..=3, "takes one, two or three arguments"),
            Self::Some => (1..=usize::MAX, "requires at least one argument"),
            Self::Any => (0..=usize::MAX, ""),
        };
        (!allowed.contains(&count)).then_some(words)
    }
}

/// What a directive does.
#[derive(Clone, Copy)]
pub(crate) enum Effect {
    /// Calls this.
    Apply(fn(&mut Call<'_, '_>) -> Result<(), Fault>),
    /// Already acted while it was read.
    Read,
    /// A section: its contents are walked with what this gives.
    Section(fn(&mut Call<'_, '_>) -> Result<Scope, Fault>),
    /// These values (in any case) ask for what sluice does anyway; others are not supported yet.
    Only(&'static [&'static str]),
    /// Accepted with this notice, given once.
    Notice(&'static str),
    /// Accepted with this warning, given once.
    Warning(&'static str),
}

/// One row of the table.
#[derive(Clone, Copy)]
pub(crate) struct Directive {
    /// Name; that of a section begins with `<`.
    pub name: &'static str,
    /// Where it may stand.
    pub contexts: Contexts,
    /// How many arguments.
    pub arity: Arity,
    /// Arguments, for people.
    pub syntax: &'static str,
    /// Value where it is absent, for people; may be empty.
    pub default: &'static str,
    /// What it sets, range and unit included.
    pub help: &'static str,
    /// What it does.
    pub effect: Effect,
}

/// What a section's contents belong to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Scope {
    /// Index of the host.
    pub host: usize,
    /// The section within it.
    pub section: Section,
    /// What its directives say of requests: index into the Spec's policies.
    pub policy: usize,
    /// The `<Limit>` it is in.
    pub limit: Option<crate::policy::access::Methods>,
}

/// A section within a host.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Section {
    /// None.
    None,
    /// `<Location PATH>`
    Location(String),
    /// `<LocationMatch>` and `<Location ~>`
    LocationMatch(crate::pattern::Pattern),
    /// `<Location>` with wildcards, as written.
    Wildcard(String),
    /// `<If>`, `<ElseIf>`, `<Else>`
    If,
    /// `<Proxy balancer://NAME>`, lower case
    Balancer(String),
    /// `<Proxy URL>`
    Worker(String),
    /// `<Proxy *>` and other patterns: for no single balancer or worker.
    Pattern,
    /// Contents are not looked at.
    Skip,
}

impl Scope {
    /// Outside every section.
    const MAIN: Self = Self {
        host: 0,
        section: Section::None,
        policy: 0,
        limit: None,
    };

    fn context(&self) -> Contexts {
        match self.section {
            Section::Location(_) | Section::LocationMatch(_) | Section::Wildcard(_) => {
                Contexts::LOCATION
            }
            Section::If => Contexts::IF,
            Section::Balancer(_) | Section::Worker(_) | Section::Pattern => Contexts::PROXY,
            Section::None | Section::Skip if self.host > 0 => Contexts::HOST,
            Section::None | Section::Skip => Contexts::MAIN,
        }
    }
}

/// One directive being carried out.
pub(crate) struct Call<'c, 's> {
    /// What has been said so far.
    pub draft: &'c mut Draft<'s>,
    /// The directive.
    pub node: &'c Node,
    /// Its row.
    pub row: &'c Directive,
    /// Where it stands.
    pub scope: &'c Scope,
}

/// Why a directive is refused.
#[derive(Debug)]
pub(crate) struct Fault {
    /// Index of the argument; `None`: the directive.
    word: Option<usize>,
    message: String,
    help: String,
}

impl Fault {
    /// About the whole directive.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            word: None,
            message: message.into(),
            help: String::new(),
        }
    }

    /// About this argument.
    pub(crate) fn at(mut self, word: usize) -> Self {
        self.word = Some(word);
        self
    }

    /// What was expected.
    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = help.into();
        self
    }
}

impl Call<'_, '_> {
    /// Text of an argument; empty where there is none.
    pub(crate) fn arg(&self, index: usize) -> &str {
        self.node.args.get(index).map_or("", |word| &word.text)
    }

    /// Number of arguments.
    pub(crate) fn count(&self) -> usize {
        self.node.args.len()
    }

    /// The first argument as On or Off.
    pub(crate) fn flag(&self) -> Result<bool, Fault> {
        value::flag(self.arg(0))
            .ok_or_else(|| Fault::new(format!("{} must be On or Off", self.row.name)).at(0))
    }

    /// The host it stands in.
    pub(crate) fn host(&mut self) -> &mut super::draft::HostDraft {
        &mut self.draft.hosts[self.scope.host]
    }

    /// What the place it stands in says of requests.
    pub(crate) fn policy(&mut self) -> &mut super::spec::policy::Policy {
        &mut self.draft.spec.policies[self.scope.policy]
    }

    /// Whether it stands outside of sections for some requests.
    pub(crate) fn is_for_server(&self) -> bool {
        self.scope.section == Section::None
    }

    /// Where an argument stands, to be kept.
    pub(crate) fn mark(&self, index: usize) -> Mark {
        let word = self.node.args.get(index).unwrap_or(&self.node.name);
        Mark {
            file: std::rc::Rc::clone(&self.node.file),
            line: self.node.line,
            span: word.span,
            order: self.node.order,
        }
    }

    /// Where it stands, for the Spec.
    pub(crate) fn place(&self) -> Place {
        self.node.place()
    }

    /// Remembers which variables of TLS its arguments ask for: not all of mod_ssl's are there.
    fn note_variables(&mut self) {
        for (index, word) in self.node.args.iter().enumerate() {
            for name in variables_asked_for(&word.text) {
                let asked = Asked {
                    name: name.to_owned(),
                    by: AskedFor::Value,
                    mark: self.mark(index),
                };
                self.draft.asked.push(asked);
            }
        }
    }

    /// An error, and goes on.
    pub(crate) fn error(&mut self, fault: Fault) {
        self.say(Severity::Error, fault);
    }

    /// A warning.
    pub(crate) fn warn(&mut self, fault: Fault) {
        self.say(Severity::Warning, fault);
    }

    /// Something for information.
    pub(crate) fn notice(&mut self, fault: Fault) {
        self.say(Severity::Notice, fault);
    }

    fn say(&mut self, severity: Severity, fault: Fault) {
        self.draft.reports.push(
            severity,
            self.node.at(fault.word),
            fault.message,
            fault.help,
        );
    }
}

/// A row without default.
const fn row(
    name: &'static str,
    contexts: Contexts,
    arity: Arity,
    syntax: &'static str,
    help: &'static str,
    effect: Effect,
) -> Directive {
    Directive {
        name,
        contexts,
        arity,
        syntax,
        default: "",
        help,
        effect,
    }
}

impl Directive {
    /// With a default.
    const fn or(mut self, default: &'static str) -> Self {
        self.default = default;
        self
    }
}

/// A member of a balancer as a `BalancerMember` of its URL alone would make it; for those that are
/// added while it runs. The error says what is wrong with the URL.
pub(crate) fn member_of_url(url: &str) -> Result<super::spec::Member, String> {
    let url = keys::member_url(url)?;
    Ok(keys::member(&url, Place::default()))
}

/// A worker of its own for a URL that a `[P]` rule leads to.
pub(crate) fn direct_member(url: &super::url::WorkerUrl, place: Place) -> super::spec::Member {
    let mut member = keys::member(url, place);
    member.url = url.authority();
    member.path = String::new();
    member
}

/// The parts of the table, with titles, in the order of the documentation.
pub(crate) const PARTS: [(&str, &[Directive]); 22] = [
    ("Files and conditions", server::READING),
    ("Servers and virtual hosts", server::TABLE),
    ("Sections", sections::TABLE),
    ("Access", access::TABLE),
    ("Header fields", headers::TABLE),
    ("Variables of requests", variables::TABLE),
    ("Answers of sluice itself", answers::TABLE),
    ("Connections and limits", connection::TABLE),
    ("TLS", tls::TABLE),
    ("Certificates of clients", tls::CLIENTS),
    ("TLS to members", tls::MEMBERS),
    ("HTTP/2", http2::TABLE),
    ("Proxy", proxy::TABLE),
    ("Rewriting", rewrite::TABLE),
    ("Balancers", balancer::TABLE),
    ("Health checks", health::TABLE),
    ("Heartbeats", heartbeat::TABLE),
    ("Logs", log::TABLE),
    ("XDP, guard and sluice itself", guard::TABLE),
    ("L4 steering", steer::TABLE),
    ("Forward proxies, gateways, buffers", forwarding::TABLE),
    ("Accepted for httpd's sake", process::TABLE),
];

/// Every row that does something or is accepted.
fn rows() -> impl Iterator<Item = &'static Directive> {
    PARTS.iter().flat_map(|(_, rows)| rows.iter())
}

/// The row of a name, in any case; a section's begins with `<`.
fn find(name: &str) -> Option<&'static Directive> {
    rows().find(|row| row.name.eq_ignore_ascii_case(name))
}

/// Whether a directive or section (`<Name`) is known, be it only as not supported.
pub(crate) fn knows(name: &str) -> bool {
    find(name).is_some()
        || foreign::is_foreign(name)
        || name
            .strip_prefix('<')
            .is_some_and(|name| Condition::of(name).is_some())
}

/// Carries out every directive of a tree.
pub(crate) fn walk(draft: &mut Draft<'_>, nodes: &[Node]) {
    walk_in(draft, nodes, &Scope::MAIN);
}

fn walk_in(draft: &mut Draft<'_>, nodes: &[Node], scope: &Scope) {
    if scope.section == Section::Skip {
        return;
    }
    for node in nodes {
        carry_out(draft, node, scope);
    }
}

fn carry_out(draft: &mut Draft<'_>, node: &Node, scope: &Scope) {
    let written = match node.children {
        Some(_) => format!("<{}", node.name.text),
        None => node.name.text.clone(),
    };
    let Some(row) = find(&written) else {
        let (message, help) = unknown(&written, !draft.reports.is_full());
        return draft
            .reports
            .push(Severity::Error, node.at(None), message, help);
    };
    let mut call = Call {
        draft,
        node,
        row,
        scope,
    };
    match start(&mut call) {
        Ok(Some(inner)) => walk_in(draft, node.children.as_deref().unwrap_or_default(), &inner),
        Ok(None) => {}
        Err(fault) => {
            call.error(fault);
            // What stands in a section that was refused is still worth looking at, where it is
            // clear what it would belong to.
            if written.eq_ignore_ascii_case("<VirtualHost") && scope.section == Section::None {
                let policy = draft.new_policy();
                draft.hosts.push(super::draft::HostDraft {
                    policy,
                    ..super::draft::HostDraft::default()
                });
                let inner = Scope {
                    host: draft.hosts.len() - 1,
                    section: Section::None,
                    policy,
                    limit: None,
                };
                walk_in(draft, node.children.as_deref().unwrap_or_default(), &inner);
            }
        }
    }
}

/// Checks context and arguments and does what the row says; the scope of a section's contents.
fn start(call: &mut Call<'_, '_>) -> Result<Option<Scope>, Fault> {
    let row = call.row;
    check_context(row, call.scope)?;
    if let Some(complaint) = row.arity.complaint(call.count()) {
        let message = if row.arity == Arity::Flag {
            format!("{} {complaint}", row.name)
        } else {
            format!("{} {complaint}, {}", row.name, row.help)
        };
        return Err(Fault::new(message).help(format!("usage: {} {}", row.name, row.syntax)));
    }
    match row.effect {
        Effect::Apply(apply) => {
            call.note_variables();
            apply(call).map(|()| None)
        }
        Effect::Section(open) => {
            call.note_variables();
            open(call).map(Some)
        }
        Effect::Only(values) => {
            if row.arity == Arity::Flag {
                call.flag()?;
            }
            let given: Vec<&str> = call.node.args.iter().map(|w| w.text.as_str()).collect();
            let given = given.join(" ");
            if values
                .iter()
                .any(|value| value.eq_ignore_ascii_case(&given))
            {
                return Ok(None);
            }
            let fault = not_yet(&format!("{} {given}", row.name)).at(0);
            Err(fault.help(format!(
                "this version has: {} {}",
                row.name,
                values.join(" | ")
            )))
        }
        Effect::Notice(text) | Effect::Warning(text) => {
            if row.arity == Arity::Flag {
                call.flag()?;
            }
            let severity = match row.effect {
                Effect::Warning(_) => Severity::Warning,
                _ => Severity::Notice,
            };
            call.draft.notice_once(severity, call.node.at(None), text);
            Ok(skip_contents(call))
        }
        Effect::Read => Ok(None),
    }
}

fn skip_contents(call: &Call<'_, '_>) -> Option<Scope> {
    call.node.children.as_ref().map(|_| Scope {
        host: call.scope.host,
        section: Section::Skip,
        policy: call.scope.policy,
        limit: None,
    })
}

fn check_context(row: &Directive, scope: &Scope) -> Result<(), Fault> {
    let context = scope.context();
    if scope.limit.is_some() && !access::is_about_access(row.name) {
        let fault = not_yet(&format!("{} in <Limit>", row.name));
        return Err(fault.help("it would act on requests by every method: write it outside"));
    }
    if row.contexts.has(context) {
        return Ok(());
    }
    if WIDER
        .iter()
        .any(|(name, contexts)| *name == row.name && contexts.has(context))
    {
        let place = match context {
            Contexts::LOCATION => "<Location>",
            Contexts::PROXY => "<Proxy>",
            Contexts::IF => "<If>",
            _ => "a server",
        };
        let fault = not_yet(&format!("{} in {place}", row.name));
        return Err(fault.help(format!("this version has it in: {}", row.contexts.names())));
    }
    let shown = if row.name.starts_with('<') {
        format!("{}>", row.name)
    } else {
        row.name.to_owned()
    };
    let message = match context {
        Contexts::HOST => format!("{shown} cannot occur within <VirtualHost> section"),
        Contexts::LOCATION => format!("{} not allowed in <Location> context", row.name),
        Contexts::PROXY => format!("{} not allowed in <Proxy> context", row.name),
        Contexts::IF => format!("{shown} cannot occur within <If> section"),
        _ => format!("{shown} not allowed outside a section"),
    };
    Err(Fault::new(message).help(format!("allowed in: {}", row.contexts.names())))
}

/// Where httpd takes a directive and this version does not.
const WIDER: &[(&str, Contexts)] = &[
    ("LogLevel", Contexts::SECTIONS),
    ("SSLVerifyClient", Contexts::LOCATION),
    ("SSLVerifyDepth", Contexts::LOCATION),
    ("SSLOptions", Contexts::LOCATION),
    ("SSLCipherSuite", Contexts::LOCATION),
];

/// A name that is in no part of the table: message, and help where one is to be looked for (it takes
/// a while).
fn unknown(written: &str, suggest: bool) -> (String, String) {
    if foreign::is_foreign(written) {
        let fault = not_yet(written);
        return (fault.message, fault.help);
    }
    let shown: String = written.chars().take(80).collect();
    let message = format!(
        "Invalid command '{shown}', perhaps misspelled or defined by a module not included in the server configuration"
    );
    let section = written.starts_with('<');
    let names = rows()
        .map(|row| row.name)
        .chain(foreign::names())
        .filter(|name| name.starts_with('<') == section);
    let nearest = suggest.then(|| value::nearest(written, names)).flatten();
    let help = match nearest {
        Some(name) if section => format!("did you mean {name}>?"),
        Some(name) => format!("did you mean {name}?"),
        None => String::new(),
    };
    (message, help)
}

/// For what httpd has, or DESIGN plans, and this version has not.
fn not_yet(what: &str) -> Fault {
    let close = if what.starts_with('<') { ">" } else { "" };
    Fault::new(format!(
        "{what}{close} is not supported by this version of sluice"
    ))
    .help(foreign::instead(what))
}

#[cfg(test)]
mod tests;
