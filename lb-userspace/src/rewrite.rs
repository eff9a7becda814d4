//! mod_rewrite's rules as balancer configurations use them: what becomes of a request's path and
//! query before `ProxyPass` sees them. Pure: [`apply`] asks a [`Request`] for what it does not hold,
//! and its time and memory are bounded whatever rules and request are.
//!
//! What stands in a configuration file is read by [`parse`]; which balancer a `[P]` rule leads to is
//! settled by `config`. A rule's target host is always the file's: nothing that a request brings can
//! become part of it.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::{config::spec::policy::Handler, expr::Expr, pattern::Pattern};

mod cookie;
mod engine;
mod escape;
pub mod parse;
mod scheme;
pub mod template;

pub use cookie::Cookie;
pub use engine::{Applied, Directory, Outcome, Request, apply, apply_within};
pub(crate) use escape::{decode as unescape, path as escape_path};
pub use template::{Function, Template};

/// The rewriting directives of one place.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rewriting {
    /// `RewriteEngine`; `None`: as the places before it say. Default off.
    pub engine: Option<bool>,
    /// `RewriteRule`, in order; for a virtual host inherited ones among them.
    pub rules: Vec<Rule>,
    /// `RewriteOptions`; `None`: as the places before it say.
    pub options: Option<Options>,
    /// What a section is for, as written, with a slash at its end. `None`: a server, or nothing of
    /// rewriting was said there.
    pub directory: Option<String>,
    /// `RewriteBase`.
    pub base: Option<String>,
}

/// What of `RewriteOptions` means anything here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "one for each option")]
pub struct Options {
    /// `Inherit`: the rules of the place before come behind.
    pub inherit: bool,
    /// `InheritBefore`: they come first.
    pub before: bool,
    /// `InheritDown`: in each place that comes after and has rewriting of its own.
    pub down: bool,
    /// `InheritDownBefore`
    pub down_before: bool,
    /// `IgnoreInherit`: not in this one.
    pub ignore: bool,
    /// `MergeBase`: a later section without `RewriteBase` has that of the one before.
    pub merge_base: bool,
}

impl Options {
    /// A place's own rules with those of the place before it, whose options are `above`.
    pub fn combine<'r>(self, above: Self, own: &'r [Rule], before: &[Rule]) -> Cow<'r, [Rule]> {
        if self.inherit || above.down && !self.ignore {
            [own, before].concat().into()
        } else if self.before || above.down_before && !self.ignore {
            [before, own].concat().into()
        } else {
            own.into()
        }
    }
}

/// The texts of a `RewriteMap` that is a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapFile {
    /// `rnd:`: a value is one of several, with `|` between them.
    random: bool,
    /// By key, each once.
    entries: Vec<(String, String)>,
}

impl MapFile {
    /// Reads a file's text: a key, blanks and a value on each line, of which the first for a key
    /// counts. Lines that begin with a blank or `#`, or have no value, say nothing.
    pub fn read(text: &str, random: bool) -> Self {
        let line = |line: &str| {
            if line.starts_with(|c: char| c == '#' || c.is_ascii_whitespace()) {
                return None;
            }
            let mut words = line.split_ascii_whitespace();
            Some((words.next()?.to_owned(), words.next()?.to_owned()))
        };
        let mut entries: Vec<_> = text.lines().filter_map(line).collect();
        // Stable: the first of several stays the first.
        entries.sort_by(|(a, _), (b, _)| a.cmp(b));
        entries.dedup_by(|(later, _), (first, _)| later == first);
        Self { random, entries }
    }

    /// The value of a key; of several the one that `pick` chooses.
    pub fn value(&self, key: &[u8], pick: impl FnOnce(usize) -> usize) -> Option<&str> {
        let found = self
            .entries
            .binary_search_by(|(known, _)| known.as_bytes().cmp(key));
        let (_, value) = &self.entries[found.ok()?];
        if !self.random {
            return Some(value);
        }
        let count = value.split('|').count();
        value.split('|').nth(pick(count) % count)
    }
}

