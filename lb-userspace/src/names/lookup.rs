//! Asking for a name as the host's own programs do: the hosts file, the name servers of
//! resolv.conf, and what else the C library knows when these know nothing. Both files are read as
//! they are at the moment of asking.

use std::{
    fs, io, io::Read as _, net::IpAddr, os::unix::fs::MetadataExt as _, rc::Rc, time::Duration,
};

use domain::{
    base::{
        Rtype,
        iana::Rcode,
        name::{Name, ToName as _},
    },
    rdata::{A, Aaaa, Ptr},
    resolv::stub::{StubResolver, conf::ResolvConf},
};

pub(super) use domain::resolv::stub::StubResolver as Resolver;

use super::{Answer, MOST_ADDRESSES};

const HOSTS: &str = "/etc/hosts";
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// How long an answer holds whose source knows no time: the hosts file, the C library.
const UNTIMED: Duration = Duration::from_secs(10);
/// For one name, all that is asked for it.
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);
/// For the IPv6 addresses of a name that has others.
const OTHERS_TIMEOUT: Duration = Duration::from_secs(2);
/// More than this of either file is not read.
const MOST_BYTES: u64 = 4 << 20;

/// Why a name has no address now.
#[derive(Debug, thiserror::Error)]
pub(super) enum LookupError {
    /// Not something that can be asked for.
    #[error("this is no name that can be resolved")]
    Name,
    /// NXDOMAIN, or no address under the name.
    #[error("the name has no address")]
    Nothing,
    /// SERVFAIL, REFUSED and the like.
    #[error("the name server answered {0}")]
    Answered(Rcode),
    /// What came is not a DNS message, or cannot be followed.
    #[error("the name server's answer is malformed")]
    Malformed,
    /// No answer.
    #[error("no answer from a name server: {0}")]
    Io(#[from] io::Error),
    /// [`TIMEOUT`].
    #[error("no answer within {} s", TIMEOUT.as_secs())]
    TimedOut,
}

/// Who is asked.
#[derive(Default)]
pub(super) struct Lookup {
    servers: Option<Servers>,
}

/// The name servers of one state of resolv.conf.
struct Servers {
    stamp: Option<Stamp>,
    resolver: Rc<StubResolver>,
}

/// Tells one state of a file from another.
type Stamp = (u64, u64, u64, i64, i64);

impl Lookup {
    /// The addresses of a name. Bounded in time and memory.
    pub(super) async fn ask(&mut self, host: &str) -> Result<Answer, LookupError> {
        let found = tokio::time::timeout(TIMEOUT, self.ask_all(host));
        found.await.unwrap_or(Err(LookupError::TimedOut))
    }

    async fn ask_all(&mut self, host: &str) -> Result<Answer, LookupError> {
        if let Some(answer) = Answer::of(in_hosts(&read(HOSTS), host), UNTIMED) {
            return Ok(answer);
        }
        let asked = self.ask_servers(host).await;
        if asked.is_err() {
            // Connections to name servers begin anew.
            self.forget();
        }
        match asked {
            Ok(answer) => Ok(answer),
            // nsswitch.conf may know more: mDNS, LDAP, containers of this host.
            Err(error) => Self::ask_library(host).await.ok_or(error),
        }
    }

    async fn ask_library(host: &str) -> Option<Answer> {
        let found = tokio::net::lookup_host((host, 0)).await.ok()?;
        Answer::of(found.map(|address| address.ip()), UNTIMED)
    }

    async fn ask_servers(&mut self, host: &str) -> Result<Answer, LookupError> {
        let resolver = self.resolver();
        let mut error = LookupError::Nothing;
        for name in candidates(host, &resolver)? {
            match ask_name(&resolver, &name).await {
                Ok(Some(answer)) => return Ok(answer),
                Ok(None) => {}
                Err(failed) => error = failed,
            }
        }
        Err(error)
    }

    /// Has the next question asked over new connections.
    pub(super) fn forget(&mut self) {
        self.servers = None;
    }

