//! Texts with `$1`, `%1`, `%{VARIABLE}` and `${map:key|default}` in them.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::{Escape, escape};
use crate::{
    expr::{Table, Variable},
    pattern::Captures,
};

/// A text that is filled in for each request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Source", into = "Source")]
pub struct Template {
    source: Source,
    parts: Vec<Part>,
}

/// What a template is made of; it travels between processes as this.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Source {
    text: String,
    maps: Vec<(String, Function)>,
}

/// What a `RewriteMap` does: an internal function, or a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Function {
    /// `tolower`
    ToLower,
    /// `toupper`
    ToUpper,
    /// `escape`
    Escape,
    /// `unescape`
    Unescape,
    /// `txt:`, `rnd:`: index into the Spec's files.
    File(usize),
}

impl Function {
    /// The function of this name.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "tolower" => Self::ToLower,
            "toupper" => Self::ToUpper,
            "escape" => Self::Escape,
            "unescape" => Self::Unescape,
            _ => return None,
        })
    }

    /// The value of a key; `None`: there is none, or none that is not empty.
    fn of(self, key: &[u8], values: &impl Values) -> Option<Vec<u8>> {
        Some(match self {
            Self::ToLower => key.to_ascii_lowercase(),
            Self::ToUpper => key.to_ascii_uppercase(),
            Self::Escape => escape::path(key),
            Self::Unescape => escape::decode(key),
            Self::File(index) => values
                .look_up(index, key)
                .filter(|value| !value.is_empty())?,
        })
    }
}

/// Why a text is no template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// `%{LA-U:...}`, `%{LA-F:...}`.
    #[error("%{{{0}}} is not supported by sluice: it asks for a subrequest, which a proxy has not")]
    LookAhead(String),
    /// `${name:...}` of a map that is not defined, or only further below.
    #[error("there is no RewriteMap {0} before this line")]
    Map(String),
    /// `${` within `${`, and so on.
    #[error("nested more than {DEEPEST} deep")]
    TooDeep,
}

/// Maps within the keys of maps.
const DEEPEST: u32 = 20;

/// Longest result, bytes: what httpd lets a path grow to is a quarter of it.
pub(super) const LONGEST: usize = 64 * 1024;

/// A result is longer than [`LONGEST`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooLong;

#[derive(Clone, Debug, PartialEq)]
enum Part {
    Text(Vec<u8>),
    /// A character after a backslash.
    Escaped(Vec<u8>),
    /// `$N`: of the rule.
    Rule(usize),
    /// `%N`: of the last condition.
    Condition(usize),
    Name(Name),
    /// Key, and what stands for a key that the map has not.
    Map(Function, Vec<Part>, Vec<Part>),
}

/// What `%{...}` names.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Name {
    Variable(Variable),
    /// `REQUEST_FILENAME`: what the rules have made of the path.
    Filename,
    ServerAddress,
    /// `ENV:...`
    Environment(String),
    /// `HTTP:...`
    Field(String),
    /// Reads as empty.
    Unknown(String),
}

/// What a template is filled in with.
pub(super) trait Values {
    /// Group of the rule's pattern.
    fn rule(&self) -> Option<&(Vec<u8>, Captures)>;
    /// Group of the last condition's.
    fn condition(&self) -> Option<&(Vec<u8>, Captures)>;
    /// A variable; empty where it has no value.
    fn named(&self, name: &Name) -> Cow<'_, [u8]>;
    /// A key's value in a file.
    fn look_up(&self, file: usize, key: &[u8]) -> Option<Vec<u8>>;
}

