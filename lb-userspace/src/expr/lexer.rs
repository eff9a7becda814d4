//! From the text of an expression to tokens.
//!
//! What a character means depends on where it stands (operators outside, text inside of strings,
//! names inside of `%{}`), so the parser asks for one token at a time and says in which mode.

use super::ExprError;

/// A token outside of strings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    End,
    True,
    False,
    And,
    Or,
    Not,
    /// A comparison.
    Compare(Comparison),
    /// `=~`.
    Matches,
    /// `!~`.
    MatchesNot,
    /// `-in` or `in`.
    In,
    /// `-n`: the letter.
    Unary(char),
    /// `-ipmatch`: the name.
    Binary(String),
    /// `.`
    Dot,
    Digits(String),
    Name(String),
    /// `'` or `"`: a string begins.
    Quote(char),
    /// `%{`
    Variable,
    /// `$1`
    Group(usize),
    /// `/.../i` or `m#...#i`: pattern, and whether case is ignored.
    Regex(String, bool),
    /// One of `(){},:`.
    Mark(char),
}

/// How two words are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    /// As bytes, `strcmp`.
    Text(Order),
    /// As whole numbers, leading digits only.
    Number(Order),
}

/// Which outcome of a comparison is true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Order {
    pub(super) fn holds(self, outcome: std::cmp::Ordering) -> bool {
        match self {
            Self::Equal => outcome.is_eq(),
            Self::Unequal => outcome.is_ne(),
            Self::Less => outcome.is_lt(),
            Self::LessOrEqual => outcome.is_le(),
            Self::Greater => outcome.is_gt(),
            Self::GreaterOrEqual => outcome.is_ge(),
        }
    }
}

/// A piece of a string, or of a function's argument in `%{name:argument}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Text(Vec<u8>),
    /// `%{`
    Variable,
    Group(usize),
    /// The delimiter.
    End,
}

/// What ends a string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    /// A quote.
    Quote(char),
    /// `}` of `%{name:argument}`.
    Brace,
    /// The end of the text.
    End,
}

/// Tokens of one text.
#[derive(Debug)]
pub(super) struct Lexer<'t> {
    rest: &'t str,
}

