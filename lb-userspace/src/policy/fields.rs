//! Header and RequestHeader: fields of requests and responses set, added, edited, removed
//! (mod_headers).

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};

pub use super::interned::FieldName;
use super::interned::FieldText;
use crate::{
    expr::{Expr, Facts, Table, Variable},
    pattern::{self, Pattern},
};

/// One `Header` or `RequestHeader`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FieldEdit {
    /// What it does.
    pub action: Action,
    /// The field's name; of `echo`: unused.
    pub name: FieldName,
    /// When it acts.
    pub condition: Condition,
}

/// What a [`FieldEdit`] does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Action {
    /// `set`: replaces every field of the name.
    Set(Value),
    /// `setifempty`: sets where there is none.
    SetIfEmpty(Value),
    /// `add`: one field more.
    Add(Value),
    /// `append`: to the last field, after a comma.
    Append(Value),
    /// `merge`: as `append`, unless the value is in the list already.
    Merge(Value),
    /// `unset`: removes every field of the name.
    Unset,
    /// `edit`, and with `true` `edit*`: replaces what a pattern matches, once or each time.
    Edit(Pattern, Value, bool),
    /// `echo`: fields of the request whose name matches come back.
    Echo(Pattern),
    /// `note`: the field's value is kept under this name, for logs and expressions.
    Note(Value),
}

/// When a [`FieldEdit`] acts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Condition {
    /// Always.
    #[default]
    Always,
    /// `early`: before anything else.
    Early,
    /// `env=NAME`, and with `false` `env=!NAME`.
    Environment(String, bool),
    /// `expr=`.
    Expr(Expr),
}

/// A value with what it is filled in with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Value {
    /// `expr=`.
    Expr(Expr),
    /// Text without any of that.
    Fixed(FieldText),
    /// Text with `%{NAME}e` and its like.
    Format(Vec<Piece>),
}

/// A part of a [`Value::Format`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Piece {
    /// As it is.
    Text(String),
    /// `%D`: `D=` and microseconds since the request came in.
    Duration,
    /// `%t`: `t=` and microseconds since 1970 when the request came in.
    Received,
    /// `%{NAME}e`: a variable of the request's environment.
    Environment(String),
    /// `%{NAME}s`: a variable of TLS.
    Tls(String),
}

/// What a format asks for beside [`Facts`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    /// Microseconds since 1970 when the request came in.
    pub received_us: u64,
    /// Microseconds since then.
    pub elapsed_us: u64,
}

/// A format that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadFormat {
    /// A letter that nobody knows.
    #[error("Unrecognized header format %{0}")]
    Unknown(char),
    /// `%l`, `%i`, `%b`.
    #[error(
        "header format %{0} is not supported by sluice: it asks for the load of httpd's workers"
    )]
    NotHere(char),
}

impl Value {
    /// Parses a format.
    ///
    /// # Errors
    /// A letter after `%` that nobody knows.
    pub fn format(text: &str) -> Result<Self, BadFormat> {
        let mut pieces = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            rest = &rest[c.len_utf8()..];
            match c {
                '\\' => {
                    let escaped = rest.chars().next();
                    let known = match escaped {
                        Some('\\') => Some('\\'),
                        Some('r') => Some('\r'),
                        Some('n') => Some('\n'),
                        Some('t') => Some('\t'),
                        _ => None,
                    };
                    plain.push(known.unwrap_or('\\'));
                    if known.is_some() {
                        rest = &rest[1..];
                    }
                }
                '%' => {
                    let (piece, after) = tag(rest)?;
                    rest = after;
                    match piece {
                        Piece::Text(text) => plain.push_str(&text),
                        piece => {
                            if !plain.is_empty() {
                                pieces.push(Piece::Text(std::mem::take(&mut plain)));
                            }
                            pieces.push(piece);
                        }
                    }
                }
                c => plain.push(c),
            }
        }
        if pieces.is_empty()
            && plain.len() <= LONGEST
            && let Ok(fixed) = FieldText::try_from(plain.clone())
        {
            return Ok(Self::Fixed(fixed));
        }
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain));
        }
        Ok(Self::Format(pieces))
    }

    fn fill(&self, facts: &dyn Facts, times: &dyn Fn() -> Times) -> Vec<u8> {
        let pieces = match self {
            Self::Expr(expr) => return expr.value(facts),
            Self::Fixed(FieldText(text)) => return text.as_bytes().to_vec(),
            Self::Format(pieces) => pieces,
        };
        let mut out = Vec::new();
        for piece in pieces {
            let text: Cow<'_, [u8]> = match piece {
                Piece::Text(text) => text.as_bytes().into(),
                Piece::Duration => format!("D={}", times().elapsed_us).into_bytes().into(),
                Piece::Received => format!("t={}", times().received_us).into_bytes().into(),
                Piece::Environment(name) => facts
                    .entry(Table::Environment, name.as_bytes())
                    .map_or(NOTHING.into(), on_one_line),
                Piece::Tls(name) => facts
                    .variable(&Variable::Tls(name.to_ascii_uppercase()))
                    .filter(|value| !value.is_empty())
                    .map_or(NOTHING.into(), on_one_line),
            };
            out.extend_from_slice(&text);
        }
        out
    }

    /// As a field's value.
    fn made(&self, facts: &dyn Facts, times: &dyn Fn() -> Times) -> HeaderValue {
        match self {
            // Most are the same for all requests.
            Self::Fixed(FieldText(text)) => text.clone(),
            Self::Expr(_) | Self::Format(_) => clean(self.fill(facts, times)),
        }
    }
}

