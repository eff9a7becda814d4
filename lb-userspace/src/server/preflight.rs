//! What a configuration needs of this host, checked before anything is changed: members' names,
//! users, interfaces, log files. Binding is in [`super::listeners`].

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::{File, OpenOptions},
    io,
    net::{IpAddr, SocketAddr},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use tokio::task::JoinSet;

use super::{
    pipes::Piped,
    privileges::{Accounts, Identity, IdentityError},
};
use crate::{
    config::spec::{ErrorLogFormat, Interface, LogTarget, Member, Place, Spec},
    names::Answer,
    proxy::LogFiles,
    telemetry::{
        error_format::Format,
        error_log::{Log, Style, Target, Targets},
        sink::Sink,
        syslog::Syslog,
    },
};

/// What the host does not have.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PreflightError {
    /// A member's name has no address.
    #[error("{}:{}: BalancerMember {url}: {host} resolves to nothing: {source}", at.file.display(), at.line)]
    Resolve {
        /// Where it stands.
        at: Place,
        /// The member.
        url: String,
        /// Its host.
        host: String,
        /// The resolver's answer.
        source: io::Error,
    },
    /// `User` or `Group`.
    #[error("{file}: {source}", file = file.display())]
    Identity {
        /// The configuration.
        file: PathBuf,
        /// Which and why.
        source: IdentityError,
    },
    /// `XDPInterface`.
    #[error("{}:{}: XDPInterface {name}: no such interface on this host; it has {present}", at.file.display(), at.line)]
    Interface {
        /// Where it stands.
        at: Place,
        /// As written.
        name: String,
        /// What there is.
        present: String,
    },
    /// `ErrorLog` or `CustomLog`.
    #[error("log file {path} cannot be opened: {source}", path = path.display())]
    Log {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// `ErrorLog "|..."` or `CustomLog "|..."`.
    #[error("log program cannot be started: {command}: {source}")]
    Program {
        /// Its words.
        command: String,
        /// Why.
        source: io::Error,
    },
}

/// How long all names together may take to resolve.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Address of members behind a Unix socket: packets go to none.
const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0);

/// Address of every member: `[b][m]` of `spec.balancers[b].members[m]`, the unspecified one for
/// those in the second list. `known` are names that need not be asked for. Of a name the first address
/// the resolver gives, IPv4 before IPv6 as httpd's APR does with an IPv4 host.
///
/// This is the C library, so that a start needs no proxy; from then on the proxy asks.
pub(crate) async fn resolve(
    spec: &Spec,
    mut known: BTreeMap<String, IpAddr>,
) -> (Vec<Vec<SocketAddr>>, Vec<PreflightError>) {
    let members = || spec.balancers.iter().flat_map(|balancer| &balancer.members);
    let mut lookups = JoinSet::new();
    let unknown: BTreeSet<&str> = (members().filter_map(Member::name))
        .filter(|name| !known.contains_key(*name))
        .collect();
    for name in unknown {
        let name = name.to_owned();
        lookups.spawn(async move {
            let found = lookup(&name).await;
            (name, found)
        });
    }
    let mut failed: BTreeMap<String, io::Error> = BTreeMap::new();
    let all = async {
        while let Some(Ok((name, found))) = lookups.join_next().await {
            match found {
                Ok(ip) => drop(known.insert(name, ip)),
                Err(error) => drop(failed.insert(name, error)),
            }
        }
    };
    let _late_ones_are_missing = tokio::time::timeout(RESOLVE_TIMEOUT, all).await;
    let unresolved = (members())
        .filter(|member| member.name().is_some_and(|name| !known.contains_key(name)))
        .map(|member| PreflightError::Resolve {
            at: member.at.clone(),
            url: member.url.clone(),
            host: member.host.clone(),
            source: failed.get(&member.host).map_or_else(
                || io::ErrorKind::TimedOut.into(),
                |error| io::Error::new(error.kind(), error.to_string()),
            ),
        })
        .collect();
    let address = |member: &Member| match (&member.socket, member.host.parse()) {
        (Some(_), _) => NOWHERE,
        (None, Ok(ip)) => SocketAddr::new(ip, member.port),
        (None, Err(_)) => {
            let ip = known.get(&member.host).copied();
            SocketAddr::new(ip.unwrap_or(NOWHERE.ip()), member.port)
        }
    };
    let addresses = (spec.balancers.iter())
        .map(|balancer| balancer.members.iter().map(address).collect())
        .collect();
    (addresses, unresolved)
}

async fn lookup(name: &str) -> io::Result<IpAddr> {
    let found = tokio::net::lookup_host((name, 0)).await?;
    let answer = Answer::of(found.map(|address| address.ip()), Duration::ZERO);
    answer
        .map(|answer| answer.addresses[0])
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no usable address"))
}

