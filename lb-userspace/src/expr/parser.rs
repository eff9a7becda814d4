//! From tokens to a tree, by recursive descent: `or` binds weakest, then `and`, then `not`; a dot
//! joins words before they are compared.

use super::{
    Dialect, ExprError, Table,
    functions::Function,
    lexer::{Comparison, Lexer, Piece, Token, Until},
    variables::Variable,
};
use crate::{config::spec::Prefix, pattern::Pattern};

/// Something that holds or does not.
#[derive(Debug)]
pub(super) enum Condition {
    Constant(bool),
    Not(Box<Self>),
    And(Vec<Self>),
    Or(Vec<Self>),
    Compare(Comparison, Word, Word),
    /// `=~`; false: `!~`.
    Matches(Word, Pattern, bool),
    In(Word, Vec<Word>),
    /// `-n`; false: `-z`.
    Filled(Word, bool),
    /// `-T`.
    Truthy(Word),
    /// `-R`.
    Remote(Prefix),
    /// `-ipmatch`.
    InNet(Word, Prefix),
    /// `-strmatch`, `-strcmatch`, `-fnmatch`.
    Wild(Word, Word, super::fnmatch::Options),
}

/// A text.
#[derive(Debug)]
pub(super) enum Word {
    Text(Vec<u8>),
    Variable(Variable),
    Group(usize),
    Call(Function, Box<Self>),
    Join(Vec<Self>),
}

/// Parentheses, negations and variables inside of variables.
pub(super) const DEEPEST: u32 = 50;

/// Parses a condition.
pub(super) fn condition(text: &str, dialect: Dialect) -> Result<Condition, ExprError> {
    let mut parser = Parser::new(text, dialect)?;
    let condition = parser.or()?;
    match parser.next {
        Token::End => Ok(condition),
        _ => Err(parser.unexpected()),
    }
}

/// Parses a text with variables.
pub(super) fn text(text: &str, dialect: Dialect) -> Result<Word, ExprError> {
    let mut parser = Parser {
        lexer: Lexer::new(text),
        next: Token::End,
        dialect,
        depth: 0,
    };
    parser.string(Until::End)
}

struct Parser<'t> {
    lexer: Lexer<'t>,
    next: Token,
    dialect: Dialect,
    depth: u32,
}

impl<'t> Parser<'t> {
    fn new(text: &'t str, dialect: Dialect) -> Result<Self, ExprError> {
        let mut lexer = Lexer::new(text);
        let next = lexer.token()?;
        Ok(Self {
            lexer,
            next,
            dialect,
            depth: 0,
        })
    }

    fn advance(&mut self) -> Result<Token, ExprError> {
        let next = self.lexer.token()?;
        Ok(std::mem::replace(&mut self.next, next))
    }

    fn unexpected(&self) -> ExprError {
        let what = match &self.next {
            Token::End => "end of expression".to_owned(),
            Token::Name(name) => format!("'{name}'"),
            Token::Digits(digits) => format!("'{digits}'"),
            Token::Mark(mark) => format!("'{mark}'"),
            Token::Quote(_) => "string".to_owned(),
            Token::Unary(letter) => format!("operator '-{letter}'"),
            Token::Binary(name) => format!("operator '-{name}'"),
            Token::Regex(..) => "regular expression".to_owned(),
            Token::Variable => "variable".to_owned(),
            Token::Group(number) => format!("'${number}'"),
            Token::True | Token::False => "constant".to_owned(),
            Token::Dot => "'.'".to_owned(),
            _ => "operator".to_owned(),
        };
        ExprError::Unexpected(what)
    }

    fn deeper<T>(
        &mut self,
        parse: impl FnOnce(&mut Self) -> Result<T, ExprError>,
    ) -> Result<T, ExprError> {
        if self.depth == DEEPEST {
            return Err(ExprError::TooDeep);
        }
        self.depth += 1;
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }

