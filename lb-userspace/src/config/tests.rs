//! Snippets of configuration and what becomes of them.

use std::time::Duration;

use proptest::prelude::*;

use super::{
    source::Memory,
    spec::{Balancer, Spec, Target},
    *,
};

mod accepted;
mod balancers;
mod bounds;
mod forwarding;
mod http2;
mod refused;
mod steer;
mod tls;
mod variables;

/// Reads a text as /etc/sluice.conf.
fn read(text: impl Into<Vec<u8>>) -> Loaded {
    read_from(&Memory::new("/etc/sluice.conf", text))
}

fn read_from(source: &Memory) -> Loaded {
    let environment = Environment::of([("LOG_DIR", "/var/log/sluice"), ("EMPTY", "")]);
    let file = Path::new("/etc/sluice.conf");
    load_with(source, file, &Options::default(), environment)
}

fn rendered(loaded: &Loaded) -> String {
    let texts: Vec<String> = loaded.reports.iter().map(Report::render).collect();
    texts.join("\n")
}

/// The Spec of a text that must be accepted.
fn spec(text: &str) -> Spec {
    let loaded = read(text);
    let said = rendered(&loaded);
    loaded.spec.unwrap_or_else(|| panic!("refused:\n{said}"))
}

/// Line and message of what is said with a severity.
fn said(loaded: &Loaded, severity: Severity) -> Vec<(u32, &str)> {
    loaded
        .reports
        .iter()
        .filter(|report| report.severity == severity)
        .map(|report| (report.line, report.message.as_str()))
        .collect()
}

/// Listen for tests that are about something else.
const L: &str = "Listen 80\n";

fn balancer<'a>(spec: &'a Spec, name: &str) -> &'a Balancer {
    let found = spec.balancers.iter().find(|balancer| balancer.name == name);
    found.unwrap_or_else(|| panic!("no {name} in {:?}", spec.balancers))
}

/// Routes of a host as `path -> balancer+path`.
fn routes(spec: &Spec, host: usize) -> Vec<String> {
    spec.hosts[host]
        .routes
        .iter()
        .map(|route| match &route.target {
            Target::Local => format!("{} !", route.path),
            Target::Balancer { balancer, path } => {
                format!("{} {} {path}", route.path, spec.balancers[*balancer].name)
            }
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_bytes_make_it_panic(data in proptest::collection::vec(any::<u8>(), 0..400)) {
        fuzz_syntax(&data);
    }

    #[test]
    fn no_mix_of_words_makes_it_panic(words in proptest::collection::vec(word(), 0..60)) {
        fuzz_syntax(words.concat().as_bytes());
    }
}

/// Pieces of which lines that nearly make sense are put together.
fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => proptest::sample::select(PIECES).prop_map(str::to_owned),
        1 => "\\PC{0,12}",
    ]
}

const PIECES: &[&str] = &[
    "\n",
    "\n",
    "\n",
    "\n",
    " ",
    " ",
    " ",
    "\\\n",
    "\"",
    "'",
    "#",
    "<",
    ">",
    "</",
    "${E}",
    "${",
    "}",
    "${EMPTY}",
    "${X}",
    "Listen 80",
    "Listen ",
    "[::1]:80",
    "<VirtualHost *:80>",
    "</VirtualHost>",
    "<VirtualHost ",
    "<Proxy balancer://x>",
    "</Proxy>",
    "<Proxy http://h/>",
    "<Location /a>",
    "</Location>",
    "BalancerMember ",
    "http://h:8080/x",
    "http://h",
    "balancer://x",
    "balancer://y/z",
    "ProxyPass ",
    "/a ",
    "/a/ ",
    "/ ",
    "! ",
    "ProxySet ",
    "lbmethod=byrequests",
    "stickysession=S|s",
    "timeout=5",
    "loadfactor=1.5",
    "status=+H-D",
    "retry=",
    "max=9",
    "ProxyPassReverse ",
    "nocanon",
    "Define X ",
    "UnDefine X",
    "Include a.conf",
    "Include *.conf",
    "Include d",
    "Include sluice.conf",
    "IncludeOptional nothing",
    "<IfModule sluice_module>",
    "<IfModule !ssl_module>",
    "</IfModule>",
    "<IfDefine X>",
    "</IfDefine>",
    "<IfVersion >= 2.4>",
    "</IfVersion>",
    "GuardLimit syn 5/s",
    "GuardDeny 10.0.0.0/8",
    "GuardAllow ::/0",
    "XDPInterface eth0",
    "SluiceShards 4",
    "KeepAliveTimeout 5ms",
    "Timeout 5",
    "ServerName a.test",
    "ServerAlias *.b.test",
    "CustomLog l \"%h %>s\"",
    "LogFormat \"%{X}i\" n",
    "CustomLog l n",
    "ErrorLog e",
    "RequestReadTimeout header=20-40,MinRate=500",
    "SSLEngine on",
    "Require all granted",
    "Order allow,deny",
    "SetHandler server-status",
    "LoadModule a_module b.so",
];