/// The user the proxy runs as; `None` when control is not root and nothing can be changed.
pub(crate) fn identity(spec: &Spec) -> Result<Option<Identity>, PreflightError> {
    if !rustix::process::geteuid().is_root() {
        if let Some(user) = &spec.user {
            tracing::info!(
                notice = true,
                "User {user} has no effect: sluice was not started by root"
            );
        }
        return Ok(None);
    }
    Accounts::of_host(spec.user.as_deref(), spec.group.as_deref())
        .identity(spec.user.as_deref(), spec.group.as_deref())
        .map(Some)
        .map_err(|source| PreflightError::Identity {
            file: spec.file.clone(),
            source,
        })
}

/// An `XDPInterface` that is new to this configuration is there. One that was named before may have
/// gone meanwhile, and a start attaches to what appears later; but who reloads has most likely
/// mistyped a name that nothing has.
pub(crate) fn new_interfaces(spec: &Spec, before: &Spec) -> Result<(), PreflightError> {
    let known = &before.sluice.interfaces;
    let is_new = |name: &str| !known.iter().any(|known| known.name == name);
    let (missing, present) = missing(spec);
    match missing.into_iter().find(|missing| is_new(&missing.name)) {
        Some(interface) => Err(PreflightError::Interface {
            at: interface.at.clone(),
            name: interface.name.clone(),
            present,
        }),
        None => Ok(()),
    }
}

/// Every `XDPInterface` that is not there, for who checks a configuration.
pub(crate) fn missing_interfaces(spec: &Spec) -> Vec<String> {
    let (missing, present) = missing(spec);
    (missing.into_iter())
        .map(|Interface { name, at, .. }| {
            format!(
                "{}:{}: XDPInterface {name}: no such interface on this host now, which has {present}; \
                 the program is attached when it appears",
                at.file.display(),
                at.line
            )
        })
        .collect()
}

/// `XDPInterface`s that are not there, and the interfaces that are.
fn missing(spec: &Spec) -> (Vec<&Interface>, String) {
    // Of this network namespace, which a sysfs mounted elsewhere is not.
    let table = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
    let mut present: Vec<&str> = (table.lines().skip(2))
        .filter_map(|line| Some(line.split_once(':')?.0.trim()))
        .collect();
    present.sort_unstable();
    let missing = (spec.sluice.interfaces.iter())
        .filter(|interface| !present.contains(&interface.name.as_str()))
        .collect();
    (missing, present.join(", "))
}

/// What is there but does not do what somebody may think it does.
pub(crate) fn doubts(spec: &Spec) -> Vec<String> {
    let interfaces = &spec.sluice.interfaces;
    let outside = (spec.listeners.iter()).find(|l| !l.address.ip().to_canonical().is_loopback());
    match (&interfaces[..], outside) {
        ([only], Some(listener)) if only.name == "lo" => vec![format!(
            "{}:{}: XDPInterface lo sees what this host sends to itself and nothing else: what \
             others send to {} comes in by another interface, unguarded",
            only.at.file.display(),
            only.at.line,
            listener.address
        )],
        _ => Vec::new(),
    }
}

/// The logs of a configuration: files open for appending, and programs with the pipes they read.
#[derive(Debug, Default)]
pub(crate) struct Logs {
    files: HashMap<LogTarget, Arc<File>>,
    programs: Vec<Arc<Piped>>,
}

impl Logs {
    /// Opens (and creates, mode 0640) every log file, anew even when it was open before: that is
    /// how a rotated log is let go. A program that `previous` has already goes on.
    pub(crate) fn open(spec: &Spec, previous: Option<&Self>) -> Result<Self, PreflightError> {
        let targets = spec
            .hosts
            .iter()
            .flat_map(|host| {
                let access = host.access_logs.iter().map(|log| &log.target);
                host.error_log.iter().chain(access)
            })
            .chain([&spec.error_log]);
        let mut logs = Self::default();
        for target in targets {
            if logs.files.contains_key(target) {
                continue;
            }
            let file = match target {
                LogTarget::Stderr | LogTarget::Syslog { .. } => continue,
                LogTarget::File(path) => OpenOptions::new()
                    .append(true)
                    .create(true)
                    .mode(0o640)
                    // A FIFO without a reader must not hold up the start.
                    .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
                    .open(path)
                    .map(Arc::new)
                    .map_err(|source| PreflightError::Log {
                        path: path.clone(),
                        source,
                    })?,
                LogTarget::Program(program) => {
                    let running = previous.and_then(|logs| {
                        let mut known = logs.programs.iter();
                        known.find(|piped| piped.program() == program)
                    });
                    let piped = match running {
                        Some(piped) => Arc::clone(piped),
                        None => Piped::start(program).map(Arc::new).map_err(|source| {
                            PreflightError::Program {
                                command: program.words.join(" "),
                                source,
                            }
                        })?,
                    };
                    let end = Arc::clone(piped.end());
                    logs.programs.push(piped);
                    end
                }
            };
            logs.files.insert(target.clone(), file);
        }
        Ok(logs)
    }