    /// The name servers that resolv.conf has now.
    pub(super) fn resolver(&mut self) -> Rc<StubResolver> {
        let stamp = stamp(RESOLV_CONF);
        if let Some(servers) = &self.servers
            && servers.stamp == stamp
        {
            return Rc::clone(&servers.resolver);
        }
        let resolver = Rc::new(StubResolver::from_conf(configuration(&read(RESOLV_CONF))));
        self.servers = Some(Servers {
            stamp,
            resolver: Rc::clone(&resolver),
        });
        resolver
    }
}

/// Every address of a name, [`MOST_ADDRESSES`] at most, and how long that holds: the hosts file's, else
/// the name servers'. None: there are none.
pub(super) async fn addresses(
    resolver: &StubResolver,
    host: &str,
) -> Result<(Vec<IpAddr>, Duration), LookupError> {
    let listed: Vec<IpAddr> = (in_hosts(&read(HOSTS), host).map(|ip| ip.to_canonical()))
        .take(MOST_ADDRESSES)
        .collect();
    if !listed.is_empty() {
        return Ok((listed, UNTIMED));
    }
    let mut failed = None;
    for name in candidates(host, resolver)? {
        let (mut found, mut holds) = (Vec::new(), Duration::MAX);
        for kind in [Rtype::A, Rtype::AAAA] {
            match ask_type(resolver, &name, kind).await {
                Ok((addresses, ttl)) => {
                    found.extend(addresses.into_iter().map(|ip| ip.to_canonical()));
                    holds = holds.min(ttl);
                }
                Err(error) => failed = Some(error),
            }
        }
        if !found.is_empty() {
            found.truncate(MOST_ADDRESSES);
            return Ok((found, holds));
        }
    }
    failed.map_or(Ok((Vec::new(), UNTIMED)), Err)
}

/// What an address is called, by the hosts file or else its name server, and how long that holds.
/// Whoever answers for the address can say any name.
pub(super) async fn name(
    resolver: &StubResolver,
    address: IpAddr,
) -> Result<Option<(String, Duration)>, LookupError> {
    if let Some(name) = listed_name(&read(HOSTS), address) {
        return Ok(Some((name, UNTIMED)));
    }
    let asked: Name<Vec<u8>> = Name::reverse_from_addr(address).map_err(|_| LookupError::Name)?;
    let message = resolver.query((asked, Rtype::PTR)).await?.into_message();
    match message.header().rcode() {
        Rcode::NOERROR | Rcode::NXDOMAIN => {}
        other => return Err(LookupError::Answered(other)),
    }
    let malformed = |_| LookupError::Malformed;
    let owner = message.canonical_name().ok_or(LookupError::Malformed)?;
    let mut holds = Duration::MAX;
    for record in message.answer().map_err(malformed)? {
        let record = record.map_err(malformed)?;
        holds = holds.min(Duration::from_secs(u64::from(record.ttl().as_secs())));
        if record.rtype() == Rtype::PTR && record.owner().name_eq(&owner) {
            let record = record.to_record::<Ptr<_>>().map_err(malformed)?;
            return Ok(record.map(|record| (record.data().ptrdname().to_string(), holds)));
        }
    }
    Ok(None)
}

/// The first name that a hosts file has for an address.
fn listed_name(text: &str, address: IpAddr) -> Option<String> {
    text.lines().find_map(|line| {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let listed: IpAddr = words.next()?.parse().ok()?;
        let name = words.next()?;
        (listed.to_canonical() == address).then(|| name.to_owned())
    })
}

/// One name, IPv4 first. `None`: it has no address. What fails of IPv6 counts only where there is no
/// IPv4.
async fn ask_name(
    resolver: &StubResolver,
    name: &Name<Vec<u8>>,
) -> Result<Option<Answer>, LookupError> {
    let (addresses, ttl) = ask_type(resolver, name, Rtype::A).await?;
    let others = ask_type(resolver, name, Rtype::AAAA);
    if Answer::of(addresses.iter().copied(), ttl).is_none() {
        let (addresses, ttl) = others.await?;
        return Ok(Answer::of(addresses, ttl));
    }
    let others = tokio::time::timeout(OTHERS_TIMEOUT, others).await;
    let (others, others_ttl) = (others.ok().and_then(Result::ok))
        .filter(|(others, _)| !others.is_empty())
        .unwrap_or((Vec::new(), Duration::MAX));
    Ok(Answer::of(
        addresses.into_iter().chain(others),
        ttl.min(others_ttl),
    ))
}

/// The addresses, and the shortest time of the records that led to them.
async fn ask_type(
    resolver: &StubResolver,
    name: &Name<Vec<u8>>,
    kind: Rtype,
) -> Result<(Vec<IpAddr>, Duration), LookupError> {
    let message = resolver.query((name, kind)).await?.into_message();
    match message.header().rcode() {
        Rcode::NOERROR | Rcode::NXDOMAIN => {}
        other => return Err(LookupError::Answered(other)),
    }
    let malformed = |_| LookupError::Malformed;
    // Follows aliases, and gives up on a loop.
    let owner = message.canonical_name().ok_or(LookupError::Malformed)?;
    let mut addresses = Vec::new();
    let mut ttl = Duration::MAX;
    for record in message.answer().map_err(malformed)? {
        let record = record.map_err(malformed)?;
        let address = match record.rtype() {
            Rtype::CNAME => None,
            Rtype::A if kind == Rtype::A && record.owner().name_eq(&owner) => {
                let record = record.to_record::<A>().map_err(malformed)?;
                record.map(|record| IpAddr::V4(record.data().addr()))
            }
            Rtype::AAAA if kind == Rtype::AAAA && record.owner().name_eq(&owner) => {
                let record = record.to_record::<Aaaa>().map_err(malformed)?;
                record.map(|record| IpAddr::V6(record.data().addr()))
            }
            _ => continue,
        };
        ttl = ttl.min(Duration::from_secs(u64::from(record.ttl().as_secs())));
        addresses.extend(address);
    }
    Ok((addresses, ttl))
}

/// The names that are tried for a host, in the order of resolv.conf(5): as it is when it has as many
/// dots as `ndots` says, else with the domains of `search` first.
fn candidates(host: &str, resolver: &StubResolver) -> Result<Vec<Name<Vec<u8>>>, LookupError> {
    let options = resolver.options();
    let absolute: Name<Vec<u8>> = host.parse().map_err(|_| LookupError::Name)?;
    if host.ends_with('.') {
        return Ok(vec![absolute]);
    }
    let searched = (options.search.as_slice().iter())
        .filter(|suffix| !suffix.is_root())
        .filter_map(|suffix| format!("{host}.{suffix}").parse().ok());
    let mut names: Vec<Name<Vec<u8>>> = searched.collect();
    let dots = host.bytes().filter(|byte| *byte == b'.').count();
    if dots >= options.ndots {
        names.insert(0, absolute);
    } else {
        names.push(absolute);
    }
    Ok(names)
}

/// resolv.conf, a line that cannot be read left out.
fn configuration(text: &str) -> ResolvConf {
    let mut found = ResolvConf::new();
    for line in text.lines().map(str::trim) {
        let mut words = line.split_whitespace();
        // A name server by name would have to be looked up to be asked.
        if words.next() == Some("nameserver")
            && words
                .next()
                .is_none_or(|word| word.parse::<IpAddr>().is_err())
        {
            continue;
        }
        let _left_out = found.parse(&mut line.as_bytes());
    }
    found.finalize();
    found
}

/// The addresses that a hosts file gives for a name.
fn in_hosts<'a>(text: &'a str, host: &'a str) -> impl Iterator<Item = IpAddr> + 'a {
    text.lines().filter_map(move |line| {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let address = words.next()?.parse().ok()?;
        words
            .any(|word| word.eq_ignore_ascii_case(host))
            .then_some(address)
    })
}

/// A file's text; what cannot be read is empty, as it is to the C library.
fn read(path: &str) -> String {
    let mut bytes = Vec::new();
    if let Ok(file) = fs::File::open(path) {
        let _partly = file.take(MOST_BYTES).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn stamp(path: &str) -> Option<Stamp> {
    let of = fs::metadata(path).ok()?;
    Some((of.dev(), of.ino(), of.size(), of.mtime(), of.mtime_nsec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(host: &str, conf: &str) -> Vec<String> {
        let resolver = StubResolver::from_conf(configuration(conf));
        let names = candidates(host, &resolver).expect("a name");
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn search_domains_are_tried_as_resolv_conf_says() {
        let conf = "nameserver 192.0.2.1\nsearch a.test b.test\noptions ndots:2 trust-ad\n";
        assert_eq!(names("app", conf), ["app.a.test", "app.b.test", "app"]);
        assert_eq!(
            names("app.svc", conf),
            ["app.svc.a.test", "app.svc.b.test", "app.svc"]
        );
        assert_eq!(names("x.app.svc", conf)[0], "x.app.svc");
        assert_eq!(names("app.", conf), ["app"]);
        assert_eq!(names("app", ""), ["app"]);
    }

    #[test]
    fn a_line_that_cannot_be_read_hides_no_other() {
        let conf = "\
            nonsense\n  nameserver 192.0.2.1\nnameserver\nnameserver ns.test\n\
            search -.-..\nnameserver 2001:db8::1\noptions timeout:99999999999999999999\n";
        let found: Vec<IpAddr> = (configuration(conf).servers.iter())
            .map(|server| server.addr.ip())
            .collect();
        let wanted: [IpAddr; 2] = ["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        assert_eq!(found, wanted);
    }

    #[test]
    fn hosts_are_found_by_any_of_their_names() {
        let hosts =
            "127.0.0.1 localhost\n192.0.2.7\tapp.test App # app2\nnonsense app\n192.0.2.8 app\n";
        let found: Vec<String> = in_hosts(hosts, "app").map(|ip| ip.to_string()).collect();
        assert_eq!(found, ["192.0.2.7", "192.0.2.8"]);
        assert_eq!(in_hosts(hosts, "app2").count(), 0);
        let name = |address: &str| listed_name(hosts, address.parse().expect("an address"));
        assert_eq!(name("192.0.2.7").as_deref(), Some("app.test"));
        assert_eq!(name("::ffff:192.0.2.7"), None);
        assert_eq!(name("192.0.2.9"), None);
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let resolver = StubResolver::from_conf(configuration(""));
        let long = "a".repeat(64);
        for host in ["", "a..b", long.as_str()] {
            assert!(candidates(host, &resolver).is_err(), "{host:?}");
        }
    }
}
