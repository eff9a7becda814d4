//! `RewriteRule` and `RewriteCond` lines: how mod_rewrite splits them, their flags, and what of them
//! cannot be done here. Messages are httpd's where it has one.

use super::{
    Action, Condition, Escape, Function, Next, Query, Relation, Rule, Template, Test,
    template::TemplateError,
};
use crate::{
    config::spec::policy::Handler,
    expr::{Dialect, Expr, number},
    pattern::Pattern,
};

/// A `RewriteRule` as it was read.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadRule {
    /// The rule; that of `[P]` leads to no balancer yet.
    pub rule: Rule,
    /// Where `[P]` leads.
    pub target: Option<Target>,
    /// What there is to say of it.
    pub remarks: Vec<String>,
}

/// The target of a `[P]` rule, as far as it is the file's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// `balancer://name` or `scheme://host[:port]`.
    pub base: String,
    /// What of the path is the same for each request: up to what is filled in.
    pub path: String,
}

/// Why a line is refused. Display is what follows the directive's name and a colon.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Too few arguments.
    #[error("bad argument line '{0}'")]
    Arguments(String),
    /// No brackets around the flags.
    #[error("bad flag delimiters")]
    Delimiters,
    /// A flag that nobody knows.
    #[error("unknown flag '{0}'")]
    Flag(String),
    /// `[BNE]` alone.
    #[error("flag 'BNE' wants a list of characters (i.e. [BNE=...])")]
    Characters,
    /// `[R=...]` with a status that is none.
    #[error("invalid HTTP response code '{0}' for flag 'R'")]
    Status(String),
    /// A pattern does not compile.
    #[error("cannot compile regular expression '{0}'")]
    Pattern(String),
    /// An expression does not parse.
    #[error("cannot compile expression \"{0}\": {1}")]
    Expression(String, String),
    /// A text asks for what is not there.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// A flag or test that sluice has not: which, and what to do.
    #[error("{0} is not supported by sluice")]
    NotHere(String, &'static str),
    /// A `[P]` rule whose target's host is not the file's.
    #[error("[P] needs a target whose scheme and host stand in the file: {0}")]
    OpenProxy(String),
}

impl ParseError {
    /// What to do about it; may be empty.
    pub const fn help(&self) -> &'static str {
        match self {
            Self::NotHere(_, help) => help,
            Self::OpenProxy(_) => {
                "write http://HOST:PORT/... or balancer://NAME..., with $1 or %{REQUEST_URI} in the path; a host that a request could choose would make an open proxy"
            }
            Self::Template(TemplateError::Map(_)) => {
                "define it above: RewriteMap NAME int:tolower, or txt:FILE"
            }
            Self::Delimiters => {
                "flags stand in brackets without blanks: [NC,OR]; a comparison is one word: -gt5"
            }
            Self::Arguments(_) => {
                "expected a pattern and what takes the path's place, then [flags]"
            }
            _ => "",
        }
    }
}

/// The arguments of a line: two, and flags. Unlike other directives' words, they keep every
/// backslash.
fn split(raw: &str) -> Result<[Option<&str>; 3], ParseError> {
    let mut rest = raw.trim_start();
    let mut words = [None; 3];
    for (index, word) in words.iter_mut().enumerate() {
        if index == 2 && rest.is_empty() {
            break;
        }
        let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\''));
        if quote.is_some() {
            rest = &rest[1..];
        }
        let bytes = rest.as_bytes();
        let mut end = 0;
        while end < bytes.len() {
            let byte = bytes[end];
            let ends = match quote {
                Some(quote) => byte == quote as u8,
                None => byte.is_ascii_whitespace(),
            };
            if ends {
                break;
            }
            let skips = byte == b'\\' && bytes.get(end + 1).is_some_and(u8::is_ascii_whitespace);
            end += 1 + usize::from(skips);
        }
        *word = Some(&rest[..end]);
        let after = rest.get(end + 1..);
        if index == 0 && after.is_none_or(|after| after.trim_start().is_empty()) {
            return Err(ParseError::Arguments(raw.trim().to_owned()));
        }
        rest = after.unwrap_or_default().trim_start();
    }
    Ok(words)
}

/// Names and values of `[NAME,NAME=VALUE]`.
fn flags(text: Option<&str>) -> Result<Vec<(&str, &str)>, ParseError> {
    let Some(text) = text else {
        return Ok(Vec::new());
    };
    let inner = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .ok_or(ParseError::Delimiters)?;
    let mut found = Vec::new();
    for flag in inner.split(',') {
        let flag = flag.trim();
        found.push(flag.split_once('=').unwrap_or((flag, "")));
    }
    Ok(found)
}