impl<'t> Lexer<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { rest: text }
    }

    fn take(&mut self, bytes: usize) -> &'t str {
        let (taken, rest) = self.rest.split_at(bytes);
        self.rest = rest;
        taken
    }

    /// The next token outside of strings.
    pub(super) fn token(&mut self) -> Result<Token, ExprError> {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\n']);
        let Some(first) = self.rest.chars().next() else {
            return Ok(Token::End);
        };
        for (mark, token) in MARKS {
            if self.rest.starts_with(mark) {
                self.take(mark.len());
                return Ok(token.clone());
            }
        }
        match first {
            '"' | '\'' => {
                self.take(1);
                Ok(Token::Quote(first))
            }
            '(' | ')' | '{' | '}' | ',' | ':' => {
                self.take(1);
                Ok(Token::Mark(first))
            }
            '$' if self.rest[1..].starts_with(|c: char| c.is_ascii_digit()) => {
                Ok(Token::Group(self.group()))
            }
            '/' => {
                self.take(1);
                self.regex('/')
            }
            'm' if self.rest[1..].starts_with(DELIMITERS) && !self.rest.starts_with("m_") => {
                let delimiter = self.take(2).chars().next_back().unwrap_or('/');
                self.regex(delimiter)
            }
            '-' => self.dash(),
            '0'..='9' => Ok(Token::Digits(self.word(0).to_owned())),
            c if c.is_ascii_alphabetic() => Ok(name(self.name())),
            c => Err(ExprError::Unexpected(format!("'{c}'"))),
        }
    }

    /// `$1`.
    fn group(&mut self) -> usize {
        usize::from(self.take(2).as_bytes()[1] - b'0')
    }

    /// A letter or a digit and what follows of letters, digits and `_`, after `skip` bytes.
    fn word(&mut self, skip: usize) -> &'t str {
        let digits = self.rest[skip..].starts_with(|c: char| c.is_ascii_digit());
        let inside = |c: char| {
            if digits {
                c.is_ascii_digit()
            } else {
                c.is_ascii_alphanumeric() || c == '_'
            }
        };
        let rest = &self.rest[skip..];
        let end = rest.find(|c| !inside(c)).unwrap_or(rest.len());
        self.take(skip + end)
    }

    /// The name of a variable or function; empty if none stands here.
    pub(super) fn name(&mut self) -> &'t str {
        if self.rest.starts_with(|c: char| c.is_ascii_alphabetic()) {
            self.word(0)
        } else {
            ""
        }
    }

    /// The character after a variable's name.
    pub(super) fn after_name(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.take(c.len_utf8());
        Some(c)
    }

    /// A minus: a number, an operator.
    fn dash(&mut self) -> Result<Token, ExprError> {
        let next = self.rest[1..].chars().next();
        match next {
            Some('0'..='9') => Ok(Token::Digits(self.word(1).to_owned())),
            Some(c) if c.is_ascii_alphabetic() || c == '_' => {
                let word = &self.word(1)[1..];
                let mut letters = word.chars();
                Ok(match (letters.next(), letters.next()) {
                    (Some(letter), None) => Token::Unary(letter),
                    _ if word == "in" => Token::In,
                    _ => match number(word) {
                        Some(order) => Token::Compare(Comparison::Number(order)),
                        None => Token::Binary(word.to_owned()),
                    },
                })
            }
            _ => Err(ExprError::Unexpected("'-'".to_owned())),
        }
    }

    /// A pattern, after its first delimiter.
    fn regex(&mut self, delimiter: char) -> Result<Token, ExprError> {
        let end = self.rest.find(delimiter).ok_or(ExprError::Unterminated)?;
        let text = self.take(end).to_owned();
        self.take(delimiter.len_utf8());
        let ignores_case = self.rest.starts_with('i');
        if ignores_case {
            self.take(1);
        }
        Ok(Token::Regex(text, ignores_case))
    }

    /// The next piece of a string.
    pub(super) fn piece(&mut self, until: Until) -> Result<Piece, ExprError> {
        let mut text = Vec::new();
        loop {
            let Some(c) = self.rest.chars().next() else {
                return match until {
                    Until::End if text.is_empty() => Ok(Piece::End),
                    Until::End => Ok(Piece::Text(text)),
                    _ => Err(ExprError::Unterminated),
                };
            };
            let group = c == '$' && self.rest[1..].starts_with(|c: char| c.is_ascii_digit());
            let variable = self.rest.starts_with("%{");
            let ends = match until {
                Until::Quote(quote) => c == quote,
                Until::Brace => c == '}',
                Until::End => false,
            };
            if (group || variable || ends) && !text.is_empty() {
                return Ok(Piece::Text(text));
            }
            if group {
                return Ok(Piece::Group(self.group()));
            }
            if variable {
                self.take(2);
                return Ok(Piece::Variable);
            }
            if ends {
                self.take(c.len_utf8());
                return Ok(Piece::End);
            }
            match c {
                '\n' => return Err(ExprError::Unterminated),
                '\\' => self.escape(&mut text)?,
                // httpd's scanner has no rule for quotes in there.
                '"' | '\'' if until == Until::Brace => {
                    return Err(ExprError::Unexpected(format!("{c} in an argument")));
                }
                _ => text.extend_from_slice(self.take(c.len_utf8()).as_bytes()),
            }
        }
    }

    /// `\n`, `\012`, `\"`.
    fn escape(&mut self, text: &mut Vec<u8>) -> Result<(), ExprError> {
        let rest = &self.rest.as_bytes()[1..];
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let octal = rest
            .iter()
            .take(3)
            .take_while(|byte| (b'0'..=b'7').contains(*byte))
            .count();
        // The longer rule wins: more digits than an octal number has are an error.
        if digits > octal {
            return Err(ExprError::BadEscape);
        }
        if octal > 0 {
            let number = u32::from_str_radix(&self.rest[1..=octal], 8);
            let byte = number.ok().and_then(|n| u8::try_from(n).ok());
            text.push(byte.ok_or(ExprError::BadEscape)?);
            self.take(1 + octal);
            return Ok(());
        }
        self.take(1);
        let c = self.rest.chars().next().ok_or(ExprError::Unterminated)?;
        let taken = self.take(c.len_utf8());
        match c {
            'n' => text.push(b'\n'),
            'r' => text.push(b'\r'),
            't' => text.push(b'\t'),
            'b' => text.push(8),
            'f' => text.push(12),
            _ => text.extend_from_slice(taken.as_bytes()),
        }
        Ok(())
    }
}

/// A word that stands alone.
fn name(word: &str) -> Token {
    match word {
        "true" => Token::True,
        "false" => Token::False,
        "and" => Token::And,
        "or" => Token::Or,
        "not" => Token::Not,
        "in" => Token::In,
        _ => match number(word) {
            Some(order) => Token::Compare(Comparison::Number(order)),
            None => Token::Name(word.to_owned()),
        },
    }
}

fn number(word: &str) -> Option<Order> {
    Some(match word {
        "eq" => Order::Equal,
        "ne" => Order::Unequal,
        "lt" => Order::Less,
        "le" => Order::LessOrEqual,
        "gt" => Order::Greater,
        "ge" => Order::GreaterOrEqual,
        _ => return None,
    })
}

/// What may stand around a pattern after `m`. httpd also has `_`, which is mostly part of a name.
const DELIMITERS: [char; 15] = [
    '/', '#', '$', '%', '^', ',', ';', ':', '?', '|', '-', '!', '.', '\'', '"',
];

/// Operators that are no words, the longer before its beginning.
const MARKS: &[(&str, Token)] = &[
    ("%{", Token::Variable),
    ("==", Token::Compare(Comparison::Text(Order::Equal))),
    ("=~", Token::Matches),
    ("=", Token::Compare(Comparison::Text(Order::Equal))),
    ("!=", Token::Compare(Comparison::Text(Order::Unequal))),
    ("!~", Token::MatchesNot),
    ("!", Token::Not),
    ("<=", Token::Compare(Comparison::Text(Order::LessOrEqual))),
    ("<", Token::Compare(Comparison::Text(Order::Less))),
    (
        ">=",
        Token::Compare(Comparison::Text(Order::GreaterOrEqual)),
    ),
    (">", Token::Compare(Comparison::Text(Order::Greater))),
    ("&&", Token::And),
    ("||", Token::Or),
    (".", Token::Dot),
];