    fn or(&mut self) -> Result<Condition, ExprError> {
        self.chain(&Token::Or, Self::and, Condition::Or)
    }

    fn and(&mut self) -> Result<Condition, ExprError> {
        self.chain(&Token::And, Self::not, Condition::And)
    }

    /// Conditions with the same operator between them: a list, for a long chain must not be deep.
    fn chain(
        &mut self,
        operator: &Token,
        part: impl Fn(&mut Self) -> Result<Condition, ExprError>,
        join: impl Fn(Vec<Condition>) -> Condition,
    ) -> Result<Condition, ExprError> {
        let first = part(self)?;
        if self.next != *operator {
            return Ok(first);
        }
        let mut parts = vec![first];
        while self.next == *operator {
            self.advance()?;
            parts.push(part(self)?);
        }
        Ok(join(parts))
    }

    fn not(&mut self) -> Result<Condition, ExprError> {
        match self.next {
            Token::Not => {
                self.advance()?;
                let negated = self.deeper(Self::not)?;
                Ok(Condition::Not(Box::new(negated)))
            }
            Token::True | Token::False => Ok(Condition::Constant(self.advance()? == Token::True)),
            Token::Mark('(') => {
                self.advance()?;
                let inner = self.deeper(Self::or)?;
                self.expect(')')?;
                Ok(inner)
            }
            Token::Unary(letter) => {
                self.advance()?;
                self.unary(letter)
            }
            _ => self.comparison(),
        }
    }

    fn expect(&mut self, mark: char) -> Result<(), ExprError> {
        if self.next != Token::Mark(mark) {
            return Err(self.unexpected());
        }
        self.advance().map(drop)
    }

    fn unary(&mut self, letter: char) -> Result<Condition, ExprError> {
        let unknown = || ExprError::Unknown {
            kind: "unary operator",
            name: format!("-{letter}"),
        };
        if matches!(
            letter,
            'd' | 'e' | 'f' | 's' | 'L' | 'h' | 'x' | 'F' | 'U' | 'A'
        ) {
            return Err(ExprError::NotHere(format!("-{letter}")));
        }
        let word = self.word()?;
        match letter {
            'n' => Ok(Condition::Filled(word, true)),
            'z' => Ok(Condition::Filled(word, false)),
            'T' => Ok(Condition::Truthy(word)),
            'R' => Ok(Condition::Remote(net(&word)?)),
            _ => Err(unknown()),
        }
    }

    fn comparison(&mut self) -> Result<Condition, ExprError> {
        let left = self.word()?;
        match self.next.clone() {
            Token::Compare(comparison) => {
                self.advance()?;
                Ok(Condition::Compare(comparison, left, self.word()?))
            }
            operator @ (Token::Matches | Token::MatchesNot) => {
                self.advance()?;
                let Token::Regex(text, ignores_case) = &self.next else {
                    return Err(self.unexpected());
                };
                let pattern = Pattern::new(text, *ignores_case)?;
                self.advance()?;
                Ok(Condition::Matches(
                    left,
                    pattern,
                    operator == Token::Matches,
                ))
            }
            Token::In => {
                self.advance()?;
                if let Token::Name(name) = &self.next {
                    return Err(ExprError::NotHere(format!("list function '{name}'")));
                }
                self.expect('{')?;
                let mut list = vec![self.word()?];
                while self.next == Token::Mark(',') {
                    self.advance()?;
                    list.push(self.word()?);
                }
                self.expect('}')?;
                Ok(Condition::In(left, list))
            }
            Token::Binary(name) => {
                self.advance()?;
                let right = self.word()?;
                let options = super::fnmatch::Options::named(&name);
                match options {
                    Some(options) => Ok(Condition::Wild(left, right, options)),
                    None if name.eq_ignore_ascii_case("ipmatch") => {
                        Ok(Condition::InNet(left, net(&right)?))
                    }
                    None => Err(ExprError::Unknown {
                        kind: "binary operator",
                        name: format!("-{name}"),
                    }),
                }
            }
            _ => Err(self.unexpected()),
        }
    }

