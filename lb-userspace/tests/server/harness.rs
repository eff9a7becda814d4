//! A sluice of its own for each test, members to balance, a client.

use std::{
    collections::VecDeque,
    fs,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal};
use serde_json::Value;
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

/// Nothing here takes that long unless it hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Polls until it is so; panics with `what` when it never is.
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "never: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// A port that is the caller's: nothing that asks the kernel for any port, in this process or
/// another, is given it. Whoever names it, with `SO_REUSEADDR` as every server does, may listen on
/// it; until then connections to it are refused.
pub(crate) fn free_port() -> u16 {
    /// As many are held. They are descriptors, of which tests need others; a test that began so
    /// many ports ago listens on its own by now.
    const HELD: usize = 64;
    static RESERVED: Mutex<VecDeque<Socket>> = Mutex::new(VecDeque::new());
    // Bound and not listening. Of both families, for `Listen` without an address.
    let bound = |domain, address: SocketAddr| -> io::Result<Socket> {
        let socket = Socket::new(domain, Type::STREAM, None)?;
        if address.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        Ok(socket)
    };
    let socket = bound(Domain::IPV6, (Ipv6Addr::UNSPECIFIED, 0).into())
        .or_else(|_| bound(Domain::IPV4, (Ipv4Addr::UNSPECIFIED, 0).into()))
        .expect("bind");
    let address = socket.local_addr().expect("address");
    let mut reserved = RESERVED.lock().expect("no panic");
    if reserved.len() == HELD {
        reserved.pop_front();
    }
    reserved.push_back(socket);
    address.as_socket().expect("an internet address").port()
}

/// An HTTP/1.1 member that answers every request with its name; `/hold` when told to.
pub(crate) struct Member {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    pub(crate) requests: Arc<AtomicUsize>,
    gate: Arc<(Mutex<bool>, Condvar)>,
}

impl Member {
    pub(crate) fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address");
        let requests = Arc::new(AtomicUsize::new(0));
        let gate = Arc::new((Mutex::new(false), Condvar::new()));
        let (count, held) = (Arc::clone(&requests), Arc::clone(&gate));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (count, held) = (Arc::clone(&count), Arc::clone(&held));
                // Ends with the connection; its errors are the test's to notice at the client.
                thread::spawn(move || drop(answer(&stream, name, &count, &held)));
            }
        });
        Self {
            name,
            address,
            requests,
            gate,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Lets requests for `/hold` go.
    pub(crate) fn release(&self) {
        *self.gate.0.lock().expect("gate") = true;
        self.gate.1.notify_all();
    }

    pub(crate) fn count(&self) -> usize {
        self.requests.load(Relaxed)
    }
}

fn answer(
    stream: &TcpStream,
    name: &str,
    count: &AtomicUsize,
    gate: &(Mutex<bool>, Condvar),
) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    loop {
        let mut first = String::new();
        if reader.read_line(&mut first)? == 0 {
            return Ok(());
        }
        let (mut line, mut length) = (String::new(), 0);
        while reader.read_line(&mut line)? > 2 {
            let lower = line.trim_end().to_ascii_lowercase();
            if let Some(value) = lower.strip_prefix("content-length:") {
                length = value.trim().parse().map_err(io::Error::other)?;
            }
            line.clear();
        }
        io::copy(&mut (&mut reader).take(length), &mut io::sink())?;
        count.fetch_add(1, Relaxed);
        if first.contains(" /hold") {
            let open = gate.0.lock().expect("gate");
            drop(gate.1.wait_while(open, |open| !*open).expect("gate"));
        }
        write!(
            writer,
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}",
            name.len()
        )?;
    }
}

/// What a client got.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

/// A client connection.
pub(crate) struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    pub(crate) fn connect(port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self {
            stream: BufReader::new(stream),
        })
    }

    pub(crate) fn send(&mut self, path: &str) -> io::Result<()> {
        let head = format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n");
        self.stream.get_mut().write_all(head.as_bytes())
    }

    pub(crate) fn send_raw(&mut self, bytes: &str) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes.as_bytes())
    }

    /// The answer's head alone.
    pub(crate) fn receive_head(&mut self) -> io::Result<String> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if self.stream.read_line(&mut head)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(head)
    }

    /// The answer, and whether the connection may be used again.
    pub(crate) fn receive(&mut self) -> io::Result<(Answer, bool)> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let status = line
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .ok_or_else(|| io::Error::other(format!("no status line: {line:?}")))?;
        let (mut length, mut keep) = (0, true);
        loop {
            line.clear();
            self.stream.read_line(&mut line)?;
            let lower = line.trim_end().to_ascii_lowercase();
            if lower.is_empty() {
                break;
            }
            if let Some(value) = lower.strip_prefix("content-length:") {
                length = value.trim().parse().map_err(io::Error::other)?;
            }
            keep &= lower != "connection: close";
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        let body = String::from_utf8_lossy(&body).into_owned();
        Ok((Answer { status, body }, keep))
    }
}

/// One request on a connection of its own.
pub(crate) fn fetch(port: u16, path: &str) -> io::Result<Answer> {
    let mut client = Client::connect(port)?;
    client.send(path)?;
    client.receive().map(|(answer, _)| answer)
}

/// One instance: its directories, its control process.
pub(crate) struct Sluice {
    pub(crate) dir: TempDir,
    pub(crate) port: u16,
    child: Option<Child>,
}

impl Sluice {
    /// Directories and a configuration; nothing runs yet.
    pub(crate) fn prepare(members: &[&Member]) -> Self {
        let this = Self {
            dir: tempfile::tempdir().expect("temporary directory"),
            port: free_port(),
            child: None,
        };
        // The proxy's user must reach nothing in here but what control passes to it.
        this.write(&this.config(members));
        this
    }

