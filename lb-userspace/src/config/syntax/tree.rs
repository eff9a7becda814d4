//! Logical lines to a tree of directives and sections. What acts while reading acts here:
//! `Define`, `Include`, conditional sections, and the names of `LoadModule` (apache.md 1.2, 1.3).
//!
//! Errors are collected and reading goes on after each. Memory is bounded by the limits at the end.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    rc::Rc,
};

use super::{
    conditions::{self, Condition},
    lexer::{FileText, Lines, Logical, Span, Word, is_blank},
};
use crate::config::{
    environment::Environment,
    report::{At, Reports, Severity},
    source::Source,
    spec::Place,
};

/// A directive, or a section with what is in it.
#[derive(Debug)]
pub(crate) struct Node {
    /// Its place in the order of reading, over all files.
    pub order: u32,
    /// Its file.
    pub file: Rc<FileText>,
    /// Its last physical line; for a section that of its opening.
    pub line: u32,
    /// Its name as written, without `<`.
    pub name: Word,
    /// Its arguments; for a section without the `>`.
    pub args: Vec<Word>,
    /// The arguments as they stand there, for directives that split them otherwise.
    pub raw: String,
    /// A section's contents; `None`: a directive.
    pub children: Option<Vec<Node>>,
}

impl Node {
    /// The place of argument `index`; of the name where there is no such argument.
    pub(crate) fn at(&self, index: Option<usize>) -> At<'_> {
        let word = index.and_then(|i| self.args.get(i)).unwrap_or(&self.name);
        At {
            file: &self.file,
            line: self.line,
            span: Some(word.span),
            order: self.order,
        }
    }

    /// For messages after parsing.
    pub(crate) fn place(&self) -> Place {
        Place {
            file: self.file.path.clone(),
            line: self.line,
        }
    }
}

/// What reading gave.
pub(crate) struct Tree {
    /// Directives outside every section, in order.
    pub nodes: Vec<Node>,
    /// `ServerRoot`.
    pub server_root: PathBuf,
    /// Errors, and warnings about variables.
    pub reports: Reports,
}

/// What reading starts from.
pub(crate) struct Start<'a> {
    /// Where files come from.
    pub source: &'a dyn Source,
    /// What `${}` falls back to.
    pub environment: &'a Environment,
    /// `-D` names.
    pub defines: &'a [String],
    /// `ServerRoot` until the file sets one.
    pub server_root: PathBuf,
    /// Whether a directive or section (`<Name`) of this name, in any case, is known.
    pub knows: fn(&str) -> bool,
}

/// Reads `file` and all that it includes.
pub(crate) fn read(start: Start<'_>, file: &Path) -> Tree {
    let defines = start
        .defines
        .iter()
        .map(|name| (name.clone(), String::new()))
        .collect();
    let mut reader = Reader {
        defines,
        modules: BTreeSet::new(),
        server_root: start.server_root.clone(),
        reports: Reports::default(),
        order: 0,
        stack: Vec::new(),
        files: 0,
        bytes: 0,
        over_limit: false,
        start,
    };
    let mut nodes = Vec::new();
    reader.read_main(file, &mut nodes);
    Tree {
        nodes,
        server_root: reader.server_root,
        reports: reader.reports,
    }
}

/// The state of reading, across files.
pub(super) struct Reader<'a> {
    pub(super) start: Start<'a>,
    pub(super) defines: BTreeMap<String, String>,
    /// Names of `LoadModule`: `x_module` and `mod_x.c`, lower case.
    pub(super) modules: BTreeSet<String>,
    pub(super) server_root: PathBuf,
    pub(super) reports: Reports,
    pub(super) order: u32,
    /// Files being read, outermost first.
    pub(super) stack: Vec<PathBuf>,
    pub(super) files: u32,
    pub(super) bytes: usize,
    /// A limit was reached and reported: nothing more is read.
    pub(super) over_limit: bool,
}

/// A section that is open.
struct Open {
    /// `None`: a conditional section that holds; its contents belong to what is around it.
    node: Option<Node>,
    name: String,
    span: Span,
    line: u32,
    order: u32,
}