    /// Whether a file is no longer the one of its name.
    pub(crate) fn are_rotated(&self) -> bool {
        let same = |target: &LogTarget, file: &File| {
            let LogTarget::File(path) = target else {
                return Some(true);
            };
            let (named, held) = (std::fs::metadata(path).ok()?, file.metadata().ok()?);
            Some((named.dev(), named.ino()) == (held.dev(), held.ino()))
        };
        (self.iter()).any(|(target, file)| same(target, file) != Some(true))
    }

    /// From what control sent.
    pub(crate) fn received(files: &LogFiles) -> io::Result<Self> {
        let files = files
            .iter()
            .map(|(target, file)| Ok((target.clone(), Arc::new(file.try_clone()?))))
            .collect::<io::Result<_>>()?;
        Ok(Self {
            files,
            programs: Vec::new(),
        })
    }

    /// What is written to.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&LogTarget, &File)> {
        self.files.iter().map(|(target, file)| (target, &**file))
    }

    /// Starts programs again that have ended. Once a second.
    pub(crate) fn tend(&self) {
        for piped in &self.programs {
            piped.tend();
        }
    }

    /// Where error lines go.
    pub(crate) fn error_targets(&self, spec: &Spec) -> Targets {
        let target = |target: &LogTarget| match target {
            LogTarget::Syslog { facility, tag } => {
                Target::Syslog(Arc::new(Syslog::new(*facility, tag)))
            }
            target => {
                let file = self.files.get(target).cloned();
                Target::Sink(file.map_or(Sink::Stderr, Sink::of))
            }
        };
        let style = |format: &ErrorLogFormat| match format {
            ErrorLogFormat::Default => Style::Default,
            ErrorLogFormat::Json => Style::Json,
            ErrorLogFormat::Format(text) => Style::Format(Arc::new(Format::compile(text))),
        };
        let main = Log {
            target: target(&spec.error_log),
            style: style(&spec.error_log_format),
            ..Log::default()
        };
        let mut hosts = Vec::with_capacity(spec.hosts.len());
        for host in &spec.hosts {
            hosts.push(Log {
                target: (host.error_log.as_ref()).map_or_else(|| main.target.clone(), target),
                style: (host.error_log_format.as_ref()).map_or_else(|| main.style.clone(), style),
                levels: host.log_levels.clone(),
                server_name: host.server_name.clone().unwrap_or_default(),
            });
        }
        Targets {
            main: hosts.first().cloned().unwrap_or(main),
            hosts,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::spec::{Listener, XdpMode};

    #[test]
    fn new_interface_that_is_not_there_is_named_with_those_there_are() {
        let mut spec = Spec::default();
        spec.sluice.interfaces.push(Interface {
            name: "nosuch0".to_owned(),
            mode: XdpMode::Auto,
            at: Place {
                file: "a.conf".into(),
                line: 9,
            },
        });
        let error = new_interfaces(&spec, &Spec::default()).expect_err("refused");
        let error = error.to_string();
        assert!(
            error.starts_with("a.conf:9: XDPInterface nosuch0"),
            "{error}"
        );
        assert!(error.contains("lo"), "{error}");
        // Who knew it before knows that it is gone.
        new_interfaces(&spec, &spec).expect("known");
        let warnings = missing_interfaces(&spec);
        assert_eq!(warnings.len(), 1, "{warnings:?}");
    }

    #[test]
    fn the_loopback_alone_guards_no_address_of_the_outside() {
        let at = Place {
            file: "a.conf".into(),
            line: 9,
        };
        let interface = |name: &str| Interface {
            name: name.to_owned(),
            mode: XdpMode::Auto,
            at: at.clone(),
        };
        let mut spec = Spec::default();
        spec.sluice.interfaces.push(interface("lo"));
        for (address, doubtful) in [
            ("127.0.0.1:80", false),
            ("[::1]:80", false),
            ("[::]:80", true),
        ] {
            spec.listeners = vec![Listener {
                address: address.parse().expect("address"),
                dual: false,
                deferred: false,
                at: at.clone(),
            }];
            assert_eq!(!doubts(&spec).is_empty(), doubtful, "{address}");
        }
        spec.sluice.interfaces.push(interface("eth0"));
        assert!(doubts(&spec).is_empty());
    }

    #[test]
    fn a_log_in_a_missing_directory_names_its_path() {
        let spec = Spec {
            error_log: LogTarget::File("/nonexistent/sluice/error.log".into()),
            ..Spec::default()
        };
        let error = Logs::open(&spec, None).expect_err("refused").to_string();
        assert!(error.contains("/nonexistent/sluice/error.log"), "{error}");
    }
}
