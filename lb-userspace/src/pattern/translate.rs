//! From PCRE's syntax to fancy-regex's, where the same text means something else.

use std::borrow::Cow;

/// `pattern` as fancy-regex has to see it.
///
/// - In a class `[`, `&&`, `~~` are characters (there: nested classes and set operations).
/// - `{` that begins no repetition, and a `}` without one, are characters.
/// - `\<` and `\>` are characters (there: edges of words).
/// - `$` is the end of the subject alone, and so is `\Z`.
pub(super) fn translate(pattern: &str) -> Cow<'_, str> {
    if !pattern.contains(['[', '{', '}', '\\']) {
        return Cow::Borrowed(pattern);
    }
    let mut out = String::with_capacity(pattern.len() + 8);
    let mut rest = pattern;
    while let Some(c) = rest.chars().next() {
        let taken = match c {
            '\\' => escape(rest, &mut out),
            '[' => class(rest, &mut out),
            '{' => repetition(rest, &mut out),
            '}' => {
                out.push_str("\\}");
                1
            }
            other => {
                out.push(other);
                other.len_utf8()
            }
        };
        rest = &rest[taken..];
    }
    Cow::Owned(out)
}

/// An escape outside of classes; returns the bytes it took.
fn escape(rest: &str, out: &mut String) -> usize {
    let Some(next) = rest[1..].chars().next() else {
        // Alone at the end: let the compiler name it.
        out.push('\\');
        return 1;
    };
    match next {
        '<' | '>' => out.push(next),
        'Z' => out.push_str("\\z"),
        // The braces after these are theirs.
        'x' | 'p' | 'P' | 'k' | 'g' | 'o' if rest[2..].starts_with('{') => {
            let end = rest.find('}').map_or(rest.len(), |at| at + 1);
            out.push_str(&rest[..end]);
            return end;
        }
        _ => {
            out.push('\\');
            out.push(next);
        }
    }
    1 + next.len_utf8()
}

/// A class, from its `[`; returns the bytes it took. Without an end: its `[` alone, for the
/// compiler to complain of.
fn class(rest: &str, out: &mut String) -> usize {
    let mut inner = String::from("[");
    let mut at = 1;
    if rest[at..].starts_with('^') {
        inner.push('^');
        at += 1;
    }
    // The first `]` is a character.
    if rest[at..].starts_with(']') {
        inner.push_str("\\]");
        at += 1;
    }
    while let Some(c) = rest[at..].chars().next() {
        match c {
            ']' => {
                inner.push(']');
                out.push_str(&inner);
                return at + 1;
            }
            '[' if rest[at..].starts_with("[:") => {
                if let Some(end) = rest[at..].find(":]") {
                    inner.push_str(&rest[at..at + end + 2]);
                    at += end + 2;
                    continue;
                }
                inner.push_str("\\[");
            }
            '[' | '&' | '~' => {
                inner.push('\\');
                inner.push(c);
            }
            '\\' => {
                let Some(next) = rest[at + 1..].chars().next() else {
                    break;
                };
                match next {
                    '<' | '>' => inner.push(next),
                    // A backspace in PCRE's classes.
                    'b' => inner.push_str("\\x08"),
                    _ => {
                        inner.push('\\');
                        inner.push(next);
                    }
                }
                at += next.len_utf8();
            }
            other => inner.push(other),
        }
        at += c.len_utf8();
    }
    out.push('[');
    1
}

/// `{`: a repetition (`{2}`, `{2,}`, `{2,5}`) or a character; returns the bytes it took.
fn repetition(rest: &str, out: &mut String) -> usize {
    let end = rest.find('}').unwrap_or(0);
    let inside = rest.get(1..end).unwrap_or_default();
    let (low, high) = inside.split_once(',').unwrap_or((inside, ""));
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !low.is_empty() && is_number(low) && is_number(high) {
        out.push_str(&rest[..=end]);
        return end + 1;
    }
    out.push_str("\\{");
    1
}
