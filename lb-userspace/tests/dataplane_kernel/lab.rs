//! What the tests work in: namespaces, a bpffs, a veth pair, and configurations.

use std::{
    env, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Output},
    sync::Arc,
    time::{Duration, Instant},
};

use aya::maps::{Array, Map, MapData};
use lb_common::meta::Meta;
use sluice::{
    admin::protocol::Snapshot,
    config::spec::{
        Balancer, FlowHash, Forward, Interface, LbMethod, Listener, Member, Place as At, Prefix,
        Scheme, Sluice, Spec, Steer, Transport, XdpMode,
    },
    dataplane::{Dataplane, DataplaneError, Desired, Place, read_pins},
};

/// Set, to the directory of the test, for the copy of this binary that runs inside the namespaces.
pub(crate) const INSIDE: &str = "SLUICE_TEST_INSIDE";

/// A test that runs in namespaces of its own.
macro_rules! isolated {
    (fn $name:ident($lab:ident) $body:block) => {
        #[test]
        fn $name() {
            let path = concat!(module_path!(), "::", stringify!($name));
            crate::lab::isolated(path, |$lab| $body);
        }
    };
}

/// A private bpffs and a veth pair `v0`, `v1`.
pub(crate) struct Lab {
    pub(crate) root: PathBuf,
    pub(crate) place: Place,
}

/// Runs `body` inside fresh namespaces. `path` is the test's own.
pub(crate) fn isolated(path: &str, body: impl FnOnce(&Lab)) {
    if env::var_os(INSIDE).is_some() {
        body(&Lab::build());
        return;
    }
    if let Some(missing) = missing() {
        assert!(env::var_os("CI").is_none(), "{path} needs {missing}");
        eprintln!("SKIPPED {path}: needs {missing}");
        return;
    }
    let (_, name) = path.split_once("::").expect("crate::module::test");
    let root = tempfile::tempdir().expect("temporary directory");
    let done = Command::new("unshare")
        .args(["--mount", "--net", "--propagation", "private"])
        .arg(env::current_exe().expect("own path"))
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(INSIDE, root.path())
        .output()
        .expect("unshare");
    let out = String::from_utf8_lossy(&done.stdout);
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{out}\n{said}");
    assert!(out.contains("1 passed"), "the copy ran no test: {out}");
    eprint!("{said}");
}

fn missing() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("root");
    }
    let paths = env::var_os("PATH").unwrap_or_default();
    let paths: Vec<PathBuf> = env::split_paths(&paths).collect();
    [
        "unshare", "nsenter", "mount", "ip", "bash", "timeout", "bpftool",
    ]
    .into_iter()
    .find(|tool| !paths.iter().any(|dir| dir.join(tool).exists()))
}

/// Runs a command that must succeed.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Output {
    let done = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(
        done.status.success(),
        "{program} {arguments:?}: {}{}",
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr)
    );
    done
}

pub(crate) fn ip(arguments: &str) {
    run("ip", &arguments.split(' ').collect::<Vec<_>>());
}

impl Lab {
    fn build() -> Self {
        let lab = Self::at(PathBuf::from(env::var_os(INSIDE).expect("set by isolated")));
        fs::create_dir(&lab.place.bpffs).expect("bpffs' directory");
        let bpffs = lab.place.bpffs.to_str().expect("utf-8");
        run("mount", &["-t", "bpf", "bpf", bpffs]);
        ip("link set lo up");
        veth();
        lab
    }

    /// The lab that another process has built.
    pub(crate) fn at(root: PathBuf) -> Self {
        Self {
            place: Place {
                instance: "one".to_owned(),
                bpffs: root.join("bpf"),
                run_dir: root.join("run"),
            },
            root,
        }
    }

    /// Path of a pin; of the directory for an empty name.
    pub(crate) fn pin(&self, name: &str) -> PathBuf {
        let directory = self.place.bpffs.join("sluice").join(&self.place.instance);
        if name.is_empty() {
            directory
        } else {
            directory.join(name)
        }
    }

    /// The pinned links.
    pub(crate) fn links(&self) -> Vec<PathBuf> {
        fs::read_dir(self.pin(""))
            .expect("pins")
            .map(|entry| entry.expect("entry").path())
            .filter(|path| path.to_string_lossy().contains("/link_"))
            .collect()
    }

    pub(crate) fn named(&self, instance: &str) -> Place {
        Place {
            instance: instance.to_owned(),
            ..self.place.clone()
        }
    }

    pub(crate) fn open(&self, interfaces: &[Interface]) -> Dataplane {
        Dataplane::open(&self.place, &with(interfaces)).unwrap_or_else(|error| panic!("{error}"))
    }

    pub(crate) fn refused(&self, interfaces: &[Interface]) -> DataplaneError {
        let opened = Dataplane::open(&self.place, &with(interfaces));
        opened.err().expect("it was opened")
    }

    pub(crate) fn read(&self) -> Snapshot {
        read_pins(&self.place).unwrap_or_else(|error| panic!("{error}"))
    }
}

pub(crate) fn veth() {
    ip("link add v0 type veth peer name v1");
    ip("link set v0 up");
    ip("link set v1 up");
}

pub(crate) fn on(name: &str, mode: XdpMode) -> Interface {
    Interface {
        name: name.to_owned(),
        mode,
        at: At::default(),
    }
}

