//! httpd's expressions (`ap_expr`): conditions as in `<If>`, `Require expr` and `ProxyHCExpr`, and
//! texts as in `Header set X "expr=..."`.
//!
//! Pure: an expression asks [`Facts`] for what it does not hold. What needs a file system or a
//! subrequest (`-f`, `-U`, `file()`) is refused when the expression is parsed: a proxy has neither.
//! Grammar and functions: httpd's manual, "Expressions in Apache HTTP Server"; compared with a
//! running httpd in `tests/tests/expressions.rs`.

use std::{borrow::Cow, net::IpAddr};

use serde::{Deserialize, Serialize};

mod eval;
pub(crate) mod fnmatch;
mod functions;
mod lexer;
mod parser;
mod variables;

pub(crate) use eval::number;
pub use variables::{Moment, Variable};

/// A parsed expression.
///
/// It travels between processes as its text: what was parsed once is parsed again.
#[derive(Debug, Serialize, Deserialize)]
#[serde(try_from = "Source", into = "Source")]
pub struct Expr {
    source: Source,
    root: Root,
}

/// What an expression is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Source {
    text: String,
    result: Outcome,
    dialect: Dialect,
}

/// What an expression is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Outcome {
    Condition,
    Text,
}

/// Where an expression stands: who may be asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Dialect {
    /// A request.
    #[default]
    Request,
    /// The answer to a health check: `hc('body')` besides.
    HealthCheck,
}

#[derive(Debug)]
enum Root {
    Condition(parser::Condition),
    Text(parser::Word),
}

/// Why a text is no expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExprError {
    /// A token stands where it must not.
    #[error("syntax error, unexpected {0}")]
    Unexpected(String),
    /// A string, pattern or variable has no end.
    #[error("unterminated string or variable")]
    Unterminated,
    /// `\8`, `\777`.
    #[error("bad escape sequence")]
    BadEscape,
    /// A name that nobody knows.
    #[error("{kind} '{name}' does not exist")]
    Unknown {
        /// Variable, function, operator.
        kind: &'static str,
        /// As it was written.
        name: String,
    },
    /// A name that httpd knows and a proxy has no use for.
    #[error(
        "{0} is not supported by sluice: it asks for files or subrequests, which a proxy has not"
    )]
    NotHere(String),
    /// A pattern does not compile.
    #[error("failed to compile regular expression: {0}")]
    Pattern(#[from] crate::pattern::PatternError),
    /// What `-ipmatch` and `-R` compare with.
    #[error("parsing of subnet/netmask failed: '{0}'")]
    Subnet(String),
    /// Too many parentheses.
    #[error("nested more than {} deep", parser::DEEPEST)]
    TooDeep,
}

/// Names and values of a request that an expression may ask for. `None`: it is not there, which
/// reads as the empty text.
pub trait Facts {
    /// `%{REQUEST_METHOD}` and its like.
    fn variable(&self, variable: &Variable) -> Option<Cow<'_, [u8]>>;
    /// A table's entry; names of fields are compared without regard to case.
    fn entry(&self, table: Table, name: &[u8]) -> Option<Cow<'_, [u8]>>;
    /// The client's address.
    fn remote(&self) -> Option<IpAddr>;
    /// Local time, for `%{TIME_HOUR}`.
    fn now(&self) -> Moment;
}

/// A table that a function looks into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// `req`, `http`, `req_novary`: fields of the request.
    Request,
    /// `resp`: fields of the response.
    Response,
    /// `reqenv`: what `SetEnv` and its like have set.
    Environment,
    /// `note`: nobody writes notes here.
    Notes,
    /// `osenv`: the environment of the process.
    Process,
    /// `hc`: of the answer to a health check, `body`.
    HealthCheck,
}

impl Expr {
    /// Parses a condition.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn condition(text: &str, dialect: Dialect) -> Result<Self, ExprError> {
        Self::parse(text, Outcome::Condition, dialect)
    }

    /// Parses a text with variables in it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn text(text: &str, dialect: Dialect) -> Result<Self, ExprError> {
        Self::parse(text, Outcome::Text, dialect)
    }

    fn parse(text: &str, result: Outcome, dialect: Dialect) -> Result<Self, ExprError> {
        let root = match result {
            Outcome::Condition => Root::Condition(parser::condition(text, dialect)?),
            Outcome::Text => Root::Text(parser::text(text, dialect)?),
        };
        let source = Source {
            text: text.to_owned(),
            result,
            dialect,
        };
        Ok(Self { source, root })
    }

    /// As it was written.
    pub fn source(&self) -> &str {
        &self.source.text
    }

    /// Whether it holds; a text holds when it is not empty.
    pub fn holds(&self, facts: &dyn Facts) -> bool {
        let mut state = eval::State::new(facts);
        match &self.root {
            Root::Condition(condition) => state.condition(condition),
            Root::Text(word) => !state.word(word).is_empty(),
        }
    }

    /// Where it holds: the text and the groups of the last match in it that had groups, if one had.
    pub fn matched(
        &self,
        facts: &dyn Facts,
    ) -> Option<Option<(Vec<u8>, crate::pattern::Captures)>> {
        let mut state = eval::State::new(facts);
        let holds = match &self.root {
            Root::Condition(condition) => state.condition(condition),
            Root::Text(word) => !state.word(word).is_empty(),
        };
        holds.then(|| state.groups())
    }

    /// Its text; a condition's is `true` or `false`.
    pub fn value(&self, facts: &dyn Facts) -> Vec<u8> {
        let mut state = eval::State::new(facts);
        match &self.root {
            Root::Condition(condition) => state.condition(condition).to_string().into_bytes(),
            Root::Text(word) => state.word(word).into_owned(),
        }
    }
}

impl Clone for Expr {
    fn clone(&self) -> Self {
        Self::try_from(self.source.clone()).expect("what was parsed once parses again")
    }
}

impl PartialEq for Expr {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl TryFrom<Source> for Expr {
    type Error = ExprError;

    fn try_from(source: Source) -> Result<Self, ExprError> {
        Self::parse(&source.text, source.result, source.dialect)
    }
}

impl From<Expr> for Source {
    fn from(expr: Expr) -> Self {
        expr.source
    }
}

#[cfg(test)]
mod tests;
