//! mod_rewrite's rules as balancer configurations use them: what becomes of a request's path and
//! query before `ProxyPass` sees them. Pure: [`apply`] asks a [`Request`] for what it does not hold,
//! and its time and memory are bounded whatever rules and request are.
//!
//! What stands in a configuration file is read by [`parse`]; which balancer a `[P]` rule leads to is
//! settled by `config`. A rule's target host is always the file's: nothing that a request brings can
//! become part of it.

use serde::{Deserialize, Serialize};

use crate::{expr::Expr, pattern::Pattern};

mod cookie;
mod engine;
mod escape;
pub mod parse;
mod scheme;
pub mod template;

pub use cookie::Cookie;
pub use engine::{Applied, Outcome, Request, apply};
pub(crate) use escape::path as escape_path;
pub use template::{Function, Template};

/// The rewriting directives of one place.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rewriting {
    /// `RewriteEngine`; `None`: as the places before it say. Default off.
    pub engine: Option<bool>,
    /// `RewriteRule`, in order, inherited ones among them.
    pub rules: Vec<Rule>,
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
    /// No rule: `[L]`, `[P]` and, in the only pass there is, `[END]`.
    Stop,
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
