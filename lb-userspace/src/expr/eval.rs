//! Evaluation. It cannot fail, reads as much as it must, and ends: a tree has no loops.

use std::borrow::Cow;

use super::{
    Facts, Table, fnmatch,
    functions::{self, Function},
    lexer::Comparison,
    parser::{Condition, Word},
    variables::Variable,
};
use crate::pattern::Captures;

/// What an evaluation keeps: the groups of the last match that had any.
pub(super) struct State<'f> {
    facts: &'f dyn Facts,
    matched: Option<(Vec<u8>, Captures)>,
}

impl<'f> State<'f> {
    pub(super) fn new(facts: &'f dyn Facts) -> Self {
        Self {
            facts,
            matched: None,
        }
    }

    /// The last match that had groups: its subject, and they.
    pub(super) fn groups(self) -> Option<(Vec<u8>, Captures)> {
        self.matched
    }

    pub(super) fn condition(&mut self, condition: &Condition) -> bool {
        match condition {
            Condition::Constant(holds) => *holds,
            Condition::Not(negated) => !self.condition(negated),
            Condition::And(parts) => parts.iter().all(|part| self.condition(part)),
            Condition::Or(parts) => parts.iter().any(|part| self.condition(part)),
            Condition::Compare(comparison, left, right) => {
                let (left, right) = (self.word(left), self.word(right));
                match comparison {
                    Comparison::Text(order) => order.holds(left.cmp(&right)),
                    Comparison::Number(order) => order.holds(number(&left).cmp(&number(&right))),
                }
            }
            Condition::Matches(word, pattern, expected) => {
                let subject = self.word(word);
                if pattern.groups() == 0 {
                    return pattern.is_match(&subject) == *expected;
                }
                let found = pattern.captures(&subject);
                let matches = found.is_some();
                let subject = subject.into_owned();
                self.matched = found.map(|captures| (subject, captures));
                matches == *expected
            }
            Condition::In(needle, list) => {
                let needle = self.word(needle);
                list.iter().any(|word| self.word(word) == needle)
            }
            Condition::Filled(word, expected) => self.word(word).is_empty() != *expected,
            Condition::Truthy(word) => {
                let word = self.word(word).to_ascii_lowercase();
                !matches!(&word[..], b"" | b"off" | b"no" | b"false" | b"0")
            }
            Condition::Remote(net) => self
                .facts
                .remote()
                .is_some_and(|address| net.contains(address.to_canonical())),
            Condition::InNet(word, net) => {
                let text = self.word(word);
                std::str::from_utf8(&text)
                    .ok()
                    .and_then(|text| text.parse::<std::net::IpAddr>().ok())
                    .is_some_and(|address| net.contains(address.to_canonical()))
            }
            Condition::Wild(text, pattern, options) => {
                let (text, pattern) = (self.word(text), self.word(pattern));
                fnmatch::matches(&pattern, &text, *options)
            }
        }
    }

    pub(super) fn word<'w>(&mut self, word: &'w Word) -> Cow<'w, [u8]>
    where
        'f: 'w,
    {
        match word {
            Word::Text(text) => Cow::Borrowed(text),
            Word::Variable(Variable::Constant(text)) => Cow::Borrowed(text.as_bytes()),
            Word::Variable(Variable::Time(part)) => {
                Cow::Owned(self.facts.now().part(*part).into_bytes())
            }
            Word::Variable(Variable::Field(name)) => self
                .facts
                .entry(Table::Request, name.as_bytes())
                .unwrap_or_default(),
            Word::Variable(variable) => self.facts.variable(variable).unwrap_or_default(),
            Word::Group(number) => match &self.matched {
                Some((subject, captures)) => Cow::Owned(captures.group(subject, *number).to_vec()),
                None => Cow::Borrowed(&[]),
            },
            Word::Join(parts) => {
                let mut joined = Vec::new();
                for part in parts {
                    joined.extend_from_slice(&self.word(part));
                }
                Cow::Owned(joined)
            }
            Word::Call(function, argument) => {
                let argument = self.word(argument);
                match function {
                    Function::Entry(table) => Cow::Owned(self.entry(*table, &argument)),
                    Function::AnyEnvironment => {
                        let tables = [Table::Notes, Table::Environment, Table::Process];
                        let found = tables
                            .into_iter()
                            .find_map(|table| self.facts.entry(table, &argument));
                        Cow::Owned(found.unwrap_or_default().into_owned())
                    }
                    function => Cow::Owned(functions::pure(*function, argument)),
                }
            }
        }
    }

    fn entry(&self, table: Table, name: &[u8]) -> Vec<u8> {
        let found = self.facts.entry(table, name);
        found.unwrap_or_default().into_owned()
    }
}

/// A whole number as C's `strtoll` reads it: white space, a sign, digits; too large is the
/// largest.
pub(crate) fn number(text: &[u8]) -> i64 {
    let text = text.trim_ascii_start();
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] | digits => (false, digits),
    };
    let mut number: i64 = 0;
    for digit in digits.iter().take_while(|byte| byte.is_ascii_digit()) {
        let digit = i64::from(*digit - b'0');
        number = number.saturating_mul(10);
        number = if negative {
            number.saturating_sub(digit)
        } else {
            number.saturating_add(digit)
        };
    }
    number
}
