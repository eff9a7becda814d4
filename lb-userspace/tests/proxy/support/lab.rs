//! A configuration in the making and the proxy that runs it.

use std::{
    net::{SocketAddr, TcpListener},
    os::fd::AsFd as _,
    path::PathBuf,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use lb_common::member::MemberId;
use sluice::{
    config::spec::{
        AccessLog, BadHeader, Balancer, Host, HostAddress, LbMethod, Listener, LogLevels,
        LogTarget, Mapping, Member as MemberSpec, Place, ReadTimeout, RequestLimits, Reverse,
        ReverseTarget, Route, Scheme, Spec, Sticky, Target,
    },
    dataplane::table::MemberTable,
    proxy::{Generation, LogFiles, Proxy, Setup, ShardListener},
    telemetry::counters::Counters,
};

use super::{Client, Reply};

/// A configuration in the making, and the proxy that runs it.
pub(crate) struct Lab {
    pub(crate) spec: Spec,
    pub(crate) address: SocketAddr,
    pub(crate) proxy: Proxy,
    pub(crate) table: Arc<MemberTable>,
    pub(crate) ids: Vec<Vec<MemberId>>,
    listener: TcpListener,
    shards: usize,
    generation: u64,
    next_id: u32,
}

impl Lab {
    /// A proxy of `shards` shards with nothing configured.
    pub(crate) fn new(shards: usize) -> Self {
        Self::limited(shards, usize::MAX)
    }

    /// As [`Lab::new`], for so many client connections at most.
    pub(crate) fn limited(shards: usize, clients: usize) -> Self {
        let (table, _members, _busy) = MemberTable::anonymous().expect("memory file");
        let table = Arc::new(table);
        let (counters, _file) = Counters::anonymous(shards).expect("memory file");
        let proxy = Proxy::start(Setup {
            table: Arc::clone(&table),
            column: 1,
            shards,
            cpus: Vec::new(),
            counters: Arc::new(counters),
            clients,
        })
        .expect("proxy");
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        // As sluice does by default. Silent connections come all the same, a second later.
        sluice::dataplane::sys::defer_accept(listener.as_fd(), 1).expect("option");
        let address = listener.local_addr().expect("address");
        let spec = Spec {
            listeners: vec![Listener {
                address,
                dual: false,
                deferred: false,
                at: Place::default(),
            }],
            hosts: vec![host()],
            listen_backlog: 511,
            ..Spec::default()
        };
        Self {
            spec,
            address,
            proxy,
            table,
            ids: Vec::new(),
            listener,
            shards,
            generation: 0,
            next_id: 1,
        }
    }

    /// One balancer `x` of these members behind `/`, running.
    pub(crate) fn balancing(members: &[SocketAddr]) -> Self {
        Self::configured(members, |_| {})
    }

    /// As [`Lab::balancing`], with the configuration changed first.
    pub(crate) fn configured(members: &[SocketAddr], change: impl FnOnce(&mut Spec)) -> Self {
        let mut lab = Self::new(2);
        lab.add_balancer("x", members);
        lab.route("/", 0, "/");
        change(&mut lab.spec);
        lab.apply();
        lab
    }

    pub(crate) fn add_balancer(&mut self, name: &str, members: &[SocketAddr]) -> usize {
        self.spec.balancers.push(Balancer {
            name: name.to_owned(),
            direct: false,
            members: members
                .iter()
                .enumerate()
                .map(|(index, &address)| member(index, address))
                .collect(),
            lbmethod: LbMethod::ByRequests,
            sticky: None,
            nofailover: false,
            timeout: Duration::ZERO,
            maxattempts: None,
            failonstatus: Vec::new(),
            failontimeout: false,
            forcerecovery: true,
            beyond: sluice::config::spec::Beyond::default(),
            manage: sluice::config::spec::Manage::default(),
            at: Place::default(),
        });
        self.spec.balancers.len() - 1
    }

    pub(crate) fn route(&mut self, path: &str, balancer: usize, target: &str) {
        self.spec.hosts[0].routes.push(Route {
            path: path.to_owned(),
            pattern: None,
            target: Target::Balancer {
                balancer,
                path: target.to_owned(),
            },
            nocanon: false,
            mapping: Mapping::default(),
            interpolate: false,
            at: Place::default(),
        });
    }

    /// Publishes the configuration: slots first, then the shards, as control does.
    pub(crate) fn apply(&mut self) {
        self.apply_logging(Vec::new());
    }

    pub(crate) fn apply_logging(&mut self, logs: LogFiles) {
        let socket = self.listener.try_clone().expect("clone");
        let listeners = (0..self.shards)
            .map(|shard| ShardListener {
                shard,
                listener: 0,
                socket: socket.try_clone().expect("clone"),
            })
            .collect();
        self.apply_with(listeners, logs);
    }

    pub(crate) fn apply_with(&mut self, listeners: Vec<ShardListener>, logs: LogFiles) {
        self.generation += 1;
        // Slots are kept by balancer and position as long as the count stays.
        for (index, balancer) in self.spec.balancers.iter().enumerate() {
            if self.ids.len() <= index {
                self.ids.push(Vec::new());
            }
            while self.ids[index].len() < balancer.members.len() {
                let id = MemberId(self.next_id);
                self.next_id += 1;
                let member = &balancer.members[self.ids[index].len()];
                let cell = self.table.cell(id).expect("slot");
                cell.incarnation.store(1, Relaxed);
                cell.set_state(member.status);
                self.ids[index].push(id);
            }
            self.ids[index].truncate(balancer.members.len());
            for (member, &id) in balancer.members.iter().zip(&self.ids[index]) {
                let cell = self.table.cell(id).expect("slot");
                let ip = member.host.parse().expect("literal address");
                cell.set_address(ip, member.port);
                cell.weight.store(member.lbfactor, Relaxed);
                cell.set_lbset(member.lbset);
            }
        }
        self.ids.truncate(self.spec.balancers.len());
        let generation = Generation {
            number: self.generation,
            spec: Arc::new(self.spec.clone()),
            certificates: sluice::proxy::tls::Certificates::default(),
            ids: self.ids.clone(),
        };
        self.proxy
            .apply(generation, listeners, logs)
            .expect("apply");
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(self.address)
    }

    /// One request on a connection of its own.
    pub(crate) fn get(&self, path: &str, fields: &str) -> Reply {
        self.client()
            .get(path, &format!("Connection: close\r\n{fields}"))
    }

    /// Sends raw bytes, returns everything that comes back until the proxy closes.
    pub(crate) fn raw(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut client = self.client();
        client.send(bytes);
        String::from_utf8_lossy(&client.rest().expect("read until the end")).into_owned()
    }

    /// The members' names in the order in which they answered.
    pub(crate) fn sequence(&self, requests: usize) -> String {
        (0..requests).map(|_| self.get("/", "").text()).collect()
    }

    pub(crate) fn cell(
        &self,
        balancer: usize,
        member: usize,
    ) -> &sluice::dataplane::sys::MemberCell {
        self.table.cell(self.ids[balancer][member]).expect("slot")
    }

    /// Requests in flight on a member.
    pub(crate) fn busy(&self, balancer: usize, member: usize) -> u64 {
        self.table.busy_sum(self.ids[balancer][member])
    }
}

/// A host with httpd's defaults.
pub(crate) fn host() -> Host {
    Host {
        addresses: Vec::new(),
        server_name: Some("main.test".to_owned()),
        server_port: None,
        aliases: Vec::new(),
        routes: Vec::new(),
        reverses: Vec::new(),
        encoded_slashes: sluice::config::spec::Slashes::Refused,
        preserve_host: false,
        add_headers: true,
        bad_header: BadHeader::default(),
        via: sluice::config::spec::Via::Off,
        max_forwards: None,
        naming: sluice::config::spec::Naming::default(),
        forwards_expect: true,
        policies: Vec::new(),
        locations: Vec::new(),
        proxies: Vec::new(),
        tls: None,
        protocols: sluice::config::spec::Protocols::default(),
        timeout: Duration::from_mins(1),
        proxy_timeout: None,
        keep_alive: true,
        keep_alive_timeout: Duration::from_secs(5),
        max_keep_alive_requests: 100,
        header_timeout: ReadTimeout::fixed(Duration::from_secs(20)),
        body_timeout: ReadTimeout::fixed(Duration::from_secs(20)),
        request_limits: RequestLimits::default(),
        access_logs: Vec::new(),
        error_log: None,
        error_log_format: None,
        log_levels: LogLevels::default(),
        at: Place::default(),
    }
}

/// A virtual host for a name on every address.
pub(crate) fn named_host(name: &str) -> Host {
    Host {
        addresses: vec![HostAddress {
            ip: None,
            port: None,
        }],
        server_name: Some(name.to_owned()),
        ..host()
    }
}

pub(crate) fn reverse(path: &str, target: ReverseTarget) -> Reverse {
    Reverse {
        path: path.to_owned(),
        location: None,
        target,
        interpolate: false,
    }
}

pub(crate) fn access_log(path: &std::path::Path, format: &str) -> AccessLog {
    AccessLog {
        target: LogTarget::File(PathBuf::from(path)),
        format: format.to_owned(),
        condition: None,
    }
}

pub(crate) fn sticky() -> Sticky {
    Sticky {
        cookie: "ROUTEID".to_owned(),
        path: "routeid".to_owned(),
        separator: Some('.'),
        scolonpathdelim: false,
        cookie_written: false,
    }
}

fn member(index: usize, address: SocketAddr) -> MemberSpec {
    MemberSpec {
        url: format!("http://{address}"),
        scheme: Scheme::Http,
        tls: None,
        host: address.ip().to_string(),
        port: address.port(),
        path: String::new(),
        lbfactor: 100,
        lbset: 0,
        route: format!("n{index}"),
        redirect: String::new(),
        status: 0,
        retry: Duration::from_mins(1),
        timeout: None,
        connection_timeout: None,
        ttl: None,
        max: None,
        acquire: None,
        keepalive: false,
        disablereuse: false,
        address_ttl: sluice::config::spec::AddressTtl::Record,
        response_field_size: 8192,
        receive_buffer: None,
        source: None,
        ping: None,
        ramp_up: None,
        socket: None,
        upgrade: sluice::config::spec::Upgrade::Never,
        health: sluice::config::spec::Health::default(),
        at: Place::default(),
    }
}