/// With blanks for ends of lines, as httpd puts certificates (PEM) into fields.
fn on_one_line(value: Cow<'_, [u8]>) -> Cow<'_, [u8]> {
    let ends = |byte: &u8| matches!(byte, b'\r' | b'\n');
    if !value.iter().any(ends) {
        return value;
    }
    let blank = |byte: &u8| if ends(byte) { b' ' } else { *byte };
    value.iter().map(blank).collect::<Vec<_>>().into()
}

/// What a variable that is not set reads as.
const NOTHING: &[u8] = b"(null)";

/// What follows a `%`, and what follows that.
fn tag(text: &str) -> Result<(Piece, &str), BadFormat> {
    let (argument, rest) = match text.strip_prefix('{') {
        Some(inner) => inner.split_once('}').unwrap_or((inner, "")),
        None => ("", text),
    };
    let Some(letter) = rest.chars().next() else {
        return Ok((Piece::Text("%".to_owned()), ""));
    };
    let piece = match letter {
        '%' => Piece::Text("%".to_owned()),
        'D' => Piece::Duration,
        't' => Piece::Received,
        'e' => Piece::Environment(argument.to_owned()),
        's' => Piece::Tls(argument.to_owned()),
        'l' | 'i' | 'b' => return Err(BadFormat::NotHere(letter)),
        letter => return Err(BadFormat::Unknown(letter)),
    };
    Ok((piece, &rest[letter.len_utf8()..]))
}

/// Names and values of `Header note`.
pub type Notes = Vec<(String, Vec<u8>)>;

/// Carries out `edits` in order on `fields`; with `early` those marked so alone, else the others.
/// `request` has the request's fields, for `echo`; `times` is asked where a value has them.
pub fn apply<'e>(
    edits: impl IntoIterator<Item = &'e FieldEdit>,
    fields: &mut HeaderMap,
    request: &HeaderMap,
    facts: &dyn Facts,
    times: &dyn Fn() -> Times,
    early: bool,
) -> Notes {
    let mut notes = Vec::new();
    for edit in edits {
        let acts = match &edit.condition {
            Condition::Early => early,
            _ if early => false,
            Condition::Always => true,
            Condition::Environment(name, wanted) => {
                facts.entry(Table::Environment, name.as_bytes()).is_some() == *wanted
            }
            Condition::Expr(expr) => expr.holds(facts),
        };
        if acts {
            notes.extend(edit.note(fields, facts, times));
            edit.apply(fields, request, facts, times);
        }
    }
    notes
}

impl FieldEdit {
    /// Whether it looks at fields that others may have edited.
    pub fn asks_for_fields(&self) -> bool {
        let asks = |value: &Value| matches!(value, Value::Expr(_));
        matches!(self.condition, Condition::Expr(_))
            || match &self.action {
                Action::Set(value)
                | Action::SetIfEmpty(value)
                | Action::Add(value)
                | Action::Append(value)
                | Action::Merge(value)
                | Action::Note(value)
                | Action::Edit(_, value, _) => asks(value),
                Action::Unset => false,
                Action::Echo(_) => true,
            }
    }

