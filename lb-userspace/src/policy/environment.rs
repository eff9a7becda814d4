//! SetEnv, UnsetEnv, PassEnv, SetEnvIf and its kin: the environment of a request.

use std::{borrow::Cow, cell::RefCell};

use serde::{Deserialize, Serialize};

use crate::{
    expr::{Expr, Facts, Table, Variable},
    pattern::{self, Pattern},
};

/// Variables of one request, as set so far. Names are compared without regard to case, as httpd's
/// tables do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment(Vec<(String, Vec<u8>)>);

impl Environment {
    /// A variable's value.
    pub fn value(&self, name: &[u8]) -> Option<&[u8]> {
        let mut known = self.0.iter();
        known
            .find(|(known, _)| known.as_bytes().eq_ignore_ascii_case(name))
            .map(|(_, value)| &value[..])
    }

    /// Sets a variable.
    pub fn set(&mut self, name: &str, value: Vec<u8>) {
        let mut known = self.0.iter_mut();
        match known.find(|(known, _)| known.eq_ignore_ascii_case(name)) {
            Some((_, old)) => *old = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }

    /// Removes a variable.
    pub fn unset(&mut self, name: &str) {
        self.0
            .retain(|(known, _)| !known.eq_ignore_ascii_case(name));
    }

    /// Names and values, in the order in which they were set first.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().map(|(name, value)| (&name[..], &value[..]))
    }

    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// One `SetEnvIf`, `SetEnvIfNoCase`, `BrowserMatch` or `SetEnvIfExpr`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SetEnvIf {
    /// When it acts.
    pub test: Test,
    /// What it does then, in order.
    pub changes: Vec<Change>,
}

/// The condition of a [`SetEnvIf`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Test {
    /// A property matches a pattern.
    Matches(Subject, Pattern),
    /// An expression holds.
    Holds(Expr),
}

/// What a [`SetEnvIf`] looks at.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Subject {
    /// `Remote_Addr`, `Remote_Host`: no names are looked up.
    RemoteAddress,
    /// `Server_Addr`.
    ServerAddress,
    /// `Request_Method`.
    Method,
    /// `Request_Protocol`.
    Protocol,
    /// `Request_URI`: the path, decoded, without query.
    Uri,
    /// A field of the request, else a variable that is already set.
    Named(String),
    /// The last field of the request whose name matches.
    Field(Pattern),
}

/// A change of one variable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// `NAME` (1) or `NAME=VALUE`; `$0` to `$9` in it are filled in.
    Set(String, String),
    /// `!NAME`.
    Unset(String),
}

impl Subject {
    /// The subject of this name.
    ///
    /// # Errors
    /// A name that is a pattern does not compile.
    pub fn named(name: &str, ignores_case: bool) -> Result<Self, pattern::PatternError> {
        Ok(match name.to_ascii_lowercase().as_str() {
            "remote_addr" | "remote_host" => Self::RemoteAddress,
            "server_addr" => Self::ServerAddress,
            "request_method" => Self::Method,
            "request_protocol" => Self::Protocol,
            "request_uri" => Self::Uri,
            _ => {
                let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
                if name.chars().all(plain) {
                    Self::Named(name.to_owned())
                } else {
                    Self::Field(Pattern::new(name, ignores_case)?)
                }
            }
        })
    }
}

impl Change {
    /// A change as it is written.
    pub fn parse(text: &str) -> Self {
        match text.split_once('=') {
            Some((name, value)) if !value.is_empty() => {
                Self::Set(name.to_owned(), value.to_owned())
            }
            Some((name, _)) => Self::without_value(name),
            None => Self::without_value(text),
        }
    }

    fn without_value(name: &str) -> Self {
        match name.strip_prefix('!') {
            Some(name) => Self::Unset(name.to_owned()),
            None => Self::Set(name.to_owned(), "1".to_owned()),
        }
    }
}

/// A request that [`SetEnvIf`] looks at: beside [`Facts`], what expressions have no name for.
pub trait Request: Facts {
    /// Our address on this connection.
    fn server_address(&self) -> String;
    /// Names and values of all fields, in order.
    fn fields(&self, each: &mut dyn FnMut(&[u8], &[u8]));
}

/// Carries out `rules` in order; each sees what those before it have set, because `request` reads
/// the same `environment`.
pub fn apply(rules: &[SetEnvIf], environment: &RefCell<Environment>, request: &impl Request) {
    for rule in rules {
        let changes = rule.changes(request);
        let mut environment = environment.borrow_mut();
        for (name, value) in changes {
            match value {
                Some(value) => environment.set(&name, value),
                None => environment.unset(&name),
            }
        }
    }
}

impl SetEnvIf {
    /// What it changes for a request: names with their values, `None` to unset.
    fn changes(&self, request: &impl Request) -> Vec<(String, Option<Vec<u8>>)> {
        let found = match &self.test {
            Test::Matches(subject, pattern) => {
                let text = value(subject, request);
                match pattern.captures(&text) {
                    Some(captures) => Some((text.into_owned(), captures)),
                    None => return Vec::new(),
                }
            }
            Test::Holds(expr) => match expr.matched(request) {
                Some(groups) => groups,
                None => return Vec::new(),
            },
        };
        self.changes
            .iter()
            .map(|change| match change {
                Change::Unset(name) => (name.clone(), None),
                Change::Set(name, template) => {
                    let value = match &found {
                        Some((text, captures)) => {
                            pattern::substitute(template.as_bytes(), text, captures)
                        }
                        None => template.clone().into_bytes(),
                    };
                    (name.clone(), Some(value))
                }
            })
            .collect()
    }
}

fn value<'r>(subject: &Subject, request: &'r impl Request) -> Cow<'r, [u8]> {
    let variable = |variable| request.variable(&variable).unwrap_or_default();
    match subject {
        Subject::RemoteAddress => variable(Variable::RemoteAddress),
        Subject::ServerAddress => Cow::Owned(request.server_address().into_bytes()),
        Subject::Method => variable(Variable::Method),
        Subject::Protocol => variable(Variable::Protocol),
        Subject::Uri => variable(Variable::Uri),
        Subject::Named(name) => request
            .entry(Table::Request, name.as_bytes())
            .or_else(|| request.entry(Table::Environment, name.as_bytes()))
            .unwrap_or_default(),
        Subject::Field(pattern) => {
            let mut last = Vec::new();
            request.fields(&mut |name, value| {
                if pattern.is_match(name) {
                    last = value.to_vec();
                }
            });
            Cow::Owned(last)
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
