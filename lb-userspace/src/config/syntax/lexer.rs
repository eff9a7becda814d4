//! Physical lines to logical lines to words, each knowing where it stands (apache.md 1.1).
//!
//! Pure: `${NAME}` is looked up through a function of the caller's.

use std::path::PathBuf;

/// A file that was read, with its lines found. Kept as long as something may be said about it.
#[derive(Debug)]
pub(crate) struct FileText {
    /// Its path, as it was named.
    pub path: PathBuf,
    text: String,
    /// Byte at which each line begins.
    starts: Vec<u32>,
}

impl FileText {
    /// Takes a file's bytes, at most 4 GiB; what is not UTF-8 becomes U+FFFD.
    pub(crate) fn new(path: PathBuf, bytes: Vec<u8>) -> Self {
        let text = match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        };
        let starts = std::iter::once(0)
            .chain(text.match_indices('\n').map(|(at, _)| at as u32 + 1))
            .collect();
        Self { path, text, starts }
    }

    /// A line by number from 1, with its newline; empty beyond the end.
    fn raw_line(&self, number: u32) -> &str {
        let at = number as usize;
        let Some(&start) = at.checked_sub(1).and_then(|i| self.starts.get(i)) else {
            return "";
        };
        let end = self.starts.get(at).map_or(self.text.len(), |e| *e as usize);
        &self.text[start as usize..end]
    }

    /// A line by number from 1, without its newline; empty beyond the end.
    pub(crate) fn line(&self, number: u32) -> &str {
        let line = self.raw_line(number);
        let line = line.strip_suffix('\n').unwrap_or(line);
        line.strip_suffix('\r').unwrap_or(line)
    }

    /// Number of the last line that holds anything, at least 1.
    pub(crate) fn last_line(&self) -> u32 {
        let count = self.starts.len() as u32;
        if count > 1 && self.raw_line(count).is_empty() {
            count - 1
        } else {
            count
        }
    }
}

/// Where a word stands in its file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    /// Physical line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// Characters, at least 1.
    pub width: u32,
}

/// One word of a directive, unquoted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Word {
    /// Its text.
    pub text: String,
    /// Where it stands.
    pub span: Span,
}

/// A directive's text with continuations joined, blanks at both ends gone, variables replaced.
#[derive(Debug, Default)]
pub(crate) struct Logical {
    /// The text.
    pub text: String,
    /// Its last physical line: the number httpd reports.
    pub line: u32,
    pieces: Vec<Piece>,
}

/// A stretch of a logical line that comes from one place.
#[derive(Clone, Copy, Debug)]
struct Piece {
    /// First byte in the logical text.
    at: usize,
    /// Where that byte stands.
    line: u32,
    column: u32,
    /// 0: the text is as in the file. Else it replaced this many characters.
    replaced: u32,
}

/// Iterates over the logical lines of a file: comments and empty lines are passed over.
pub(crate) struct Lines<'a> {
    file: &'a FileText,
    next: u32,
}

impl<'a> Lines<'a> {
    /// From the top.
    pub(crate) fn new(file: &'a FileText) -> Self {
        Self { file, next: 1 }
    }
}

impl Iterator for Lines<'_> {
    type Item = Logical;

    fn next(&mut self) -> Option<Logical> {
        loop {
            if self.next as usize > self.file.starts.len() {
                return None;
            }
            let logical = self.join();
            if !logical.text.is_empty() && !logical.text.starts_with('#') {
                return Some(logical);
            }
        }
    }
}

impl Lines<'_> {
    /// Joins one logical line. Comments continue too: httpd joins before it looks at the `#`.
    fn join(&mut self) -> Logical {
        let mut logical = Logical::default();
        loop {
            let number = self.next;
            self.next += 1;
            let raw = self.file.raw_line(number);
            // Only a backslash before a newline continues: not one at the end of the file.
            let (content, continued) = match raw.strip_suffix('\n') {
                None => (raw, false),
                Some(line) => {
                    let line = line.strip_suffix('\r').unwrap_or(line);
                    match line.strip_suffix('\\') {
                        Some(content) => (content, true),
                        None => (line, false),
                    }
                }
            };
            logical.pieces.push(Piece {
                at: logical.text.len(),
                line: number,
                column: 1,
                replaced: 0,
            });
            logical.text.push_str(content);
            logical.line = number;
            if !continued || self.next as usize > self.file.starts.len() {
                break;
            }
        }
        logical.trim();
        logical
    }
}

