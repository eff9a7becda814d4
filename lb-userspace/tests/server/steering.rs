//! Shards: how many, on which CPUs, and that a connection goes to the shard of the CPU that
//! received it.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Instant,
};

use rustix::{
    process::Signal,
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};
use serde_json::Value;

use super::harness::{Client, Member, PATIENCE, Sluice, fetch, free_port, send_signal, wait_until};

fn own_cpus() -> Vec<usize> {
    let mask = sched_getaffinity(None).expect("mask");
    (0..CpuSet::MAX_CPU)
        .filter(|cpu| mask.is_set(*cpu))
        .collect()
}

/// Whether the kernel goes by `SO_INCOMING_CPU` in a group of sockets: since 6.2.
fn kernel_steers() -> bool {
    let release = rustix::system::uname();
    let release = release.release().to_string_lossy().into_owned();
    let mut numbers = release
        .split('.')
        .map_while(|part| part.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(2))
}

/// Connections of each CPU to each address.
const EACH: u64 = 12;

/// One request over a connection whose packets are sent, and over loopback received, on a CPU.
fn ask_from(cpu: usize, address: SocketAddr) {
    let asked = thread::spawn(move || {
        let mut mask = CpuSet::new();
        mask.set(cpu);
        sched_setaffinity(None, &mask).expect("pinned");
        let mut stream = TcpStream::connect(address).expect("connect");
        stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
            .expect("send");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answer");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    });
    asked.join().expect("client");
}

/// Accepted connections by the CPU of their shard.
fn accepted(status: &Value) -> Vec<(Option<u64>, u64)> {
    let list = status["shard_list"].as_array().expect("shards");
    list.iter()
        .map(|shard| {
            let accepted = shard["accepted"].as_u64().expect("a count");
            (shard["cpu"].as_u64(), accepted)
        })
        .collect()
}

fn accepted_on(status: &Value, cpu: usize) -> u64 {
    let list = accepted(status);
    list.iter()
        .filter(|(of, _)| *of == Some(cpu as u64))
        .map(|(_, accepted)| accepted)
        .sum()
}

#[test]
fn shard_of_the_receiving_cpu_takes_the_connection() {
    if !kernel_steers() {
        eprintln!("not run: this kernel does not steer");
        return;
    }
    let cpus = own_cpus();
    let a = Member::start("a");
    // As many shards as CPUs, and more: then those of a CPU share what it receives.
    for shards in [cpus.len(), cpus.len() + 1] {
        let mut sluice = Sluice::prepare(&[&a]);
        let (dual, six) = (free_port(), free_port());
        let text = sluice
            .config(&[&a])
            .replace("SluiceShards 2", &format!("SluiceShards {shards}"));
        sluice.write(&format!("{text}Listen {dual}\nListen [::1]:{six}\n"));
        sluice.run();
        let places = [
            SocketAddr::from((Ipv4Addr::LOCALHOST, sluice.port)),
            SocketAddr::from((Ipv4Addr::LOCALHOST, dual)),
            SocketAddr::from((Ipv6Addr::LOCALHOST, dual)),
            SocketAddr::from((Ipv6Addr::LOCALHOST, six)),
        ];
        for cpu in &cpus {
            for place in places {
                let before = accepted_on(&sluice.status(), *cpu);
                for _ in 0..EACH {
                    ask_from(*cpu, place);
                }
                let after = accepted_on(&sluice.status(), *cpu);
                assert_eq!(after - before, EACH, "CPU {cpu}, {place}, {shards} shards");
            }
        }
        // A reload keeps the sockets and who has them.
        sluice.ok(&["reload"]);
        let before = accepted_on(&sluice.status(), cpus[0]);
        ask_from(cpus[0], places[0]);
        assert_eq!(accepted_on(&sluice.status(), cpus[0]), before + 1);
    }
}

#[test]
fn shards_whose_cpu_receives_nothing_get_connections_by_hash() {
    let cpus = own_cpus();
    if cpus.len() < 2 || !kernel_steers() {
        eprintln!("not run: one CPU, or a kernel that does not steer");
        return;
    }
    let a = Member::start("a");
    let mut sluice = Sluice::prepare(&[&a]);
    let shards = format!("SluiceShards {}", cpus.len());
    sluice.write(&sluice.config(&[&a]).replace("SluiceShards 2", &shards));
    sluice.run();
    assert_eq!(sluice.status()["steered"], true);
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, sluice.port));
    // As a NIC with one queue does it. Control looks once a second, and needs some hundreds to judge:
    // time enough for both, on a machine that is fast and on one that is busy.
    let (begun, mut rounds) = (Instant::now(), 0);
    while sluice.status()["steered"] == true {
        assert!(
            rounds < 50 || begun.elapsed() < PATIENCE,
            "control never sees that shards are idle"
        );
        for _ in 0..100 {
            ask_from(cpus[0], address);
        }
        rounds += 1;
    }
    let last = *cpus.last().expect("a CPU");
    let before = accepted_on(&sluice.status(), last);
    for _ in 0..100 {
        ask_from(cpus[0], address);
    }
    assert!(accepted_on(&sluice.status(), last) > before);
    assert!(sluice.ok(&["status"]).contains("by the kernel's hash"));
}

