//! Conditional sections: whether the contents are read at all (apache.md 1.3).

use std::path::PathBuf;

use super::{lexer::Word, tree::Reader};

/// A kind of conditional section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    /// `<IfModule [!]mod_x.c|x_module>`
    Module,
    /// `<IfDefine [!]NAME>`
    Define,
    /// `<IfVersion [[!]OP] VERSION>`
    Version,
    /// `<IfFile [!]PATH>`
    File,
    /// `<IfDirective [!]NAME>`
    Directive,
    /// `<IfSection [!]NAME>`
    Section,
}

impl Condition {
    /// Sections by name.
    pub(crate) const NAMES: [(&'static str, Self); 6] = [
        ("IfModule", Self::Module),
        ("IfDefine", Self::Define),
        ("IfVersion", Self::Version),
        ("IfFile", Self::File),
        ("IfDirective", Self::Directive),
        ("IfSection", Self::Section),
    ];

    /// The kind of a section, if it is a conditional one.
    pub(crate) fn of(name: &str) -> Option<Self> {
        Self::NAMES
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, condition)| *condition)
    }
}

/// Whether the section's contents are to be read; else message and help.
pub(super) fn evaluate(
    condition: Condition,
    name: &str,
    args: &[Word],
    reader: &Reader<'_>,
) -> Result<bool, (String, String)> {
    let Some(first) = args.first() else {
        let message = format!("<{name}> directive requires additional arguments");
        return Err((message, String::new()));
    };
    if condition == Condition::Version {
        return version(args);
    }
    // The rest of the line is one name: httpd does not split it (a path may hold blanks).
    let (negated, subject) = match first.text.strip_prefix('!') {
        Some(subject) => (true, subject),
        None => (false, first.text.as_str()),
    };
    if args.len() > 1 {
        let message = format!("<{name}> takes one argument");
        return Err((message, "put quotes around a name with blanks".to_owned()));
    }
    let holds = match condition {
        Condition::Module => has_module(subject, reader),
        Condition::Define => reader.defines.contains_key(subject),
        Condition::File => {
            let path: PathBuf = reader.server_root.join(subject);
            reader.start.source.kind(&path).is_ok()
        }
        Condition::Directive => !subject.starts_with('<') && (reader.start.knows)(subject),
        Condition::Section => {
            let bare = subject.trim_start_matches('<').trim_end_matches('>');
            (reader.start.knows)(&format!("<{bare}"))
        }
        Condition::Version => return version(args),
    };
    Ok(holds != negated)
}

/// Whether sluice counts as having a module of httpd, by identifier (`ssl_module`) or source file
/// (`mod_ssl.c`).
///
/// What sluice does itself is always there. For the rest the file's own LoadModule lines decide; a
/// file without any is taken to be written for a server that has what a balancer needs, so that
/// what stands in such sections is read and what of it is not implemented is reported.
fn has_module(name: &str, reader: &Reader<'_>) -> bool {
    let name = name.to_ascii_lowercase();
    let Some(bare) = name
        .strip_suffix("_module")
        .or_else(|| name.strip_prefix("mod_").and_then(|n| n.strip_suffix(".c")))
        .or_else(|| name.strip_suffix(".c"))
    else {
        return false;
    };
    IMPLEMENTED.contains(&bare)
        || reader.modules.contains(&name)
        || reader.modules.contains(&format!("{bare}_module"))
        || (reader.modules.is_empty() && ASSUMED.contains(&bare))
}

/// `<IfVersion>`: compares with the version whose behaviour sluice has.
fn version(args: &[Word]) -> Result<bool, (String, String)> {
    let (operator, wanted) = match args {
        [wanted] => ("=", wanted.text.as_str()),
        [operator, wanted] => (operator.text.as_str(), wanted.text.as_str()),
        _ => {
            let message = "<IfVersion> takes an operator and a version".to_owned();
            return Err((message, "for example <IfVersion >= 2.4>".to_owned()));
        }
    };
    let (negated, operator) = match operator.strip_prefix('!') {
        Some(operator) => (true, operator),
        None => (false, operator),
    };
    if operator == "~" || wanted.starts_with('/') {
        let message =
            "regular expressions in <IfVersion> are not supported by this version of sluice";
        return Err((
            message.to_owned(),
            "compare with =, <, <=, > or >=".to_owned(),
        ));
    }
    if !matches!(operator, "=" | "==" | "<" | "<=" | ">" | ">=") {
        let message = format!("unrecognized operator '{operator}'");
        return Err((message, "expected one of =, <, <=, >, >=".to_owned()));
    }
    let mut parts = [0_u32; 3];
    let fields: Vec<&str> = wanted.split('.').collect();
    if fields.len() > parts.len() {
        return Err((format!("invalid version '{wanted}'"), String::new()));
    }
    for (part, field) in parts.iter_mut().zip(&fields) {
        *part = field
            .parse()
            .map_err(|_| (format!("invalid version '{wanted}'"), String::new()))?;
    }
    let order = HTTPD_VERSION.cmp(&parts);
    let holds = match operator {
        "=" | "==" => order.is_eq(),
        "<" => order.is_lt(),
        "<=" => order.is_le(),
        ">" => order.is_gt(),
        _ => order.is_ge(),
    };
    Ok(holds != negated)
}

/// The httpd whose behaviour sluice has, for `<IfVersion>`.
const HTTPD_VERSION: [u32; 3] = [2, 4, 71];

/// Modules that are part of sluice.
const IMPLEMENTED: [&str; 14] = [
    "sluice",
    "core",
    "http",
    "http_core",
    "so",
    "unixd",
    "version",
    "log_config",
    "logio",
    "proxy",
    "proxy_http",
    "proxy_balancer",
    "lbmethod_byrequests",
    "reqtimeout",
];

/// Modules that a balancer's configuration uses and that are taken to be there when the file names
/// none itself.
const ASSUMED: [&str; 22] = [
    "alias",
    "authz_core",
    "authz_host",
    "headers",
    "http2",
    "lbmethod_bybusyness",
    "lbmethod_bytraffic",
    "lbmethod_heartbeat",
    "mpm_event",
    "proxy_ajp",
    "proxy_fcgi",
    "proxy_hcheck",
    "proxy_http2",
    "proxy_uwsgi",
    "proxy_wstunnel",
    "remoteip",
    "rewrite",
    "setenvif",
    "slotmem_shm",
    "socache_shmcb",
    "ssl",
    "status",
];