impl Logical {
    fn trim(&mut self) {
        let end = self.text.trim_end_matches(is_blank).len();
        self.text.truncate(end);
        let blanks = self.text.len() - self.text.trim_start_matches(is_blank).len();
        if blanks == 0 {
            return;
        }
        let (line, column) = self.position(blanks);
        self.text.drain(..blanks);
        self.pieces.retain_mut(|piece| {
            if piece.at < blanks {
                return false;
            }
            piece.at -= blanks;
            true
        });
        if self.pieces.first().is_none_or(|piece| piece.at > 0) {
            self.pieces.insert(
                0,
                Piece {
                    at: 0,
                    line,
                    column,
                    replaced: 0,
                },
            );
        }
    }

    fn piece(&self, at: usize) -> Option<(Piece, usize)> {
        let index = self
            .pieces
            .partition_point(|piece| piece.at <= at)
            .checked_sub(1)?;
        Some((self.pieces[index], index))
    }

    /// Line and column of a byte of the text.
    fn position(&self, at: usize) -> (u32, u32) {
        let Some((piece, _)) = self.piece(at) else {
            return (self.line, 1);
        };
        if piece.replaced > 0 {
            return (piece.line, piece.column);
        }
        let before = self.text.get(piece.at..at).unwrap_or_default();
        (piece.line, piece.column + before.chars().count() as u32)
    }

    /// Where `text[from..to]` stands; cut at the end of its first physical line.
    pub(crate) fn span(&self, from: usize, to: usize) -> Span {
        let (line, column) = self.position(from);
        let last = to.saturating_sub(1).max(from);
        // The last character, not the last byte, so that its column can be counted.
        let last = (0..=last)
            .rev()
            .find(|at| self.text.is_char_boundary(*at))
            .unwrap_or(0);
        let (last_line, last_column) = self.position(last);
        let tail = self
            .piece(last)
            .map_or(1, |(piece, _)| piece.replaced.max(1));
        let width = if last_line == line && last_column >= column {
            last_column - column + tail
        } else {
            1
        };
        Span {
            line,
            column,
            width,
        }
    }

    /// The whole line.
    pub(crate) fn whole(&self) -> Span {
        self.span(0, self.text.len())
    }

    /// Replaces each `${NAME}` that `lookup` knows. `unknown` is told the others, with their place;
    /// names with a colon (mod_rewrite's maps) are left alone. Nothing is replaced twice.
    ///
    /// Returns `false` when the text would grow beyond `limit` bytes; it is then left half done.
    pub(crate) fn substitute(
        &mut self,
        limit: usize,
        lookup: impl Fn(&str) -> Option<String>,
        mut unknown: impl FnMut(&str, Span),
    ) -> bool {
        if !self.text.contains("${") {
            return self.text.len() <= limit;
        }
        let mut out = Self {
            line: self.line,
            ..Self::default()
        };
        let mut from = 0;
        while let Some(found) = self.text[from..].find("${") {
            let dollar = from + found;
            let Some(length) = self.text[dollar..].find('}') else {
                break;
            };
            let end = dollar + length + 1;
            let name = &self.text[dollar + 2..end - 1];
            let value = if name.is_empty() || name.contains(':') {
                None
            } else {
                let value = lookup(name);
                if value.is_none() {
                    unknown(name, self.span(dollar, end));
                }
                value
            };
            let Some(value) = value else {
                self.copy(from, dollar + 2, &mut out);
                from = dollar + 2;
                continue;
            };
            self.copy(from, dollar, &mut out);
            let span = self.span(dollar, end);
            out.pieces.push(Piece {
                at: out.text.len(),
                line: span.line,
                column: span.column,
                replaced: span.width,
            });
            out.text.push_str(&value);
            if out.text.len() > limit {
                return false;
            }
            from = end;
        }
        self.copy(from, self.text.len(), &mut out);
        *self = out;
        self.text.len() <= limit
    }