#[test]
fn affinity_mask_leaves_cpus_out_and_their_packets_are_served_too() {
    let cpus = own_cpus();
    let last = *cpus.last().expect("a CPU");
    let a = Member::start("a");
    let mut sluice = Sluice::prepare(&[&a]);
    sluice.write(
        &sluice
            .config(&[&a])
            .replace("SluiceShards 2", "SluiceShards auto"),
    );
    let mut command = Command::new("taskset");
    command.args(["-c", &last.to_string()]);
    sluice.run_with(command);
    let status = sluice.status();
    assert_eq!(status["cpus"], serde_json::json!([last]));
    assert_eq!(status["shards"], 1);
    assert_eq!(status["shard_list"][0]["cpu"], last);
    for cpu in &cpus {
        ask_from(
            *cpu,
            (IpAddr::from(Ipv4Addr::LOCALHOST), sluice.port).into(),
        );
    }
    assert_eq!(accepted_on(&sluice.status(), last), cpus.len() as u64);
}

/// A control group with a CPU quota, of this test.
struct Group(PathBuf);

impl Group {
    /// `None`: none can be made here.
    fn with_quota(quota_us: u32, period_us: u32) -> Option<Self> {
        let name = format!("sluice-test-{}", std::process::id());
        let version_1 = Path::new("/sys/fs/cgroup/cpu").join(&name);
        let group = if fs::create_dir(&version_1).is_ok() {
            let group = Self(version_1);
            fs::write(group.0.join("cpu.cfs_period_us"), period_us.to_string()).ok()?;
            fs::write(group.0.join("cpu.cfs_quota_us"), quota_us.to_string()).ok()?;
            group
        } else {
            let version_2 = Path::new("/sys/fs/cgroup").join(&name);
            fs::create_dir(&version_2).ok()?;
            let group = Self(version_2);
            fs::write(group.0.join("cpu.max"), format!("{quota_us} {period_us}")).ok()?;
            group
        };
        Some(group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The last process leaves it some time after it was waited for.
        wait_until("the group is gone", || fs::remove_dir(&self.0).is_ok());
    }
}

#[test]
fn quota_of_the_control_group_bounds_the_shards() {
    let Some(group) = Group::with_quota(50_000, 100_000) else {
        eprintln!("not run: no control group with a CPU quota can be made here");
        return;
    };
    let a = Member::start("a");
    let mut sluice = Sluice::prepare(&[&a]);
    sluice.write(
        &sluice
            .config(&[&a])
            .replace("SluiceShards 2", "SluiceShards auto"),
    );
    let mut command = Command::new("sh");
    let join = format!("echo $$ >{}/cgroup.procs && exec \"$@\"", group.0.display());
    command.args(["-c", &join, "sh"]);
    sluice.run_with(command);
    let status = sluice.status();
    assert_eq!(status["cpu_quota"], 0.5);
    assert_eq!(status["shards"], 1);
    assert!(sluice.ok(&["status"]).contains("quota of 0.5"));
    assert_eq!(fetch(sluice.port, "/").expect("an answer").body, "a");
    sluice.ok(&["stop"]);
    assert_eq!(sluice.wait(), Some(0));
}

#[test]
fn connections_in_the_accept_queues_outlive_a_reload() {
    const WAITING: usize = 150;
    let (a, b) = (Member::start("a"), Member::start("b"));
    let sluice = Sluice::start(&[&a]);
    let proxy = sluice.proxy_pid();
    send_signal(proxy, Signal::STOP);
    let mut waiting: Vec<Client> = (0..WAITING)
        .map(|_| {
            let mut client = Client::connect(sluice.port).expect("queued");
            client.send("/").expect("sent");
            client
        })
        .collect();
    let other = free_port();
    sluice.write(&format!(
        "{}Listen 127.0.0.1:{other}\n",
        sluice.config(&[&b])
    ));
    thread::scope(|scope| {
        let reload = scope.spawn(|| sluice.ok(&["reload"]));
        wait_until("the reload is under way", || {
            sluice.log().contains("reading the configuration again")
        });
        send_signal(proxy, Signal::CONT);
        reload.join().expect("reloaded");
    });
    for client in &mut waiting {
        let (answer, _) = client.receive().expect("not one is lost");
        assert_eq!(answer.status, 200);
    }
    assert_eq!(sluice.proxy_pid(), proxy);
    assert_eq!(fetch(other, "/").expect("an answer").body, "b");
}
