//! The configuration language: httpd's syntax in, a validated [`spec::Spec`] out.
//!
//! Opens the configuration files and nothing else: no socket, no name lookup, no map.
//! `source` reads, `syntax` makes a tree, `directives` carries it out into a draft, `resolve`
//! applies inheritance. Each collects what it has to say; none stops at the first error.

use std::path::{Path, PathBuf};

mod directives;
mod draft;
pub mod environment;
pub mod error_format;
pub mod limit;
pub mod log_format;
pub mod prefix;
mod report;
mod resolve;
pub mod source;
pub mod spec;
pub mod status;
mod syntax;
mod url;
mod value;
pub(crate) mod variables;

pub(crate) use directives::member_of_url;
pub use environment::Environment;
pub use limit::{LimitText, parse_limit};
pub use report::{Report, Severity};
pub(crate) use resolve::stable_route;
pub use status::parse_status_flags;

/// What reading a configuration gave.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration, when there is no error.
    pub spec: Option<spec::Spec>,
    /// Errors, warnings and notices, in the order of the file.
    pub reports: Vec<Report>,
}

impl Loaded {
    /// Whether the configuration is refused.
    pub fn has_errors(&self) -> bool {
        self.spec.is_none()
    }
}

/// Definitions from the command line (`-D NAME`).
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Names defined.
    pub defines: Vec<String>,
    /// `ServerRoot` before the file sets one; `None`: the file's directory.
    pub server_root: Option<PathBuf>,
}

/// Reads a configuration with all it includes. Never fails fast: every error is in the reports.
///
/// `${NAME}` may come from this process's environment, or from a Debian `envvars` file beside
/// `file`.
pub fn load(file: &Path, options: &Options) -> Loaded {
    // A path that cannot be made absolute (no working directory) fails where it is read.
    let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    load_with(&source::Files, &file, options, Environment::of_process())
}

/// As [`load`], from any source of files and with any environment: depends on nothing else. `file`
/// is absolute.
pub fn load_with(
    source: &dyn source::Source,
    file: &Path,
    options: &Options,
    mut environment: Environment,
) -> Loaded {
    let directory = file.parent().unwrap_or(Path::new("/")).to_owned();
    if let Ok(script) = source.read(&directory.join("envvars"), MAX_ENVVARS_BYTES) {
        environment.read_envvars(&String::from_utf8_lossy(&script));
    }
    let start = syntax::tree::Start {
        source,
        environment: &environment,
        defines: &options.defines,
        server_root: options.server_root.clone().unwrap_or(directory),
        knows: directives::knows,
    };
    let tree = syntax::tree::read(start, file);
    let mut draft = draft::Draft::new(source, &environment, tree.server_root, tree.reports);
    directives::walk(&mut draft, &tree.nodes);
    resolve::resolve(draft, file)
}

/// Body of the fuzz target: reads `data` as a configuration and checks what must hold of any text.
pub fn fuzz_syntax(data: &[u8]) {
    let source = source::Memory::new("/fuzz/sluice.conf", data)
        .with("/fuzz/a.conf", &b"Listen 8081\n"[..])
        .with("/fuzz/d/b.conf", &b"Define B b\n"[..]);
    let environment = Environment::of([("E", "value"), ("EMPTY", "")]);
    let file = Path::new("/fuzz/sluice.conf");
    let loaded = load_with(&source, file, &Options::default(), environment);
    let errors = loaded
        .reports
        .iter()
        .filter(|report| report.severity == Severity::Error)
        .count();
    assert_eq!(
        loaded.spec.is_none(),
        errors > 0,
        "a Spec exactly when there is no error"
    );
    for report in &loaded.reports {
        let text = report.render();
        assert!(!text.contains('\u{1b}'), "a report cannot move the cursor");
        assert!(!report.message.is_empty());
    }
    if let Some(spec) = &loaded.spec {
        check_indexes(spec);
    }
}

/// Panics where a route, reverse or steered service names a balancer that is not there.
fn check_indexes(spec: &spec::Spec) {
    for steer in &spec.sluice.steers {
        assert!(
            steer.balancer < spec.balancers.len(),
            "a steered service's balancer exists"
        );
    }
    for host in &spec.hosts {
        for route in &host.routes {
            if let spec::Target::Balancer { balancer, .. } = &route.target {
                assert!(
                    *balancer < spec.balancers.len(),
                    "a route's balancer exists"
                );
            }
        }
        for reverse in &host.reverses {
            if let spec::ReverseTarget::Balancer { balancer, .. } = &reverse.target {
                assert!(
                    *balancer < spec.balancers.len(),
                    "a reverse's balancer exists"
                );
            }
        }
    }
}

/// Largest `envvars` file that is read, bytes.
const MAX_ENVVARS_BYTES: u64 = 64 << 10;

#[cfg(test)]
mod tests;
