//! Reads `ErrorLogFormat` strings into fields: runs of items between blanks. A field of which an item
//! has nothing to say is left out as a whole, as in httpd.

/// Why a format is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// No such tag.
    #[error("Unrecognized error log format directive %{0}")]
    Unknown(char),
    /// The text ends within a tag.
    #[error("Ran off end of error log format parsing args to some directive")]
    Truncated,
    /// Without the message no line says anything.
    #[error("no %M in the format: no line would say what happened")]
    NoMessage,
}

/// A part of a format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// Written as it is.
    Text(String),
    /// A field ends here and another begins.
    Boundary,
    /// Filled in for each line.
    Tag(Tag),
}

/// A tag with what stands between `%` and its letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag {
    /// The letter.
    pub name: char,
    /// `{...}`, else empty.
    pub argument: String,
    /// Written for lines of this severity (0: emerg to 7: debug, 8 and above: trace) or less
    /// important ones only.
    pub least: u8,
    /// `-`: a hyphen stands for nothing.
    pub hyphen: bool,
    /// `+`: without it there is no line.
    pub required: bool,
}

/// Reads a format string.
pub fn parse(format: &str) -> Result<Vec<Item>, FormatError> {
    let mut items = Vec::new();
    let mut text = String::new();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' => text.push(match chars.next() {
                Some('n') => '\n',
                Some('r') => '\r',
                Some('t') => '\t',
                // `\ ` is a blank that ends no field.
                Some(c) => c,
                None => '\\',
            }),
            ' ' => {
                flush(&mut items, &mut text);
                items.push(Item::Boundary);
                text.push(' ');
            }
            '%' if chars.next_if_eq(&'%').is_some() => text.push('%'),
            '%' => {
                flush(&mut items, &mut text);
                // `% ` ends a field and writes nothing.
                if chars.next_if_eq(&' ').is_some() {
                    items.push(Item::Boundary);
                } else {
                    items.push(Item::Tag(parse_tag(&mut chars)?));
                }
            }
            c => text.push(c),
        }
    }
    flush(&mut items, &mut text);
    let has_message = |item: &Item| matches!(item, Item::Tag(tag) if tag.name == 'M');
    if items.iter().any(has_message) {
        Ok(items)
    } else {
        Err(FormatError::NoMessage)
    }
}

fn flush(items: &mut Vec<Item>, text: &mut String) {
    if !text.is_empty() {
        items.push(Item::Text(std::mem::take(text)));
    }
}

fn parse_tag(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<Tag, FormatError> {
    let mut tag = Tag {
        name: ' ',
        argument: String::new(),
        least: 0,
        hyphen: false,
        required: false,
    };
    loop {
        match chars.next().ok_or(FormatError::Truncated)? {
            '-' => tag.hyphen = true,
            '+' => tag.required = true,
            digit @ '0'..='9' => tag.least = digit as u8 - b'0',
            '{' => loop {
                match chars.next().ok_or(FormatError::Truncated)? {
                    '}' => break,
                    c => tag.argument.push(c),
                }
            },
            name if TAGS.contains(name) => {
                tag.name = name;
                return Ok(tag);
            }
            name => return Err(FormatError::Unknown(name)),
        }
    }
}

const TAGS: &str = "aAeEFikLlmMnPTtvV";

/// Tags of which sluice has nothing to say, so that their fields are left out: local address,
/// environment, error number (it is in the message), request fields, requests before, notes.
pub fn is_empty(tag: &Tag) -> bool {
    "AeEikn".contains(tag.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_checked() {
        let default =
            r"[%{u}t] [%-m:%l] [pid %P:tid %T] %7F: %E: [client\ %a] %M% ,\ referer\ %{Referer}i";
        for format in [default, "%M", "%+M %{c}L 100%% \\n"] {
            assert_eq!(parse(format).err(), None, "{format}");
        }
        assert_eq!(parse("%M %Q"), Err(FormatError::Unknown('Q')));
        assert_eq!(parse("%M %{"), Err(FormatError::Truncated));
        assert_eq!(parse("%M %-"), Err(FormatError::Truncated));
        assert_eq!(parse("[%t]"), Err(FormatError::NoMessage));
    }

    #[test]
    fn blanks_part_fields_unless_they_are_escaped() {
        let boundaries = |format: &str| {
            let items = parse(format).expect("a format");
            items.iter().filter(|i| **i == Item::Boundary).count()
        };
        assert_eq!(boundaries("[%t] %M"), 1);
        assert_eq!(boundaries("[%t]\\ %M"), 0);
        assert_eq!(boundaries("[%t]% %M"), 1);
    }
}
