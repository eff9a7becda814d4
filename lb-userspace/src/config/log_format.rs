//! Reads `LogFormat` strings (apache.md 3.24) into items. What a tag prints is telemetry's business,
//! which compiles the same items: what is accepted here is what is written there.

/// Why a format is refused, in httpd's words where it has some.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// No such tag.
    #[error("Unrecognized LogFormat directive %{0}")]
    Unknown(String),
    /// The text ends within a tag.
    #[error("Ran off end of LogFormat parsing args to some directive")]
    Truncated,
    /// The tag needs an argument in braces.
    #[error("LogFormat directive %{0} needs an argument: %{{...}}{0}")]
    NoArgument(String),
    /// The tag has no such argument; httpd writes the argument itself into every line.
    #[error("LogFormat directive %{tag} has no argument {{{argument}}}; it takes {takes}")]
    Argument {
        /// The tag.
        tag: String,
        /// What was written.
        argument: String,
        /// What there is.
        takes: &'static str,
    },
}

/// A part of a format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// Written as it is.
    Text(String),
    /// Filled in for each request.
    Tag(Tag),
}

/// A tag with what stands between `%` and its letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag {
    /// A letter, `^ti` or `^to`.
    pub name: String,
    /// `{...}`; never empty.
    pub argument: Option<String>,
    /// Statuses for which it is written; empty: for all.
    pub statuses: Vec<u16>,
    /// `!`: the statuses are those for which it is not.
    pub negated: bool,
}

/// Reads a format string.
pub fn parse(format: &str) -> Result<Vec<Item>, FormatError> {
    let mut items = Vec::new();
    let mut text = String::new();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '%' if chars.next_if_eq(&'%').is_some() => text.push('%'),
            '%' => {
                if !text.is_empty() {
                    items.push(Item::Text(std::mem::take(&mut text)));
                }
                items.push(Item::Tag(parse_tag(&mut chars)?));
            }
            '\\' => match chars.peek() {
                Some('\\') => text.extend(chars.next()),
                Some('n') => push_escape(&mut text, &mut chars, '\n'),
                Some('t') => push_escape(&mut text, &mut chars, '\t'),
                Some('r') => push_escape(&mut text, &mut chars, '\r'),
                // Anything else stays, backslash included.
                _ => text.push('\\'),
            },
            c => text.push(c),
        }
    }
    if !text.is_empty() {
        items.push(Item::Text(text));
    }
    Ok(items)
}

type Chars<'a> = std::iter::Peekable<std::str::Chars<'a>>;

fn push_escape(text: &mut String, chars: &mut Chars<'_>, meant: char) {
    chars.next();
    text.push(meant);
}

fn parse_tag(chars: &mut Chars<'_>) -> Result<Tag, FormatError> {
    let mut tag = Tag {
        name: String::new(),
        argument: None,
        statuses: Vec::new(),
        negated: false,
    };
    loop {
        match chars.next().ok_or(FormatError::Truncated)? {
            '!' => tag.negated = !tag.negated,
            // Which of several internal redirects is meant: there are none.
            '<' | '>' | ',' => {}
            '{' => tag.argument = argument(chars)?,
            digit @ '0'..='9' => {
                let mut number = digit.to_string();
                while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                    number.push(digit);
                }
                // A number that is no status matches none.
                tag.statuses.push(number.parse().unwrap_or(u16::MAX));
            }
            '^' => {
                tag.name = std::iter::once('^').chain(chars.take(2)).collect();
                break;
            }
            letter => {
                tag.name = letter.to_string();
                break;
            }
        }
    }
    check(&tag)?;
    Ok(tag)
}

fn argument(chars: &mut Chars<'_>) -> Result<Option<String>, FormatError> {
    let mut text = String::new();
    loop {
        match chars.next().ok_or(FormatError::Truncated)? {
            '}' => return Ok((!text.is_empty()).then_some(text)),
            c => text.push(c),
        }
    }
}