/// A conditional section that does not hold: nothing in it is looked at but its own name.
struct Skip {
    name: String,
    depth: u32,
    span: Span,
    line: u32,
}

impl Reader<'_> {
    /// Reads one file's contents into `out`.
    pub(super) fn read_text(&mut self, file: &Rc<FileText>, out: &mut Vec<Node>) {
        let mut open: Vec<Open> = Vec::new();
        let mut skip: Option<Skip> = None;
        for logical in Lines::new(file) {
            if self.over_limit {
                return;
            }
            if let Some(skipped) = &mut skip {
                if skipped.ends(&logical) {
                    skip = None;
                }
                continue;
            }
            self.order += 1;
            self.read_line(file, logical, &mut open, &mut skip, out);
        }
        if let Some(skip) = skip {
            let message = format!("Expected </{}> before end of configuration", skip.name);
            self.error_at(file, skip.line, Some(skip.span), message, "");
        }
        while let Some(section) = open.pop() {
            let message = format!("<{}> was not closed.", section.name);
            let at = At {
                file,
                line: section.line,
                span: Some(section.span),
                order: section.order,
            };
            let help = format!("expected </{}> before the end of this file", section.name);
            self.reports.push(Severity::Error, at, message, help);
            close(section, &mut open, out);
        }
    }

    fn read_line(
        &mut self,
        file: &Rc<FileText>,
        mut logical: Logical,
        open: &mut Vec<Open>,
        skip: &mut Option<Skip>,
        out: &mut Vec<Node>,
    ) {
        if !self.substitute(file, &mut logical) {
            return;
        }
        let line = logical.line;
        if logical.text.contains('\u{fffd}') {
            let message = "not UTF-8";
            let help = "save the file as UTF-8";
            self.error_at(file, line, Some(logical.whole()), message, help);
        }
        if let Some(rest) = logical.text.strip_prefix("</") {
            let name = rest.trim_end_matches('>').to_owned();
            if !rest.ends_with('>') {
                let message = format!("</{name}> directive missing closing '>'");
                self.error_at(file, line, Some(logical.whole()), message, "");
            }
            self.close_section(file, &logical, name.trim(), open, out);
        } else if logical.text.starts_with('<') {
            self.open_section(file, &logical, open, skip);
        } else {
            self.directive(file, &logical, open, out);
        }
    }

    /// Replaces `${}`; `false` when the line is to be passed over.
    fn substitute(&mut self, file: &Rc<FileText>, logical: &mut Logical) -> bool {
        let mut unknown = Vec::new();
        let line = logical.line;
        let (defines, environment) = (&self.defines, self.start.environment);
        let fits = logical.substitute(
            MAX_LINE_BYTES,
            |name| {
                defines
                    .get(name)
                    .cloned()
                    .or_else(|| environment.value(name).map(str::to_owned))
            },
            |name, span| unknown.push((name.to_owned(), span)),
        );
        for (name, span) in unknown {
            let at = At {
                file,
                line,
                span: Some(span),
                order: self.order,
            };
            let message = format!("Config variable ${{{name}}} is not defined");
            let help =
                "it stands as it is; Define it before this line or set it in the environment";
            self.reports.push(Severity::Warning, at, message, help);
        }
        if !fits {
            let message = format!("line longer than {MAX_LINE_BYTES} bytes");
            self.error_at(file, line, None, message, "");
            return false;
        }
        self.bytes += logical.text.len();
        if self.bytes > MAX_TEXT_BYTES || self.order > MAX_DIRECTIVES {
            let message = format!(
                "configuration too large: more than {MAX_DIRECTIVES} directives or {MAX_TEXT_BYTES} bytes"
            );
            self.error_at(file, line, None, message, "is this a configuration file?");
            self.over_limit = true;
            return false;
        }
        true
    }

    fn open_section(
        &mut self,
        file: &Rc<FileText>,
        logical: &Logical,
        open: &mut Vec<Open>,
        skip: &mut Option<Skip>,
    ) {
        let line = logical.line;
        let text = &logical.text;
        let end = text.rfind('>').unwrap_or(text.len());
        let mut words = logical.words(0, end).into_iter();
        let Some(mut name) = words.next() else {
            return;
        };
        let raw = after(&text[..end], &name.text);
        name.text.remove(0);
        let args: Vec<Word> = words.collect();
        if name.text.is_empty() {
            self.error_at(
                file,
                line,
                Some(name.span),
                "Incomplete container",
                "expected <Name ...>",
            );
            return;
        }
        if end == text.len() {
            let message = format!("<{}> directive missing closing '>'", name.text);
            let help = "the last character of the line must be `>`";
            self.error_at(file, line, Some(logical.whole()), message, help);
        } else if end + 1 < text.len() {
            let at = At {
                file,
                line,
                span: Some(logical.span(end + 1, text.len())),
                order: self.order,
            };
            let message = "what follows the `>` is ignored";
            self.reports.push(
                Severity::Warning,
                at,
                message,
                "put it on a line of its own",
            );
        }
        if open.len() >= MAX_SECTION_DEPTH {
            let message = format!("sections nested deeper than {MAX_SECTION_DEPTH}");
            self.error_at(file, line, Some(name.span), message, "");
            self.over_limit = true;
            return;
        }
        let Some(condition) = Condition::of(&name.text) else {
            open.push(Open {
                name: name.text.clone(),
                span: name.span,
                line,
                order: self.order,
                node: Some(Node {
                    order: self.order,
                    file: Rc::clone(file),
                    line,
                    name,
                    args,
                    raw,
                    children: Some(Vec::new()),
                }),
            });
            return;
        };
        let holds = match conditions::evaluate(condition, &name.text, &args, self) {
            Ok(holds) => holds,
            Err((message, help)) => {
                let span = args.first().map_or(name.span, |word| word.span);
                self.error_at(file, line, Some(span), message, help);
                false
            }
        };
        if holds {
            open.push(Open {
                node: None,
                name: name.text,
                span: name.span,
                line,
                order: self.order,
            });
        } else {
            *skip = Some(Skip {
                name: name.text,
                depth: 0,
                span: name.span,
                line,
            });
        }
    }

    /// Closes the innermost section; where the name is another's, what was meant is guessed so that
    /// one slip gives one message.
    fn close_section(
        &mut self,
        file: &Rc<FileText>,
        logical: &Logical,
        name: &str,
        open: &mut Vec<Open>,
        out: &mut Vec<Node>,
    ) {
        let is = |section: &Open| section.name.eq_ignore_ascii_case(name);
        let Some(innermost) = open.last() else {
            let message = format!("</{name}> without matching <{name}> section");
            self.error_at(file, logical.line, Some(logical.whole()), message, "");
            return;
        };
        if !is(innermost) {
            let message = format!("Expected </{}> but saw </{name}>", innermost.name);
            let help = format!("<{}> is open since line {}", innermost.name, innermost.line);
            self.error_at(file, logical.line, Some(logical.whole()), message, help);
            // A misspelt end (</VirtualHots>) closes the innermost section; the end of an outer
            // section closes all that is within.
            let outer = open.iter().rposition(is).unwrap_or(open.len() - 1);
            while open.len() > outer + 1 {
                if let Some(section) = open.pop() {
                    close(section, open, out);
                }
            }
        }
        if let Some(section) = open.pop() {
            close(section, open, out);
        }
    }

    fn directive(
        &mut self,
        file: &Rc<FileText>,
        logical: &Logical,
        open: &mut [Open],
        out: &mut Vec<Node>,
    ) {
        let mut words = logical.words(0, logical.text.len()).into_iter();
        let Some(name) = words.next() else {
            return;
        };
        let node = Node {
            order: self.order,
            file: Rc::clone(file),
            line: logical.line,
            raw: after(&logical.text, &name.text),
            name,
            args: words.collect(),
            children: None,
        };
        let inside = open
            .iter_mut()
            .rev()
            .find_map(|section| section.node.as_mut());
        let contents = inside
            .and_then(|node| node.children.as_mut())
            .unwrap_or(out);
        match node.name.text.to_ascii_lowercase().as_str() {
            "define" => self.define(&node),
            "undefine" => self.undefine(&node),
            "include" => self.include(&node, true, contents),
            "includeoptional" => self.include(&node, false, contents),
            "serverroot" => {
                if let [root] = node.args.as_slice() {
                    // Read at once: later Includes are relative to it.
                    self.server_root = PathBuf::from(&root.text);
                }
                contents.push(node);
            }
            "loadmodule" => {
                self.load_module(&node);
                contents.push(node);
            }
            _ => contents.push(node),
        }
    }

    fn define(&mut self, node: &Node) {
        let (name, value) = match node.args.as_slice() {
            [name] => (name, String::new()),
            [name, value] => (name, value.text.clone()),
            _ => {
                let message = "Define takes 1-2 arguments, a variable's name and its value";
                return self
                    .reports
                    .push(Severity::Error, node.at(None), message, "");
            }
        };
        if name.text.contains(':') {
            let message = "Variable name must not contain ':'";
            return self
                .reports
                .push(Severity::Error, node.at(Some(0)), message, "");
        }
        self.defines.insert(name.text.clone(), value);
    }

    fn undefine(&mut self, node: &Node) {
        match node.args.as_slice() {
            [name] if name.text.contains(':') => {
                let message = "Variable name must not contain ':'";
                self.reports
                    .push(Severity::Error, node.at(Some(0)), message, "");
            }
            [name] => {
                self.defines.remove(&name.text);
            }
            _ => {
                let message = "UnDefine takes one argument, a variable's name";
                self.reports
                    .push(Severity::Error, node.at(None), message, "");
            }
        }
    }

    fn load_module(&mut self, node: &Node) {
        let [name, file] = node.args.as_slice() else {
            return;
        };
        self.modules.insert(name.text.to_ascii_lowercase());
        if let Some(stem) = Path::new(&file.text).file_stem() {
            let stem = stem.to_string_lossy().to_ascii_lowercase();
            self.modules.insert(format!("{stem}.c"));
        }
    }

    /// An error at a place of `file`, in the order of now.
    pub(super) fn error_at(
        &mut self,
        file: &FileText,
        line: u32,
        span: Option<Span>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        let at = At {
            file,
            line,
            span,
            order: self.order,
        };
        self.reports.push(Severity::Error, at, message, help);
    }
}