/// One `RewriteRule` with the `RewriteCond` lines before it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rule {
    /// All must hold, but for those joined by `[OR]`.
    pub conditions: Vec<Condition>,
    /// What the path is matched with.
    pub pattern: Pattern,
    /// `!` before the pattern.
    pub negated: bool,
    /// What it does.
    pub action: Action,
    /// What follows when it did.
    pub next: Next,
    /// `[C]`: where it does not match, neither do the rules chained to it.
    pub chained: bool,
    /// What becomes of the query.
    pub query: Query,
    /// `[B]`: how groups are escaped before they are filled in.
    pub escape: Option<Escape>,
    /// `[NE]`: the result is not escaped.
    pub noescape: bool,
    /// `[UnsafeAllow3F]`: a question mark that a group brings begins a query.
    pub allows_question: bool,
    /// `[UNC]`: slashes that the result begins with stay several.
    pub keeps_slashes: bool,
    /// `[E=]`, in order: `NAME:VALUE`, `NAME` or `!NAME`.
    pub environment: Vec<Template>,
    /// `[CO=]`, in order.
    pub cookies: Vec<Template>,
    /// `[H=]`: who answers.
    pub handler: Option<Handler>,
}

/// What a rule does to a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Action {
    /// `-`: nothing.
    Keep,
    /// `[F]`, `[G]` and `[R=...]` outside 300 to 399: it is answered with this status.
    Fail(u16),
    /// Puts this in the path's place. A URL sends the client there with `status`.
    Rewrite {
        /// The path or URL.
        to: Template,
        /// It begins with two slashes, as written.
        doubled: bool,
        /// 300 to 399.
        status: u16,
    },
    /// `[R]`: the client is sent there.
    Redirect {
        /// The path or URL.
        to: Template,
        /// 300 to 399.
        status: u16,
    },
    /// `[P]`: goes to a member.
    Proxy {
        /// Index into the Spec's balancers.
        balancer: usize,
        /// Path and query: what follows the target's host.
        to: Template,
    },
}

/// What follows a rule that matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Next {
    /// The rule after it.
    Rule,
    /// The rule after so many others: `[S=]`.
    Skip(u32),
    /// No rule: `[L]` and `[P]`.
    Stop,
    /// No rule, of later sections neither: `[END]`.
    End,
    /// No rule, and `ProxyPass` sees the new path: `[PT]`.
    Pass,
    /// The first rule, in at most so many rounds: `[N]`.
    Again(u32),
}

/// What becomes of a request's query where a rule puts something in its path's place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Query {
    /// `[QSA]`: behind the result's.
    pub append: bool,
    /// `[QSD]`: dropped.
    pub discard: bool,
    /// `[QSL]`: the result's begins at its last question mark.
    pub last: bool,
    /// There is none, whatever groups bring.
    pub none: bool,
}

/// How groups are escaped, `[B]` and its kin.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Escape {
    /// `[B=...]`: these alone.
    pub only: Option<String>,
    /// `[BNE=...]`: these never.
    pub never: Option<String>,
    /// `[BNP]`: a blank becomes `%20`, not `+`.
    pub no_plus: bool,
    /// `[BCTLS]`: control characters and blanks alone.
    pub controls: bool,
}

/// One `RewriteCond`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Condition {
    /// What is looked at.
    pub input: Template,
    /// What it is compared with.
    pub test: Test,
    /// `!` before it.
    pub negated: bool,
    /// `[OR]`: this or the next.
    pub or: bool,
}

/// What a [`Condition`] compares with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Test {
    /// A regular expression matches somewhere.
    Matches(Pattern),
    /// `<`, `>`, `<=`, `>=`, `=`. As in httpd a longer text is greater, unless case is ignored.
    Text {
        /// How.
        relation: Relation,
        /// With what.
        with: String,
        /// `[NC]`.
        ignores_case: bool,
    },
    /// `-lt`, `-gt`, `-le`, `-ge`, `-eq`, `-ne`.
    Number(Relation, i64),
    /// `RewriteCond expr ...`.
    Holds(Expr),
}

/// How two values are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Relation {
    /// Less.
    Less,
    /// Less or equal.
    AtMost,
    /// Equal.
    Equal,
    /// Greater.
    Greater,
    /// Greater or equal.
    AtLeast,
}

impl Relation {
    /// Whether it holds of two values in this order.
    pub const fn holds(self, order: std::cmp::Ordering) -> bool {
        match self {
            Self::Less => order.is_lt(),
            Self::AtMost => order.is_le(),
            Self::Equal => order.is_eq(),
            Self::Greater => order.is_gt(),
            Self::AtLeast => order.is_ge(),
        }
    }
}

#[cfg(test)]
mod tests;