/// Reads what follows `RewriteRule`.
///
/// # Errors
/// What is wrong with it, or cannot be done here.
pub fn rule(raw: &str, maps: &[(String, Function)]) -> Result<ReadRule, ParseError> {
    let [pattern, output, given] = split(raw)?;
    let (pattern, mut output) = (pattern.unwrap_or_default(), output.unwrap_or_default());
    let mut read = Flags::default();
    for (name, value) in flags(given)? {
        read.take(name, value)?;
    }
    let (negated, text) = match pattern.strip_prefix('!') {
        Some(rest) => (true, rest),
        None => (false, pattern),
    };
    let compiled =
        Pattern::new(text, read.ignores_case).map_err(|_| ParseError::Pattern(text.to_owned()))?;
    if let Some(shorter) = output.strip_suffix('?') {
        if read.query.append {
            read.query.last = true;
        } else {
            read.query.none = true;
            output = shorter;
        }
    } else if read.query.discard && !output.contains('?') {
        read.query.none = true;
    }
    let mut remarks = std::mem::take(&mut read.remarks);
    let mut target = None;
    let template = |text: &str| Template::new(text, maps);
    let action = if let Some(status) = read.fails {
        Action::Fail(status)
    } else if output == "-" {
        Action::Keep
    } else if read.proxy {
        let (found, rest) = proxied(output, text, &mut remarks)?;
        target = Some(found);
        Action::Proxy {
            balancer: usize::MAX,
            to: template(rest)?,
        }
    } else if read.redirect {
        Action::Redirect {
            to: template(output)?,
            status: read.status,
        }
    } else {
        Action::Rewrite {
            to: template(output)?,
            doubled: output.starts_with("//"),
            status: read.status,
        }
    };
    if let Action::Rewrite { to, .. } | Action::Redirect { to, .. } | Action::Proxy { to, .. } =
        &action
    {
        remark_unknown(to, &mut remarks);
    }
    let templates = |texts: &[String]| texts.iter().map(|text| template(text)).collect();
    let environment: Result<Vec<_>, TemplateError> = templates(&read.environment);
    let cookies: Result<Vec<_>, TemplateError> = templates(&read.cookies);
    Ok(ReadRule {
        rule: Rule {
            conditions: Vec::new(),
            pattern: compiled,
            negated,
            action,
            next: read.next(),
            chained: read.chained,
            query: read.query,
            escape: read.escapes.then_some(read.escape),
            noescape: read.noescape,
            allows_question: read.allows_question,
            keeps_slashes: read.keeps_slashes,
            environment: environment?,
            cookies: cookies?,
            handler: read.handler,
        },
        target,
        remarks,
    })
}

/// Splits a `[P]` target behind its host, which must be the file's.
fn proxied<'t>(
    output: &'t str,
    pattern: &str,
    remarks: &mut Vec<String>,
) -> Result<(Target, &'t str), ParseError> {
    let open = || ParseError::OpenProxy(output.to_owned());
    let is_filled = |c: char| matches!(c, '$' | '%' | '\\');
    let scheme = output.find("://").ok_or_else(open)? + "://".len();
    let rest = &output[scheme..];
    let host = rest
        .find(|c| matches!(c, '/' | '?') || is_filled(c))
        .unwrap_or(rest.len());
    if host == 0 || output[..scheme].contains(is_filled) {
        return Err(open());
    }
    let (base, rest) = output.split_at(scheme + host);
    if rest.starts_with(is_filled) {
        let group = rest[1..].starts_with(|c: char| c.is_ascii_digit());
        let path = "%{REQUEST_URI}";
        let uri = rest
            .get(..path.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(path));
        if !(group || uri) {
            return Err(open());
        }
        let number = usize::from(rest.as_bytes()[1].wrapping_sub(b'0'));
        if group && !(rest.starts_with('$') && begins_with_slash(pattern, number)) {
            remarks.push(format!(
                "what {} is filled in with becomes the path of {base}, behind a slash where it does not begin with one: in httpd it could become part of the host's name",
                &rest[..2]
            ));
        }
    }
    let ends = |c: char| c == '?' || c == ' ' || c.is_control() || is_filled(c);
    let path = &rest[..rest.find(ends).unwrap_or(rest.len())];
    let target = Target {
        base: base.to_owned(),
        path: path.to_owned(),
    };
    Ok((target, rest))
}

/// Whether a group of a pattern for paths plainly begins with a slash: as written, or because it
/// begins where the path does.
fn begins_with_slash(pattern: &str, number: usize) -> bool {
    if number == 0 {
        return pattern.starts_with("^/") || pattern.starts_with("^(");
    }
    let mut escaped = false;
    let mut groups = 0;
    for (at, c) in pattern.char_indices() {
        if c == '(' && !escaped && !pattern[at..].starts_with("(?") {
            groups += 1;
            if groups == number {
                return pattern[at..].starts_with("(/") || (at == 1 && pattern.starts_with('^'));
            }
        }
        escaped = c == '\\' && !escaped;
    }
    false
}