impl Skip {
    /// Whether this line ends the skipped section. Sections of the same name are counted.
    fn ends(&mut self, logical: &Logical) -> bool {
        let text = logical.text.as_str();
        if let Some(rest) = text.strip_prefix("</") {
            let name = rest.split('>').next().unwrap_or_default().trim();
            if name.eq_ignore_ascii_case(&self.name) {
                if self.depth == 0 {
                    return true;
                }
                self.depth -= 1;
            }
        } else if let Some(rest) = text.strip_prefix('<') {
            let name = rest
                .split(|c: char| c == '>' || is_blank(c))
                .next()
                .unwrap_or_default();
            if name.eq_ignore_ascii_case(&self.name) {
                self.depth += 1;
            }
        }
        false
    }
}

/// Puts a finished section where it belongs.
fn close(section: Open, open: &mut [Open], out: &mut Vec<Node>) {
    let Some(node) = section.node else {
        return;
    };
    let inside = open
        .iter_mut()
        .rev()
        .find_map(|section| section.node.as_mut());
    match inside.and_then(|node| node.children.as_mut()) {
        Some(contents) => contents.push(node),
        None => out.push(node),
    }
}

/// Longest logical line, bytes, variables replaced. httpd: 16 MiB.
const MAX_LINE_BYTES: usize = 1 << 20;
/// Text of all directives, bytes, variables replaced.
const MAX_TEXT_BYTES: usize = 64 << 20;
/// Directives in all files.
const MAX_DIRECTIVES: u32 = 300_000;
/// Sections within sections.
const MAX_SECTION_DEPTH: usize = 64;

/// What follows a line's first word.
fn after(line: &str, name: &str) -> String {
    let line = line.trim_start_matches(is_blank);
    // A name in quotes is no name of ours; its arguments do not matter.
    let rest = line.strip_prefix(name).unwrap_or_default();
    rest.trim_matches(is_blank).to_owned()
}

#[cfg(test)]
mod tests;