impl Template {
    /// Reads a text; `maps` are those that are defined.
    ///
    /// # Errors
    /// What it asks for and cannot get.
    pub fn new(text: &str, maps: &[(String, Function)]) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
        parse(text, maps, 0, &mut parts)?;
        let named = |name: &str| text.contains(&format!("${{{name}:"));
        let maps = maps.iter().filter(|(name, _)| named(name));
        Ok(Self {
            source: Source {
                text: text.to_owned(),
                maps: maps.cloned().collect(),
            },
            parts,
        })
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.source.text
    }

    /// Names of variables in it that no request has.
    pub fn unknown(&self) -> Vec<&str> {
        fn collect<'p>(parts: &'p [Part], found: &mut Vec<&'p str>) {
            for part in parts {
                match part {
                    Part::Name(Name::Unknown(name)) => found.push(name),
                    Part::Map(_, key, default) => {
                        collect(key, found);
                        collect(default, found);
                    }
                    _ => {}
                }
            }
        }
        let mut found = Vec::new();
        collect(&self.parts, &mut found);
        found
    }

    /// What a request makes of it, and whether the question mark that begins its query (the first;
    /// the last with `last`) came with what was filled in.
    pub(super) fn fill(
        &self,
        values: &impl Values,
        escape: Option<&Escape>,
        last: bool,
    ) -> Result<(Vec<u8>, bool), TooLong> {
        let mut out = Vec::with_capacity(self.source.text.len() + 64);
        let mut unsafe_question = false;
        let mut looks = true;
        for part in &self.parts {
            let from = out.len();
            push(part, values, escape, &mut out)?;
            let brought = !matches!(part, Part::Text(_));
            if looks && !matches!(part, Part::Escaped(_)) && out[from..].contains(&b'?') {
                unsafe_question = brought;
                looks = last;
            }
        }
        Ok((out, unsafe_question))
    }
}

fn push(
    part: &Part,
    values: &impl Values,
    escape: Option<&Escape>,
    out: &mut Vec<u8>,
) -> Result<(), TooLong> {
    let mut add = |text: &[u8]| {
        if out.len() + text.len() > LONGEST {
            return Err(TooLong);
        }
        out.extend_from_slice(text);
        Ok(())
    };
    let group = |found: Option<&(Vec<u8>, Captures)>, number: usize| {
        let text = found.map(|(subject, captures)| captures.group(subject, number));
        let text = text.unwrap_or_default();
        match escape {
            Some(escape) => escape::group(text, escape),
            None => text.to_vec(),
        }
    };
    match part {
        Part::Text(text) | Part::Escaped(text) => add(text),
        Part::Rule(number) => add(&group(values.rule(), *number)),
        Part::Condition(number) => add(&group(values.condition(), *number)),
        Part::Name(name) => add(&values.named(name)),
        Part::Map(function, key, default) => {
            let mut text = Vec::new();
            for part in key {
                push(part, values, escape, &mut text)?;
            }
            match function.of(&text, values) {
                Some(value) => add(&value),
                None => (default.iter()).try_for_each(|part| push(part, values, escape, out)),
            }
        }
    }
}

fn parse(
    text: &str,
    maps: &[(String, Function)],
    depth: u32,
    parts: &mut Vec<Part>,
) -> Result<(), TemplateError> {
    if depth > DEEPEST {
        return Err(TemplateError::TooDeep);
    }
    let mut plain = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['\\', '$', '%']) {
        plain.push_str(&rest[..at]);
        let sign = rest.as_bytes()[at];
        rest = &rest[at + 1..];
        let part = match (sign, rest.as_bytes().first().copied()) {
            (b'\\', Some(_)) => {
                let escaped = rest.chars().next().map_or(1, char::len_utf8);
                let text = rest.as_bytes()[..escaped].to_vec();
                rest = &rest[escaped..];
                Some(Part::Escaped(text))
            }
            (b'%' | b'$', Some(digit @ b'0'..=b'9')) => {
                rest = &rest[1..];
                let number = usize::from(digit - b'0');
                Some(if sign == b'$' {
                    Part::Rule(number)
                } else {
                    Part::Condition(number)
                })
            }
            (b'%' | b'$', Some(b'{')) => match closing(&rest[1..]) {
                Some(end) => {
                    let inner = &rest[1..=end];
                    let part = if sign == b'%' {
                        Some(Part::Name(variable(inner)?))
                    } else {
                        map(inner, maps, depth)?
                    };
                    if part.is_some() {
                        rest = &rest[end + 2..];
                    }
                    part
                }
                None => None,
            },
            _ => None,
        };
        match part {
            Some(part) => {
                if !plain.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut plain).into_bytes()));
                }
                parts.push(part);
            }
            None => plain.push(char::from(sign)),
        }
    }
    plain.push_str(rest);
    if !plain.is_empty() {
        parts.push(Part::Text(plain.into_bytes()));
    }
    Ok(())
}

