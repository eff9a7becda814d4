//! Regular expressions as httpd's directives take them.
//!
//! httpd compiles them with PCRE, byte by byte and with `DOTALL` and `DOLLAR_ENDONLY`; here they
//! run on fancy-regex, whose backtracking is bounded, so that a hostile URL cannot keep a shard
//! busy. [`translate`] carries over what the two write differently. What only PCRE knows (recursion,
//! callouts, verbs) is an error when the pattern is compiled, never a silent difference.

use std::ops::Range;

use fancy_regex::{BytesMode, Regex, RegexBuilder};
use serde::{Deserialize, Serialize};

mod translate;

/// A compiled pattern. It travels between processes as its text.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "Source", into = "Source")]
pub struct Pattern {
    regex: Regex,
    text: String,
    ignores_case: bool,
}

/// What a pattern is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Source {
    text: String,
    ignores_case: bool,
}

/// Why a pattern is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PatternError(String);

/// What a match found. Groups are byte ranges of the subject.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Captures(Vec<Option<Range<usize>>>);

/// Steps of backtracking after which a match is given up as none, as PCRE does at its own limit:
/// some 10 ms.
const MOST_STEPS: usize = 200_000;

/// Longest pattern, bytes.
const MOST_BYTES: usize = 8192;

impl Pattern {
    /// Compiles `text`.
    ///
    /// # Errors
    /// What is wrong with it, in the words of the library that compiles it.
    pub fn new(text: &str, ignores_case: bool) -> Result<Self, PatternError> {
        if text.len() > MOST_BYTES {
            return Err(PatternError(format!(
                "longer than {MOST_BYTES} bytes: {}",
                text.len()
            )));
        }
        let regex = RegexBuilder::new(&translate::translate(text))
            .bytes_mode(BytesMode::Ascii)
            .case_insensitive(ignores_case)
            .dot_matches_new_line(true)
            .backtrack_limit(MOST_STEPS)
            .build()
            .map_err(|error| PatternError(error.to_string()))?;
        Ok(Self {
            regex,
            text: text.to_owned(),
            ignores_case,
        })
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether letters match in either case.
    pub fn ignores_case(&self) -> bool {
        self.ignores_case
    }

    /// Groups besides the whole match.
    pub fn groups(&self) -> usize {
        self.regex.captures_len() - 1
    }

    /// Named groups, with their numbers.
    pub fn names(&self) -> Vec<(usize, String)> {
        let names = self.regex.capture_names().enumerate();
        names
            .filter_map(|(number, name)| Some((number, name?.to_owned())))
            .collect()
    }

    /// Whether it matches anywhere in `subject`.
    pub fn is_match(&self, subject: &[u8]) -> bool {
        self.regex.is_match(subject).unwrap_or(false)
    }

    /// The first match in `subject`.
    pub fn captures(&self, subject: &[u8]) -> Option<Captures> {
        self.captures_from(subject, 0)
    }

    /// The first match in `subject` that begins at byte `from` or later.
    pub fn captures_from(&self, subject: &[u8], from: usize) -> Option<Captures> {
        if from > subject.len() {
            return None;
        }
        let found = self.regex.captures_from_pos(subject, from).ok()??;
        let groups = (0..found.len())
            .map(|number| found.get(number).map(|group| group.start()..group.end()))
            .collect();
        Some(Captures(groups))
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text && self.ignores_case == other.ignores_case
    }
}

impl TryFrom<Source> for Pattern {
    type Error = PatternError;

    fn try_from(source: Source) -> Result<Self, PatternError> {
        Self::new(&source.text, source.ignores_case)
    }
}

impl From<Pattern> for Source {
    fn from(pattern: Pattern) -> Self {
        Self {
            text: pattern.text,
            ignores_case: pattern.ignores_case,
        }
    }
}

/// Fills `$0` to `$9` and `&` of `template` in with the groups of a match, as httpd's directives
/// do: `\$` and `\&` are the characters themselves.
pub fn substitute(template: &[u8], subject: &[u8], captures: &Captures) -> Vec<u8> {
    let mut out = Vec::with_capacity(template.len() + 16);
    let mut bytes = template.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        match (byte, bytes.peek().copied()) {
            (b'&', _) => out.extend_from_slice(captures.group(subject, 0)),
            (b'$', Some(digit @ b'0'..=b'9')) => {
                bytes.next();
                let number = usize::from(digit - b'0');
                out.extend_from_slice(captures.group(subject, number));
            }
            (b'\\', Some(escaped @ (b'$' | b'&'))) => {
                bytes.next();
                out.push(escaped);
            }
            _ => out.push(byte),
        }
    }
    out
}

impl Captures {
    /// The bytes of `subject` that group `number` matched; empty if it took no part.
    pub fn group<'s>(&self, subject: &'s [u8], number: usize) -> &'s [u8] {
        self.range(number)
            .and_then(|range| subject.get(range))
            .unwrap_or_default()
    }

    /// Where group `number` matched.
    pub fn range(&self, number: usize) -> Option<Range<usize>> {
        self.0.get(number)?.clone()
    }
}

#[cfg(test)]
mod tests;