/// Our own directives with these interfaces and nothing else.
pub(crate) fn with(interfaces: &[Interface]) -> Sluice {
    Sluice {
        interfaces: interfaces.to_vec(),
        ..Sluice::default()
    }
}

pub(crate) fn auto(name: &str) -> Interface {
    on(name, XdpMode::Auto)
}

fn member(url: &str) -> Member {
    Member {
        url: url.to_owned(),
        scheme: Scheme::Http,
        tls: None,
        host: "127.0.0.1".to_owned(),
        port: 80,
        path: String::new(),
        lbfactor: 100,
        lbset: 0,
        route: "r1".to_owned(),
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
        at: At::default(),
    }
}

/// One balancer `app` of these members, a listener on port 80.
pub(crate) fn app(urls: &[&str], interfaces: &[Interface]) -> Desired {
    let mut spec = Spec {
        listeners: vec![Listener {
            address: "[::]:80".parse().expect("address"),
            dual: true,
            deferred: false,
            at: At::default(),
        }],
        balancers: vec![Balancer {
            name: "app".to_owned(),
            direct: false,
            members: urls.iter().map(|url| member(url)).collect(),
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
            at: At::default(),
        }],
        ..Spec::default()
    };
    spec.sluice.interfaces = interfaces.to_vec();
    // By the name, wherever it stands in the list: a member with another address is another one.
    let port = |url: &&str| 7999 + u16::from(url.bytes().last().unwrap_or_default() & 0x1f);
    let addresses = (urls.iter().map(port))
        .map(|port| SocketAddr::from(([127, 0, 0, 1], port)))
        .collect();
    Desired::of(Arc::new(spec), vec![addresses]).expect("addresses")
}

/// One steered service over these interfaces.
pub(crate) fn steering(interfaces: &[Interface]) -> Desired {
    let mut desired = app(&["http://a"], interfaces);
    let spec = Arc::make_mut(&mut desired.spec);
    spec.balancers[0].members[0].scheme = Scheme::Tcp;
    spec.sluice.steers.push(Steer {
        transport: Transport::Tcp,
        address: Some("203.0.113.10".parse().expect("address")),
        first_port: 8000,
        last_port: 8000,
        balancer: 0,
        forward: Forward::Dsr,
        hash: FlowHash::FiveTuple,
        reset_on_empty: false,
        at: At::default(),
    });
    desired.addresses = vec![vec![SocketAddr::from(([192, 0, 2, 21], 8000))]];
    desired
}

pub(crate) fn prefix(network: &str, len: u8) -> Prefix {
    Prefix {
        network: network.parse().expect("address"),
        len,
    }
}

fn link(interface: &str) -> serde_json::Value {
    let out = run("ip", &["-j", "-d", "link", "show", "dev", interface]).stdout;
    let mut links: serde_json::Value = serde_json::from_slice(&out).expect("json");
    links[0].take()
}

/// Program id on an interface, 0: none.
pub(crate) fn program_on(interface: &str) -> u64 {
    link(interface)["xdp"]["prog"]["id"].as_u64().unwrap_or(0)
}

pub(crate) fn index_of(interface: &str) -> u64 {
    link(interface)["ifindex"].as_u64().expect("ifindex")
}

/// A process that this test started, ended with it.
pub(crate) struct Ended(pub(crate) Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A namespace that holds `v1` at 192.0.2.2; the other end is 192.0.2.1.
pub(crate) struct Peer(Ended);

impl Peer {
    pub(crate) fn build() -> Self {
        let child = Command::new("unshare")
            .args(["--net", "sleep", "120"])
            .spawn()
            .expect("unshare");
        let pid = child.id();
        let peer = Self(Ended(child));
        let ours = fs::read_link("/proc/self/ns/net").expect("namespace");
        until("unshare --net", || {
            fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|theirs| theirs != ours)
        });
        ip(&format!("link set v1 netns {pid}"));
        ip("addr add 192.0.2.1/24 dev v0");
        for command in ["ip addr add 192.0.2.2/24 dev v1", "ip link set v1 up"] {
            assert!(
                peer.run(&command.split(' ').collect::<Vec<_>>()),
                "{command}"
            );
        }
        peer
    }

    fn run(&self, command: &[&str]) -> bool {
        let pid = self.0.0.id().to_string();
        let mut nsenter = Command::new("nsenter");
        let done = nsenter.args(["-t", &pid, "-n"]).args(command).output();
        done.expect("nsenter").status.success()
    }

    /// Whether a connection to port 80 comes about within a second.
    pub(crate) fn connects(&self) -> bool {
        self.run(&[
            "timeout",
            "1",
            "bash",
            "-c",
            "exec 3<>/dev/tcp/192.0.2.1/80",
        ])
    }
}

/// Waits for something to become true.
pub(crate) fn until(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is() {
        assert!(Instant::now() < deadline, "{what}: not within 30 s");
        std::thread::yield_now();
    }
}

/// `META`'s only entry, opened as a stranger would.
pub(crate) fn meta(path: &Path) -> Array<MapData, Meta> {
    let map = Map::from_map_data(MapData::from_pin(path).expect("pin")).expect("map");
    Array::try_from(map).expect("META")
}