    /// Whether it may make, change or remove a field that `is_such`.
    pub fn changes(&self, is_such: impl Fn(&HeaderName) -> bool) -> bool {
        match self.action {
            Action::Note(_) => false,
            Action::Echo(_) => true,
            _ => is_such(&self.name.0),
        }
    }

    /// What it notes of the fields: as in httpd the first of the name.
    fn note(
        &self,
        fields: &HeaderMap,
        facts: &dyn Facts,
        times: &dyn Fn() -> Times,
    ) -> Option<(String, Vec<u8>)> {
        let Action::Note(name) = &self.action else {
            return None;
        };
        let first = fields.get(&self.name.0)?.as_bytes().to_vec();
        let name = String::from_utf8_lossy(&name.fill(facts, times)).into_owned();
        Some((name, first))
    }

    fn apply(
        &self,
        fields: &mut HeaderMap,
        request: &HeaderMap,
        facts: &dyn Facts,
        times: &dyn Fn() -> Times,
    ) {
        if let Action::Echo(pattern) = &self.action {
            for (name, value) in request {
                if pattern.is_match(name.as_str().as_bytes()) {
                    fields.append(name.clone(), value.clone());
                }
            }
            return;
        }
        let name = &self.name.0;
        let fill = |value: &Value| value.made(facts, times);
        match &self.action {
            Action::Set(value) => {
                fields.insert(name.clone(), fill(value));
            }
            Action::SetIfEmpty(value) => {
                if !fields.contains_key(name) {
                    fields.insert(name.clone(), fill(value));
                }
            }
            Action::Add(value) => {
                fields.append(name.clone(), fill(value));
            }
            Action::Append(value) => append(fields, name, fill(value)),
            Action::Merge(value) => {
                let value = fill(value);
                let known = fields.get(name);
                if known.is_none_or(|known| !lists(known.as_bytes(), value.as_bytes())) {
                    append(fields, name, value);
                }
            }
            Action::Unset => {
                fields.remove(name);
            }
            Action::Edit(pattern, value, every) => {
                let template = value.fill(facts, times);
                let edited: Vec<HeaderValue> = fields
                    .get_all(name)
                    .iter()
                    .map(|old| clean(replace(pattern, old.as_bytes(), &template, *every)))
                    .collect();
                fields.remove(name);
                for value in edited {
                    fields.append(name.clone(), value);
                }
            }
            Action::Echo(_) | Action::Note(_) => {}
        }
    }
}

/// `value` after a comma behind the first field of the name, as httpd's tables merge.
fn append(fields: &mut HeaderMap, name: &HeaderName, value: HeaderValue) {
    match fields.get_mut(name) {
        Some(old) => {
            let joined = [old.as_bytes(), b", ", value.as_bytes()].concat();
            *old = clean(joined);
        }
        None => {
            fields.insert(name.clone(), value);
        }
    }
}

/// Whether `value` is an element of a list; commas in quotes separate nothing.
fn lists(list: &[u8], value: &[u8]) -> bool {
    let mut quoted = false;
    list.split(|byte| {
        quoted ^= *byte == b'"';
        *byte == b',' && !quoted
    })
    .any(|element| element.trim_ascii_start() == value)
}

/// What `pattern` matches in `value` replaced by `template`, once or each time.
fn replace(pattern: &Pattern, value: &[u8], template: &[u8], every: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len() + template.len());
    let mut at = 0;
    while let Some(captures) = pattern.captures_from(value, at) {
        let Some(range) = captures.range(0) else {
            break;
        };
        out.extend_from_slice(&value[at..range.start]);
        out.extend_from_slice(&pattern::substitute(template, value, &captures));
        at = range.end;
        if range.is_empty() {
            // Nothing was matched: one byte on, or this would not end.
            out.extend(value.get(at));
            at += 1;
        }
        if !every || at >= value.len() || out.len() > LONGEST {
            break;
        }
    }
    out.extend_from_slice(value.get(at..).unwrap_or_default());
    out
}

/// Longest value that editing may make, bytes.
const LONGEST: usize = 64 << 10;

/// A value that can stand in a field: line breaks and other control characters become blanks.
fn clean(mut value: Vec<u8>) -> HeaderValue {
    value.truncate(LONGEST);
    for byte in &mut value {
        if *byte != b'\t' && (*byte < 0x20 || *byte == 0x7F) {
            *byte = b' ';
        }
    }
    HeaderValue::from_maybe_shared(Bytes::from(value)).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests;
