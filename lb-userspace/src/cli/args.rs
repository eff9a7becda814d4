//! Arguments of every command. Texts here are the manual.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};

use crate::dataplane::Place;

/// eBPF/XDP-assisted load balancer that reads Apache httpd's configuration.
#[derive(Debug, Parser)]
#[command(
    name = "sluice",
    version,
    max_term_width = 100,
    after_help = "Exit codes: 0 done, 1 configuration error or run-time failure, 2 usage, \
                  3 no usable dataplane, 4 not reachable (no daemon, no pins).\n\n\
                  `sluice COMMAND --help` tells more. First steps: `sluice configtest -f FILE`, \
                  `sluice doctor -f FILE`, `sluice run -f FILE`."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    /// Check the configuration and exit, as `httpd -t` (same as configtest).
    #[arg(short = 't')]
    pub(crate) test: bool,
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// Which instance, and where its things are.
#[derive(Clone, Debug, Args)]
pub(crate) struct Global {
    /// Instance to run or talk to; `run` takes SluiceInstance of the file when this is not given.
    #[arg(long, global = true, env = "SLUICE_INSTANCE", value_name = "NAME", value_parser = instance)]
    pub(crate) instance: Option<String>,
    /// Mounted bpf filesystem; pins are under DIR/sluice/INSTANCE.
    #[arg(
        long,
        global = true,
        env = "SLUICE_BPFFS",
        value_name = "DIR",
        default_value = "/sys/fs/bpf"
    )]
    pub(crate) bpffs: PathBuf,
    /// Directory of lock file and control socket [default: /run/sluice; for an ordinary user
    /// $XDG_RUNTIME_DIR/sluice].
    #[arg(long, global = true, env = "SLUICE_RUN_DIR", value_name = "DIR")]
    pub(crate) run_dir: Option<PathBuf>,
}

impl Global {
    /// Where the instance keeps its things.
    pub(crate) fn place(&self) -> Place {
        let instance = self
            .instance
            .clone()
            .unwrap_or_else(|| "default".to_owned());
        Place {
            run_dir: self
                .run_dir
                .clone()
                .unwrap_or_else(|| default_run_dir(&instance)),
            instance,
            bpffs: self.bpffs.clone(),
        }
    }
}

/// `/run/sluice`, unless an ordinary user asks and no daemon of root's is there.
fn default_run_dir(instance: &str) -> PathBuf {
    let system = PathBuf::from("/run/sluice");
    if rustix::process::geteuid().is_root() || system.join(format!("{instance}.sock")).exists() {
        return system;
    }
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(dir) => PathBuf::from(dir).join("sluice"),
        None => system,
    }
}

/// Which configuration.
#[derive(Clone, Debug, Args)]
pub(crate) struct ConfigArgs {
    /// Configuration file in Apache httpd's syntax.
    #[arg(
        short,
        long,
        value_name = "FILE",
        default_value = "/etc/sluice/sluice.conf"
    )]
    pub(crate) file: PathBuf,
    /// Define NAME for <IfDefine>, as httpd -D; repeatable.
    #[arg(short = 'D', long = "define", value_name = "NAME")]
    pub(crate) defines: Vec<String>,
}

/// How a reading command prints.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Json {
    /// Print JSON instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}

/// A member, as a person names it.
#[derive(Clone, Debug, Args)]
pub(crate) struct Which {
    /// Balancer's name, with or without balancer://.
    #[arg(value_name = "BALANCER")]
    pub(crate) balancer: String,
    /// Member's URL, route or HOST:PORT.
    #[arg(value_name = "MEMBER")]
    pub(crate) member: String,
}