    /// Prepared and running.
    pub(crate) fn start(members: &[&Member]) -> Self {
        let mut this = Self::prepare(members);
        this.run();
        this
    }

    pub(crate) fn config(&self, members: &[&Member]) -> String {
        let mut text = format!("Listen 127.0.0.1:{}\n<Proxy balancer://app>\n", self.port);
        for member in members {
            let (url, route) = (member.url(), member.name);
            text.extend(["  BalancerMember ", &url, " route=", route, "\n"]);
        }
        text.push_str("</Proxy>\nProxyPass / balancer://app/\n");
        text.push_str("<IfModule sluice_module>\n  SluiceShards 2\n</IfModule>\n");
        text
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.dir.path().join("sluice.conf")
    }

    pub(crate) fn write(&self, text: &str) {
        fs::write(self.file(), text).expect("configuration written");
    }

    pub(crate) fn run_dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.run_dir().join("default.sock")
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("stderr")).unwrap_or_default()
    }

    /// The binary, told where this instance is.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = bare(words);
        command.env("SLUICE_RUN_DIR", self.run_dir()).env(
            "SLUICE_BPFFS",
            // No bpf filesystem: pins of the host are none of these tests' business.
            self.dir.path(),
        );
        command
    }

    /// Starts control and waits until it answers.
    pub(crate) fn run(&mut self) {
        let log = self.log_file();
        let file = self.file();
        let mut command = self.command(&["run", "--no-xdp", "-f"]);
        command.arg(&file);
        self.run_as(command, log);
    }

    /// As [`Sluice::run`], by way of a command that is given the words of this one.
    pub(crate) fn run_with(&mut self, mut wrapper: Command) {
        let file = self.file();
        let inner = self.command(&["run", "--no-xdp", "-f"]);
        wrapper
            .arg(inner.get_program())
            .args(inner.get_args())
            .arg(file);
        for (name, value) in inner.get_envs() {
            match value {
                Some(value) => wrapper.env(name, value),
                None => wrapper.env_remove(name),
            };
        }
        let log = self.log_file();
        self.run_as(wrapper, log);
    }

    /// What standard error of control goes to.
    pub(crate) fn log_file(&self) -> fs::File {
        fs::File::options()
            .append(true)
            .create(true)
            .open(self.dir.path().join("stderr"))
            .expect("log")
    }

    /// As [`Sluice::run`], by a command of the test's own.
    pub(crate) fn run_as(&mut self, mut command: Command, log: fs::File) {
        let child = command
            .stderr(Stdio::from(log))
            // Not in a terminal's foreground, where WINCH means a resize.
            .process_group(0)
            .spawn()
            .expect("sluice starts");
        self.child = Some(child);
        wait_until(&format!("ready; log:\n{}", self.log()), || {
            let child = self.child.as_mut().expect("set above");
            if let Some(status) = child.try_wait().expect("wait") {
                panic!("sluice ended ({status}):\n{}", self.log());
            }
            self.cli(&["status"]).status.success() && self.status()["daemon"] == true
        });
    }

    pub(crate) fn cli(&self, words: &[&str]) -> Output {
        self.command(words).output().expect("command runs")
    }

    /// A command that succeeds; its output.
    pub(crate) fn ok(&self, words: &[&str]) -> String {
        let output = self.cli(words);
        assert!(
            output.status.success(),
            "{words:?}: {}\n{}",
            text(&output.stderr),
            self.log()
        );
        text(&output.stdout)
    }

    pub(crate) fn json(&self, words: &[&str]) -> Value {
        serde_json::from_str(&self.ok(words)).expect("JSON")
    }

    pub(crate) fn status(&self) -> Value {
        self.json(&["status", "--json"])
    }

    pub(crate) fn control_pid(&self) -> u32 {
        self.child.as_ref().expect("running").id()
    }

    pub(crate) fn proxy_pid(&self) -> u32 {
        pid_of(&self.status()["proxy_pid"])
    }

    pub(crate) fn signal(&self, signal: Signal) {
        send_signal(self.control_pid(), signal);
    }

    /// Control's exit code, once it has ended.
    pub(crate) fn wait(&mut self) -> Option<i32> {
        let mut child = self.child.take().expect("running");
        let mut code = None;
        wait_until("control ended", || {
            let status = child.try_wait().expect("wait");
            code = status.and_then(|status| status.code());
            status.is_some()
        });
        code
    }

    /// Ends control with a signal that it cannot see, and waits.
    pub(crate) fn kill_control(&mut self) {
        let mut child = self.child.take().expect("running");
        child.kill().expect("kill");
        child.wait().expect("wait");
    }
}

impl Drop for Sluice {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        // Ends the proxy too, through its link; a test that failed must not wait for graces.
        drop(child.kill());
        drop(child.wait());
        if thread::panicking() {
            eprintln!("log of sluice:\n{}", self.log());
        }
    }
}

/// The binary with nothing of this test's surroundings.
pub(crate) fn bare(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
    command
        .args(words)
        .stdin(Stdio::null())
        .env_remove("SLUICE_INSTANCE")
        .env_remove("SSH_CONNECTION")
        .env_remove("NOTIFY_SOCKET");
    command
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub(crate) fn pid_of(value: &Value) -> u32 {
    value
        .as_u64()
        .and_then(|pid| pid.try_into().ok())
        .expect("a process id")
}

pub(crate) fn send_signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    rustix::process::kill_process(pid.expect("a process id"), signal).expect("signal");
}

pub(crate) fn is_alive(pid: u32) -> bool {
    // A zombie whose parent died is reaped by init; one of ours is waited for.
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.contains(") Z ") && !stat.contains(") X "))
}

pub(crate) fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}