fn remark_unknown(template: &Template, remarks: &mut Vec<String>) {
    for name in template.unknown() {
        let upper = name.to_ascii_uppercase();
        let hint = match upper.strip_prefix("HTTP_") {
            Some(field) => format!(": a field is %{{HTTP:{}}}", field.replace('_', "-")),
            None if upper.starts_with("SSL_") => format!(": write %{{SSL:{upper}}}"),
            None => String::new(),
        };
        remarks.push(format!(
            "%{{{name}}} is no variable of mod_rewrite and is always empty{hint}"
        ));
    }
}

/// Reads what follows `RewriteCond`; what there is to say comes with it.
///
/// # Errors
/// What is wrong with it, or cannot be done here.
pub fn condition(
    raw: &str,
    maps: &[(String, Function)],
) -> Result<(Condition, Vec<String>), ParseError> {
    let [input, pattern, given] = split(raw)?;
    let (input, pattern) = (input.unwrap_or_default(), pattern.unwrap_or_default());
    let (mut ignores_case, mut or) = (false, false);
    for (name, _) in flags(given)? {
        match name.to_ascii_lowercase().as_str() {
            "nocase" | "nc" => ignores_case = true,
            "ornext" | "or" => or = true,
            "novary" | "nv" => {}
            _ => return Err(ParseError::Flag(name.to_owned())),
        }
    }
    let (negated, text) = match pattern.strip_prefix('!') {
        Some(rest) => (true, rest),
        None => (false, pattern),
    };
    let mut remarks = Vec::new();
    let (test, inverted) = if input.eq_ignore_ascii_case("expr") {
        let expr = Expr::condition(text, Dialect::Request)
            .map_err(|error| ParseError::Expression(text.to_owned(), error.to_string()))?;
        (Test::Holds(expr), false)
    } else {
        test(text, ignores_case)?
    };
    if ignores_case && matches!(test, Test::Holds(_) | Test::Number(..)) {
        remarks.push(format!(
            "RewriteCond: NoCase option for non-regex pattern '{text}' is not supported and will be ignored."
        ));
    }
    let is_expr = matches!(test, Test::Holds(_));
    let input = Template::new(if is_expr { "" } else { input }, maps)?;
    remark_unknown(&input, &mut remarks);
    let condition = Condition {
        input,
        test,
        negated: negated != inverted,
        or,
    };
    Ok((condition, remarks))
}

/// What a condition compares with, and whether it is turned round (`-ne`).
fn test(text: &str, ignores_case: bool) -> Result<(Test, bool), ParseError> {
    const FILES: [&str; 9] = ["-f", "-s", "-d", "-x", "-h", "-L", "-l", "-U", "-F"];
    if FILES.contains(&text) {
        let help = if matches!(text, "-U" | "-F") {
            "sluice makes no subrequests: use what is known of the request itself"
        } else {
            "sluice serves no files and looks at none: for it nothing exists. Remove a condition with !-f or !-d; let SetEnvIf or the members decide in place of one with -f or -d"
        };
        return Err(ParseError::NotHere(format!("RewriteCond {text}"), help));
    }
    let numbers = [
        ("-lt", Relation::Less, false),
        ("-le", Relation::AtMost, false),
        ("-gt", Relation::Greater, false),
        ("-ge", Relation::AtLeast, false),
        ("-eq", Relation::Equal, false),
        ("-ne", Relation::Equal, true),
    ];
    for (operator, relation, inverted) in numbers {
        if let Some(rest) = text.strip_prefix(operator)
            && !rest.is_empty()
        {
            return Ok((Test::Number(relation, number(rest.as_bytes())), inverted));
        }
    }
    let texts = [
        (">=", Relation::AtLeast),
        (">", Relation::Greater),
        ("<=", Relation::AtMost),
        ("<", Relation::Less),
        ("=", Relation::Equal),
    ];
    for (operator, relation) in texts {
        // One character alone is a pattern.
        if text.len() > 1
            && let Some(rest) = text.strip_prefix(operator)
        {
            let is_empty = relation == Relation::Equal && rest == "\"\"";
            let with = if is_empty { "" } else { rest };
            let test = Test::Text {
                relation,
                with: with.to_owned(),
                ignores_case,
            };
            return Ok((test, false));
        }
    }
    let pattern =
        Pattern::new(text, ignores_case).map_err(|_| ParseError::Pattern(text.to_owned()))?;
    Ok((Test::Matches(pattern), false))
}