/// Where the brace that was opened before `text` is closed.
fn closing(text: &str) -> Option<usize> {
    find_within(text, b'}')
}

/// Where `wanted` stands in `text` outside of braces within.
fn find_within(text: &str, wanted: u8) -> Option<usize> {
    let mut depth = 0_u32;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if byte == wanted && depth == 0 => return Some(at),
            b'}' => depth = depth.checked_sub(1)?,
            b'{' => depth += 1,
            _ => {}
        }
    }
    None
}

/// The inside of a `${...}`; `None`: it has no colon and is no map.
fn map(
    inner: &str,
    maps: &[(String, Function)],
    depth: u32,
) -> Result<Option<Part>, TemplateError> {
    let Some(colon) = find_within(inner, b':') else {
        return Ok(None);
    };
    let (name, key) = (&inner[..colon], &inner[colon + 1..]);
    let bar = find_within(key, b'|');
    let (key, default) = bar.map_or((key, ""), |at| (&key[..at], &key[at + 1..]));
    let known = maps.iter().rev().find(|(known, _)| known == name);
    let (_, function) = known.ok_or_else(|| TemplateError::Map(name.to_owned()))?;
    let mut parts = Vec::new();
    parse(key, maps, depth + 1, &mut parts)?;
    let mut instead = Vec::new();
    parse(default, maps, depth + 1, &mut instead)?;
    Ok(Some(Part::Map(*function, parts, instead)))
}

/// The variable of a `%{...}`.
fn variable(name: &str) -> Result<Name, TemplateError> {
    let prefixed = |prefix: &str| {
        let start = name.get(..prefix.len())?;
        let rest = &name[prefix.len()..];
        (start.eq_ignore_ascii_case(prefix) && !rest.is_empty()).then(|| rest.to_owned())
    };
    if let Some(rest) = prefixed("ENV:") {
        return Ok(Name::Environment(rest));
    }
    if let Some(rest) = prefixed("HTTP:") {
        return Ok(Name::Field(rest));
    }
    if let Some(rest) = prefixed("SSL:") {
        return Ok(Name::Variable(Variable::Tls(rest.to_ascii_uppercase())));
    }
    if prefixed("LA-U:").is_some() || prefixed("LA-F:").is_some() {
        return Err(TemplateError::LookAhead(name.to_owned()));
    }
    let upper = name.to_ascii_uppercase();
    // What expressions know and mod_rewrite does not.
    let not_here = [
        "DOCUMENT_URI",
        "CONTENT_TYPE",
        "REQUEST_STATUS",
        "REQUEST_LOG_ID",
        "CONN_LOG_ID",
        "HTTP2",
        "HANDLER",
        "LAST_MODIFIED",
    ];
    Ok(match upper.as_str() {
        "REQUEST_FILENAME" | "SCRIPT_FILENAME" => Name::Filename,
        "SERVER_ADDR" => Name::ServerAddress,
        _ if not_here.contains(&upper.as_str()) || upper.starts_with("SSL_") => {
            Name::Unknown(name.to_owned())
        }
        _ => match Variable::named(&upper) {
            Some(variable) => Name::Variable(variable),
            None => Name::Unknown(name.to_owned()),
        },
    })
}

impl Name {
    /// The table and entry that it is, where it is one.
    pub(super) fn entry(&self) -> Option<(Table, &str)> {
        match self {
            Self::Environment(name) => Some((Table::Environment, name)),
            Self::Field(name) => Some((Table::Request, name)),
            _ => None,
        }
    }
}

impl TryFrom<Source> for Template {
    type Error = TemplateError;

    fn try_from(source: Source) -> Result<Self, TemplateError> {
        Self::new(&source.text, &source.maps)
    }
}

impl From<Template> for Source {
    fn from(template: Template) -> Self {
        template.source
    }
}