    /// Appends `text[from..to]` with its places to `out`.
    fn copy(&self, from: usize, to: usize, out: &mut Self) {
        if from >= to {
            return;
        }
        let base = out.text.len();
        let (line, column) = self.position(from);
        let Some((first, index)) = self.piece(from) else {
            return;
        };
        out.pieces.push(Piece {
            at: base,
            line,
            column,
            replaced: first.replaced,
        });
        for piece in &self.pieces[index + 1..] {
            if piece.at >= to {
                break;
            }
            out.pieces.push(Piece {
                at: base + piece.at - from,
                ..*piece
            });
        }
        out.text.push_str(&self.text[from..to]);
    }

    /// The words of `text[from..to]`.
    pub(crate) fn words(&self, from: usize, to: usize) -> Vec<Word> {
        let mut words = Vec::new();
        let mut at = from;
        while let Some((text, start, end)) = split_word(&self.text[..to], at) {
            words.push(Word {
                text,
                span: self.span(start, end),
            });
            at = end;
        }
        words
    }
}

/// The next word of `text` from byte `at`: unquoted text, first byte, byte after it.
///
/// A word that begins with a quote runs to the next such quote that no backslash stands before, or
/// to the end; a quote inside a word is literal.
fn split_word(text: &str, at: usize) -> Option<(String, usize, usize)> {
    let rest = &text[at..];
    let start = at + (rest.len() - rest.trim_start_matches(is_blank).len());
    let mut chars = text[start..].char_indices().peekable();
    let (_, first) = *chars.peek()?;
    let quote = (first == '"' || first == '\'').then_some(first);
    if quote.is_some() {
        chars.next();
    }
    let mut word = String::new();
    while let Some((offset, c)) = chars.next() {
        match (c, chars.peek().map(|(_, next)| *next)) {
            ('\\', Some('\\')) => {
                word.push('\\');
                chars.next();
            }
            ('\\', Some(next)) if Some(next) == quote => {
                word.push(next);
                chars.next();
            }
            (c, _) if Some(c) == quote => return Some((word, start, start + offset + 1)),
            (c, _) if quote.is_none() && is_blank(c) => return Some((word, start, start + offset)),
            (c, _) => word.push(c),
        }
    }
    Some((word, start, text.len()))
}

/// What follows the first word of a raw line.
pub(crate) fn rest_after_word(raw: &str) -> &str {
    let end = split_word(raw, 0).map_or(raw.len(), |(_, _, end)| end);
    raw[end..].trim_start_matches(is_blank)
}

/// The next word of a raw line, which may stand in braces that nest (`{a {b} c}`), and what
/// follows it. Braces without an end reach to the end of the line.
pub(crate) fn braced(raw: &str) -> (String, &str) {
    let raw = raw.trim_start_matches(is_blank);
    if !raw.starts_with('{') {
        let (word, _, end) = split_word(raw, 0).unwrap_or_default();
        return (word, raw[end..].trim_start_matches(is_blank));
    }
    let mut depth = 0;
    let mut escaped = false;
    let mut text = String::new();
    for (at, c) in raw.char_indices() {
        match c {
            '\\' if !escaped => {
                escaped = true;
                continue;
            }
            '{' if !escaped => {
                depth += 1;
                if depth == 1 {
                    continue;
                }
            }
            '}' if !escaped => {
                depth -= 1;
                if depth == 0 {
                    return (text, raw[at + 1..].trim_start_matches(is_blank));
                }
            }
            '{' | '}' | '\\' => {}
            _ if escaped => text.push('\\'),
            _ => {}
        }
        escaped = false;
        text.push(c);
    }
    (text, "")
}

/// What separates words: C's isspace in the C locale.
pub(crate) fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c')
}

#[cfg(test)]
mod tests;