    fn word(&mut self) -> Result<Word, ExprError> {
        let first = self.single()?;
        if self.next != Token::Dot {
            return Ok(first);
        }
        let mut parts = vec![first];
        while self.next == Token::Dot {
            self.advance()?;
            parts.push(self.single()?);
        }
        Ok(Word::Join(parts))
    }

    fn single(&mut self) -> Result<Word, ExprError> {
        match self.next.clone() {
            Token::Digits(digits) => {
                self.advance()?;
                Ok(Word::Text(digits.into_bytes()))
            }
            Token::Group(number) => {
                self.advance()?;
                Ok(Word::Group(number))
            }
            // Strings and variables are read past the token that is looked ahead at, which is
            // their beginning.
            Token::Quote(quote) => {
                let word = self.string(Until::Quote(quote))?;
                self.next = self.lexer.token()?;
                Ok(word)
            }
            Token::Variable => {
                let word = self.variable()?;
                self.next = self.lexer.token()?;
                Ok(word)
            }
            Token::Name(name) => {
                self.advance()?;
                self.expect('(')?;
                let argument = self.deeper(Self::word)?;
                self.expect(')')?;
                call(&name, argument, self.dialect)
            }
            _ => Err(self.unexpected()),
        }
    }

    /// The rest of a string.
    fn string(&mut self, until: Until) -> Result<Word, ExprError> {
        let mut parts = Vec::new();
        loop {
            match self.lexer.piece(until)? {
                Piece::Text(text) => parts.push(Word::Text(text)),
                Piece::Group(number) => parts.push(Word::Group(number)),
                Piece::Variable => parts.push(self.variable()?),
                Piece::End => break,
            }
            // At the end of the text there is no mark of the end to come.
            if until == Until::End && parts.len() > MOST_PARTS {
                return Err(ExprError::TooDeep);
            }
        }
        Ok(match parts.len() {
            0 => Word::Text(Vec::new()),
            1 => parts.remove(0),
            _ => Word::Join(parts),
        })
    }

    /// A variable after its `%{`.
    fn variable(&mut self) -> Result<Word, ExprError> {
        let name = self.lexer.name().to_owned();
        match self.lexer.after_name() {
            _ if name.is_empty() => Err(ExprError::Unexpected("'%{'".to_owned())),
            Some('}') => match Variable::named(&name) {
                Some(variable) => Ok(Word::Variable(variable)),
                None => Err(ExprError::Unknown {
                    kind: "variable",
                    name,
                }),
            },
            Some(':') => {
                let argument = self.deeper(|parser| parser.string(Until::Brace))?;
                call(&name, argument, self.dialect)
            }
            Some(c) => Err(ExprError::Unexpected(format!("'{c}' in variable name"))),
            None => Err(ExprError::Unterminated),
        }
    }
}

/// Parts of one string; a configuration line is shorter.
const MOST_PARTS: usize = 4096;

fn call(name: &str, argument: Word, dialect: Dialect) -> Result<Word, ExprError> {
    let lower = name.to_ascii_lowercase();
    if matches!(lower.as_str(), "file" | "filesize") {
        return Err(ExprError::NotHere(format!("function '{name}'")));
    }
    let function = Function::named(&lower)
        .filter(|function| {
            *function != Function::Entry(Table::HealthCheck) || dialect == Dialect::HealthCheck
        })
        .ok_or_else(|| ExprError::Unknown {
            kind: "function",
            name: name.to_owned(),
        })?;
    Ok(Word::Call(function, Box::new(argument)))
}

/// A network, which must be written out.
fn net(word: &Word) -> Result<Prefix, ExprError> {
    let Word::Text(text) = word else {
        return Err(ExprError::Subnet("not a constant".to_owned()));
    };
    let text = String::from_utf8_lossy(text);
    crate::config::prefix::subnet(&text).ok_or_else(|| ExprError::Subnet(text.into_owned()))
}