fn check(tag: &Tag) -> Result<(), FormatError> {
    let takes = match tag.name.as_str() {
        // With what follows `begin:` or `end:` strftime's business.
        "t" => return Ok(()),
        "a" | "h" | "L" => "c",
        "p" => "canonical, local or remote",
        "P" => "pid, tid or hextid",
        "T" => "s, ms or us",
        // Header fields, trailer fields, cookies, environment, notes, mod_ssl's variables.
        "i" | "o" | "C" | "e" | "n" | "x" | "^ti" | "^to" => {
            return match tag.argument {
                Some(_) => Ok(()),
                None => Err(FormatError::NoArgument(tag.name.clone())),
            };
        }
        name if name.len() == 1 && PLAIN.contains(name) => return Ok(()),
        name => return Err(FormatError::Unknown(name.to_owned())),
    };
    let Some(argument) = &tag.argument else {
        return Ok(());
    };
    let known = takes
        .split([',', ' '])
        .filter(|word| !matches!(*word, "" | "or"))
        // As in httpd, in which only the units have no case.
        .any(|word| word == argument || (tag.name == "T" && word.eq_ignore_ascii_case(argument)));
    if known {
        Ok(())
    } else {
        Err(FormatError::Argument {
            tag: tag.name.clone(),
            argument: argument.clone(),
            takes,
        })
    }
}

/// Tags whose argument, if there is one, means nothing.
const PLAIN: &str = "AlurRmUqHsbBDfvVXkIOS";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_checked() {
        for format in [
            "%h %l %u %t \"%r\" %>s %b",
            "%v:%p %h %l %u %t \"%r\" %>s %O \"%{Referer}i\" \"%{User-Agent}i\"",
            "%400,501{User-agent}i %!200,304{Referer}i %{%Y}t %{ms}T 100%%",
            "%{BALANCER_WORKER_ROUTE}e %{c}a %{JSESSIONID}C %<s",
            "%R %{c}L %L %{x}^ti %{x}^to %{hextid}P %{MS}T %{end:%T}t %{note}n %{SSL_CIPHER}x",
            "plain",
            "",
        ] {
            assert_eq!(parse(format).err(), None, "{format}");
        }
        let ran_off = "Ran off end of LogFormat parsing args to some directive";
        for (format, why) in [
            ("%Q", "Unrecognized LogFormat directive %Q"),
            ("%{a", ran_off),
            ("100%", ran_off),
            ("%i", "LogFormat directive %i needs an argument: %{...}i"),
            ("%{}i", "LogFormat directive %i needs an argument: %{...}i"),
            ("%{x}^xx", "Unrecognized LogFormat directive %^xx"),
            ("%^t", "Unrecognized LogFormat directive %^t"),
            (
                "%{min}T",
                "LogFormat directive %T has no argument {min}; it takes s, ms or us",
            ),
            (
                "%{Remote}p",
                "LogFormat directive %p has no argument {Remote}; it takes canonical, local or remote",
            ),
        ] {
            assert_eq!(
                parse(format).map_err(|e| e.to_string()),
                Err(why.to_owned()),
                "{format}"
            );
        }
    }

    #[test]
    fn statuses_and_escapes_are_read_as_httpd_reads_them() {
        let tag = |name: &str, statuses: &[u16], negated| {
            Item::Tag(Tag {
                name: name.to_owned(),
                argument: Some("X".to_owned()),
                statuses: statuses.to_vec(),
                negated,
            })
        };
        assert_eq!(
            parse("%!200,304{X}i%400{X}o"),
            Ok(vec![tag("i", &[200, 304], true), tag("o", &[400], false)])
        );
        assert_eq!(
            parse("a\\tb\\\\c\\d\\\"%%"),
            Ok(vec![Item::Text("a\tb\\c\\d\\\"%".to_owned())])
        );
    }
}