/// A request that is only thought of.
#[derive(Clone, Debug, Args)]
pub(crate) struct RouteArgs {
    /// The URL as a client has it: http://HOST[:PORT]/PATH or https://...
    #[arg(value_name = "URL")]
    pub(crate) url: String,
    /// Method.
    #[arg(short = 'X', long, value_name = "METHOD", default_value = "GET")]
    pub(crate) method: String,
    /// A field of the request, as curl has it; repeatable. Host takes the place of the URL's.
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    pub(crate) fields: Vec<String>,
    /// The client's address [default: 127.0.0.1].
    #[arg(long = "from", value_name = "ADDRESS")]
    pub(crate) client: Option<std::net::IpAddr>,
    /// The address it connects to [default: the first listener of the URL's port].
    #[arg(long = "to", value_name = "ADDRESS:PORT")]
    pub(crate) local: Option<std::net::SocketAddr>,
    /// Ask this configuration file, and no daemon.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Define NAME for <IfDefine>, with -f; repeatable.
    #[arg(short = 'D', long = "define", value_name = "NAME", requires = "file")]
    pub(crate) defines: Vec<String>,
    /// Print JSON instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the service in the foreground.
    ///
    /// Signals: TERM and INT stop (requests in flight get 5 s; a second one ends at once), WINCH
    /// stops gracefully, USR1 and HUP read the configuration again and drop nothing.
    Run(RunArgs),
    /// Check the configuration: every error with file, line and column.
    Configtest(ConfigArgs),
    /// Show everything: processes, interfaces, members, services.
    Status(Json),
    /// Print metrics as Prometheus reads them; of a dead instance what its maps hold.
    Metrics,
    /// Show and change members of balancers.
    Member {
        #[command(subcommand)]
        command: MemberCommand,
    },
    /// Show services and their packet counters.
    Service {
        #[command(subcommand)]
        command: ServiceCommand,
    },
    /// Show the flows that are steered, and with which member each is.
    Flow {
        #[command(subcommand)]
        command: FlowCommand,
    },
    /// Tell where a packet would go, and why: the packet path's own code over the kernel's maps.
    ///
    /// Nothing is sent and nothing is written.
    Steer {
        /// tcp or udp.
        #[arg(value_name = "PROTO", value_parser = ["tcp", "udp"])]
        proto: String,
        /// The client: ADDRESS:PORT.
        source: std::net::SocketAddr,
        /// The service: ADDRESS:PORT.
        destination: std::net::SocketAddr,
        #[command(flatten)]
        json: Json,
    },
    /// Tell where a request would go, and why: virtual host, sections, rewriting, ProxyPass, session,
    /// and which member would be elected.
    ///
    /// The daemon is asked, with its members as they are; with -f the file alone, with its members as
    /// they begin. Nothing is sent, written or counted. The exit code is 0 whatever the answer is.
    Route(RouteArgs),
    /// Write packets with their verdicts into a pcapng file: verdict, reason, service and member are
    /// each packet's comment.
    ///
    /// tcpdump sees neither what XDP drops nor what it sends on. The first 224 bytes of each packet
    /// are kept, as it left; under load some are lost rather than anything slowed.
    Capture(CaptureArgs),
    /// Show and change the guard's limits.
    Limit {
        #[command(subcommand)]
        command: LimitCommand,
    },
    /// Deny sources at the network interface.
    Deny {
        #[command(subcommand)]
        command: DenyCommand,
    },
    /// Show and change run-time settings.
    #[command(args_conflicts_with_subcommands = true)]
    Settings {
        #[command(flatten)]
        json: Json,
        #[command(subcommand)]
        command: Option<SettingsCommand>,
    },
    /// Examine this host: kernel, bpf, interfaces, drivers, capabilities, and of what is steered who
    /// owns the VIPs, the ways to members and the room for packets.
    Doctor {
        #[command(flatten)]
        json: Json,
        /// Look at the interfaces that this configuration names, and at what it steers; without it,
        /// at all interfaces.
        #[arg(short, long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// Look at this host as a member that packets for these addresses are steered to, and at
        /// nothing else: who holds them, ARP settings, tunnels.
        #[arg(
            long,
            value_name = "VIP",
            value_delimiter = ',',
            conflicts_with = "file"
        )]
        member: Vec<std::net::IpAddr>,
    },
    /// Read the configuration again (as USR1). A failing reload changes nothing.
    Reload,
    /// Become another build of sluice, or the same one anew, without losing a connection.
    ///
    /// The new program is asked first whether it accepts the configuration and this host; one that
    /// does not, or that fails to start, changes nothing (exit code 1). Then the running control
    /// becomes it, under the same process id; its proxy takes the listening sockets, and the proxy
    /// of before answers the requests that it has. Also applies what a reload cannot: SluiceShards,
    /// User, Group.
    Upgrade {
        /// The new program [default: what lies where the running one was started from].
        #[arg(long, value_name = "PATH")]
        binary: Option<PathBuf>,
        /// How long the proxy of before may take to finish [default: GracefulShutdownTimeout].
        #[arg(long, value_name = "TIME", value_parser = duration)]
        deadline: Option<Duration>,
    },
    /// Stop the service.
    Stop {
        /// Wait for requests in flight, at most GracefulShutdownTimeout.
        #[arg(long)]
        graceful: bool,
    },
    /// Take the XDP program off the interfaces; the proxy goes on. Works on a dead instance too.
    Detach {
        /// Do not ask.
        #[arg(short, long)]
        yes: bool,
    },
    /// Print versions.
    Version,
    /// Print a manual page, for man(1): sluice(1), or that of a command.
    #[command(hide = true)]
    Man {
        /// Command, for example `member drain`.
        command: Vec<String>,
    },
    /// Print completions for a shell.
    #[command(hide = true)]
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Run the proxy without kernel maps and XDP, whatever the file asks for.
    #[arg(long)]
    pub(crate) no_xdp: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum MemberCommand {
    /// Table of members, as packets and requests see them.
    List {
        /// Of this balancer only.
        balancer: Option<String>,
        #[command(flatten)]
        json: Json,
    },
    /// Everything about one member.
    Show {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        json: Json,
    },
    #[command(flatten)]
    Change(MemberChangeCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum MemberChangeCommand {
    /// No new sessions (N); those it has stay.
    Drain(Which),
    /// Take it out (D).
    Disable(Which),
    /// Put it back: clears D, N, S and an error.
    Enable(Which),
    /// Change settings: loadfactor=1..100, lbset=0..99, status=+H-D.
    Set {
        #[command(flatten)]
        which: Which,
        /// One or more KEY=VALUE; all are made or none.
        #[arg(value_name = "KEY=VALUE", required = true)]
        changes: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ServiceCommand {
    /// Table of services.
    List(Json),
    /// Limits and counters by reason of one service.
    Show {
        /// Its id or address as `service list` prints it; 0: the rest of the host's traffic.
        service: String,
        #[command(flatten)]
        json: Json,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum FlowCommand {
    /// Table of flows, straight from the kernel's maps, and how many there are by state.
    List(FlowListArgs),
    /// The flows of one client address and port.
    Show {
        /// ADDRESS:PORT of the client.
        source: std::net::SocketAddr,
        #[command(flatten)]
        json: Json,
    },
}

#[derive(Debug, Args)]
pub(crate) struct CaptureArgs {
    /// The file; it is overwritten.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) write: PathBuf,
    /// Packets with this verdict only.
    #[arg(long, value_parser = ["pass", "drop", "send"])]
    pub(crate) verdict: Option<String>,
    /// With this reason only, as docs/reasons.md names it.
    #[arg(long, value_name = "NAME")]
    pub(crate) reason: Option<String>,
    /// Of this service only: its id, its address, or tcp://ADDRESS:PORT.
    #[arg(long, value_name = "SERVICE")]
    pub(crate) service: Option<String>,
    /// To this member only: its URL, route or HOST:PORT.
    #[arg(long, value_name = "MEMBER")]
    pub(crate) member: Option<String>,
    /// With this end only: ADDRESS:PORT; port 0 is any.
    #[arg(long, value_name = "END")]
    pub(crate) flow: Option<std::net::SocketAddr>,
    /// One packet in N of those that match.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) every: u64,
    /// End after so many packets.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub(crate) count: u64,
    /// End after this time.
    #[arg(long = "for", value_name = "TIME", default_value = "1m", value_parser = duration)]
    pub(crate) time: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct FlowListArgs {
    /// From this client only.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) source: Option<std::net::IpAddr>,
    /// Of this service only: its id as `service list` prints it.
    #[arg(long, value_name = "ID")]
    pub(crate) service: Option<u16>,
    /// With this member only: its URL, or HOST:PORT.
    #[arg(long, value_name = "MEMBER")]
    pub(crate) member: Option<String>,
    /// List at most so many; all are counted.
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(crate) most: usize,
    #[command(flatten)]
    pub(crate) json: Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum LimitCommand {
    /// Table of limits.
    List(Json),
    /// Replace one limit until the next reload changes it: `limit set tcp://192.0.2.1:80 syn 100/s
    /// burst=200`.
    Set {
        /// Service: its name or id as `limit list` and `service list` print it, or ADDRESS:PORT; `host`
        /// or 0: the host's ICMP.
        service: String,
        /// As GuardLimit takes it, or KIND off.
        #[arg(value_name = "LIMIT", required = true)]
        limit: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum DenyCommand {
    /// Deny a prefix. Refuses what would cut you or this host off, unless forced.
    Add {
        /// Address or CIDR prefix.
        prefix: String,
        /// For how long: 30s, 10m, 2h, 1d; until deleted when not given.
        #[arg(long = "for", value_name = "TIME", value_parser = duration)]
        time: Option<Duration>,
        /// Even your own address, the gateway, a member.
        #[arg(long)]
        force: bool,
    },
    /// Deny it no longer.
    Del {
        /// As it was added.
        prefix: String,
    },
    /// Table of denied and allowed prefixes.
    List(Json),
}

#[derive(Debug, Subcommand)]
pub(crate) enum SettingsCommand {
    /// Table of settings.
    List(Json),
    /// Change one: guard on|off, log on|off, log_every N.
    Set {
        /// Name.
        name: String,
        /// Value.
        value: String,
    },
}

/// A file name without surprises.
fn instance(text: &str) -> Result<String, String> {
    // As SluiceInstance; a bpf file system refuses dots.
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if (1..=64).contains(&text.len()) && text.chars().all(good) {
        Ok(text.to_owned())
    } else {
        Err("1 to 64 ASCII letters, digits, - and _".to_owned())
    }
}

/// `30`, `30s`, `10m`, `2h`, `1d`; at least a second.
fn duration(text: &str) -> Result<Duration, String> {
    let expected = || format!("{text:?} is not a time; expected 30s, 10m, 2h or 1d");
    let (number, unit) = match text.char_indices().last() {
        Some((at, unit)) if unit.is_ascii_alphabetic() => (&text[..at], unit),
        _ => (text, 's'),
    };
    let factor = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(expected()),
    };
    number
        .parse::<u64>()
        .ok()
        .filter(|n| *n > 0 && !number.starts_with('+'))
        .and_then(|n| n.checked_mul(factor))
        // A century: beyond it the kernel's clock in ns would overflow one day.
        .filter(|seconds| *seconds <= 100 * 366 * 86_400)
        .map(Duration::from_secs)
        .ok_or_else(expected)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    /// Help of a command and of all below it.
    fn document(command: &mut clap::Command, path: &str, page: &mut String) {
        let name = format!("{path}{}", command.get_name());
        let help = if path.is_empty() {
            command.render_long_help()
        } else {
            // Said once, at the top.
            let everywhere = ["instance", "bpffs", "run_dir", "help", "version"];
            let mut own = command.clone().mut_args(|arg| {
                let hidden = everywhere.contains(&arg.get_id().as_str());
                arg.hide(hidden)
            });
            own.render_long_help()
        };
        let lines: Vec<String> = help
            .to_string()
            .lines()
            .map(|line| line.trim_end().to_owned())
            .collect();
        let depth = if path.is_empty() { "##" } else { "###" };
        page.extend([
            "\n",
            depth,
            " ",
            &name,
            "\n\n```text\n",
            lines.join("\n").trim_end(),
            "\n```\n",
        ]);
        for inner in command.get_subcommands_mut() {
            if inner.get_name() != "help" && !inner.is_hide_set() {
                document(inner, &format!("{name} "), page);
            }
        }
    }

    #[test]
    fn the_manual_is_what_help_prints() {
        let mut page = String::from(
            "# The command line\n\nEvery command with its help, as `sluice COMMAND --help` prints it; the options for every command\nare in the first section alone. A test keeps this page true;\n`SLUICE_BLESS=1 cargo test -p sluice the_manual` writes it anew.\n",
        );
        // Environment variables of whoever runs the test are no part of the manual.
        let mut command = Cli::command()
            .term_width(96)
            .mut_args(|arg| arg.hide_env_values(true));
        command.build();
        document(&mut command, "", &mut page);
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/cli.md");
        if std::env::var_os("SLUICE_BLESS").is_some() {
            std::fs::write(&path, &page).expect("docs/cli.md written");
        }
        let kept = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            kept == page,
            "docs/cli.md is not what the commands say; SLUICE_BLESS=1 writes it"
        );
    }

    #[test]
    fn commands_are_read() {
        for line in [
            "sluice -t -f a.conf",
            "sluice run -f a.conf -D X -D Y --no-xdp --instance two --run-dir /tmp/r",
            "sluice --instance two status --json",
            "sluice metrics",
            "sluice status --instance two --json",
            "sluice member list --json",
            "sluice member list app",
            "sluice member drain app node1",
            "sluice member set app http://m loadfactor=2 status=+H",
            "sluice deny add 192.0.2.0/24 --for 10m --force",
            "sluice flow list --source 192.0.2.1 --service 3 --most 5 --json",
            "sluice flow show [2001:db8::1]:4000",
            "sluice steer tcp 198.51.100.7:4000 192.0.2.1:443 --json",
            "sluice capture --verdict drop --service 3 --flow 192.0.2.7:0 --count 9 --for 10s -w x.pcapng",
            "sluice settings --json",
            "sluice settings list --json",
            "sluice settings set guard off",
            "sluice limit set 1 syn 100/s burst=5",
            "sluice stop --graceful",
            "sluice detach --yes",
            "sluice doctor --json",
            "sluice man member drain",
            "sluice completions bash",
        ] {
            let parsed = Cli::try_parse_from(line.split(' '));
            assert!(parsed.is_ok(), "{line}: {}", parsed.expect_err("failed"));
        }
        for line in [
            "sluice member set app m",
            "sluice member drain app",
            "sluice deny add 10.0.0.0/8 --for soon",
            "sluice --instance ../x status",
            "sluice --instance a.b status",
            "sluice frobnicate",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }

    #[test]
    fn times_have_units() {
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("10m"), Ok(Duration::from_mins(10)));
        assert_eq!(duration("1d"), Ok(Duration::from_hours(24)));
        for wrong in [
            "",
            "m",
            "0s",
            "-1s",
            "1w",
            "+1s",
            "1.5h",
            "99999999999d",
            "5µ",
        ] {
            assert!(duration(wrong).is_err(), "{wrong:?}");
        }
    }
}