/// The flags of a rule, as they come.
#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "one for each flag")]
struct Flags {
    ignores_case: bool,
    proxy: bool,
    pass: bool,
    stop: bool,
    end: bool,
    redirect: bool,
    /// Of `[R=...]`; 0: none was given.
    status: u16,
    /// The status that ends it.
    fails: Option<u16>,
    again: Option<u32>,
    skip: u32,
    chained: bool,
    query: Query,
    escapes: bool,
    escape: Escape,
    noescape: bool,
    allows_question: bool,
    keeps_slashes: bool,
    environment: Vec<String>,
    cookies: Vec<String>,
    handler: Option<Handler>,
    remarks: Vec<String>,
}

impl Flags {
    fn take(&mut self, name: &str, value: &str) -> Result<(), ParseError> {
        let given = || (!value.is_empty()).then(|| value.to_owned());
        let count = u32::try_from(number(value.as_bytes())).unwrap_or(0);
        match name.to_ascii_lowercase().as_str() {
            "b" | "backrefescaping" => {
                self.escapes = true;
                self.escape.only = given();
            }
            "bne" => self.escape.never = Some(given().ok_or(ParseError::Characters)?),
            "bnp" | "backrefernoplus" => self.escape.no_plus = true,
            "bctls" => {
                self.escapes = true;
                self.escape.controls = true;
            }
            "c" | "chain" => self.chained = true,
            "co" | "cookie" => self.cookies.push(value.to_owned()),
            "e" | "env" => self.environment.push(value.to_owned()),
            "l" | "last" => self.stop = true,
            "end" => self.end = true,
            "f" | "forbidden" => self.fails = Some(403),
            "g" | "gone" => self.fails = Some(410),
            "h" | "handler" => {
                let what = || format!("RewriteRule [H={value}]");
                self.handler = Some(match value.to_ascii_lowercase().as_str() {
                    "balancer-manager" => Handler::BalancerManager,
                    "server-status" | "server-info" => {
                        self.remarks.push(format!(
                            "this version of sluice has no {value} page: requests for it are answered with 404"
                        ));
                        Handler::Absent
                    }
                    _ => {
                        let help = "expected balancer-manager: what else would answer is a member's, to which ProxyPass or [P] leads";
                        return Err(ParseError::NotHere(what(), help));
                    }
                });
            }
            "ne" | "noescape" => self.noescape = true,
            "n" | "next" => self.again = Some(if value.is_empty() { 10_000 } else { count }),
            // Of directories, subrequests and files, of which a proxy has none.
            "dpi" | "d" | "discardpath" | "ns" | "nosubreq" | "unsafeprefixstat" => {}
            "nc" | "nocase" => self.ignores_case = true,
            "p" | "proxy" => self.proxy = true,
            "pt" | "passthrough" => self.pass = true,
            "qsa" | "qsappend" => self.query.append = true,
            "qsd" | "qsdiscard" => self.query.discard = true,
            "qsl" | "qslast" => self.query.last = true,
            "r" | "redirect" => self.redirect(value)?,
            "s" | "skip" => self.skip = count,
            "t" | "type" => self.remarks.push(format!(
                "[T={value}] does nothing: the type of a response is its member's to say"
            )),
            "unsafeallow3f" => self.allows_question = true,
            "unc" => self.keeps_slashes = true,
            _ => return Err(ParseError::Flag(name.to_owned())),
        }
        Ok(())
    }

    fn redirect(&mut self, value: &str) -> Result<(), ParseError> {
        self.redirect = true;
        self.status = match value.to_ascii_lowercase().as_str() {
            "permanent" => 301,
            "seeother" => 303,
            digits if digits.starts_with(|c: char| c.is_ascii_digit()) => {
                let invalid = || ParseError::Status(value.to_owned());
                let status = u16::try_from(number(digits.as_bytes())).map_err(|_| invalid())?;
                let known = http::StatusCode::from_u16(status)
                    .ok()
                    .filter(|status| status.canonical_reason().is_some());
                known.ok_or_else(invalid)?;
                if status < 300 {
                    let what = format!("RewriteRule [R={status}]");
                    let help = "a rule can send elsewhere (300 to 399) or refuse (400 to 599)";
                    return Err(ParseError::NotHere(what, help));
                }
                if status >= 400 {
                    self.fails = Some(status);
                }
                status
            }
            _ => 302,
        };
        Ok(())
    }

    /// Which of several comes first is httpd's order.
    fn next(&self) -> Next {
        if self.pass {
            Next::Pass
        } else if self.end {
            Next::End
        } else if self.stop || self.proxy {
            Next::Stop
        } else if let Some(most) = self.again {
            Next::Again(most)
        } else if self.skip > 0 {
            Next::Skip(self.skip)
        } else {
            Next::Rule
        }
    }
}
