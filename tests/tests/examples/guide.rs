//! examples/load-balancer.conf, the site that sluice is for: run alone, and in Debian's own tree, by
//! sluice and by httpd, it does the same.

use std::{
    fmt::Write as _,
    fs,
    io::{Read, Write},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
};

use anyhow::{Context, Result, ensure};
use lab::{
    Curl, Lab, LabOptions, Member, Sluice, apache::Apache, scene, sluice::Place, topology, wait,
};

/// Modules that the site needs beside those that Debian enables.
const MODULES: [&str; 10] = [
    "headers",
    "http2",
    "lbmethod_byrequests",
    "proxy",
    "proxy_balancer",
    "proxy_http",
    "proxy_wstunnel",
    "slotmem_shm",
    "socache_shmcb",
    "ssl",
];

/// Where Debian keeps httpd's configuration.
const STOCK: &str = "/etc/apache2";

#[test]
fn guides_site_does_the_same_alone_and_in_debians_tree_as_in_httpd() -> Result<()> {
    if let Some(reason) = Apache::missing() {
        return lab::skip(&reason);
    }
    let lab = Lab::with(LabOptions {
        members: 4,
        attackers: 1,
    })?;
    greet(&lab)?;
    let logs = lab.dir().join("logs");
    fs::create_dir_all(&logs)?;
    let site = fs::read_to_string(lab::workspace_root().join("examples/load-balancer.conf"))?
        .replace("/var/log/apache2", &logs.display().to_string());

    let tree = tree(&lab, &site, &logs)?;
    let mut httpd = httpd(&lab, &tree, &logs)?;
    let theirs = observe(&lab, &mut || Ok(()));
    let _ = httpd.kill();
    let _ = httpd.wait();
    let theirs = theirs.context("httpd in Debian's tree")?;

    let mut place = Place::in_lab(&lab, "guide")?;
    place.listen.set_port(443);
    place.file = tree.join("apache2.conf");
    let whole = fs::read_to_string(&place.file)?;
    let mut sluice = Sluice::start_in(place, &whole, &[])?;
    let ours = observe(&lab, &mut || running(&mut sluice)).context("sluice in Debian's tree")?;
    ensure!(ours == theirs, "tree: {ours:#?}\nhttpd: {theirs:#?}");
    drop(sluice);

    let mut place = Place::in_lab(&lab, "guide")?;
    place.listen.set_port(443);
    super::certificate(place.file.parent().context("a file has a folder")?)?;
    let mut sluice = Sluice::start_in(place, &site, &[])?;
    let ours = observe(&lab, &mut || running(&mut sluice)).context("sluice with the site alone")?;
    ensure!(ours == theirs, "alone: {ours:#?}\nhttpd: {theirs:#?}");
    let access = fs::read_to_string(logs.join("access.log"))?;
    ensure!(
        access
            .lines()
            .last()
            .is_some_and(|line| line.contains("\"GET /")),
        "{access}"
    );
    Ok(())
}

fn running(sluice: &mut Sluice) -> Result<()> {
    ensure!(sluice.is_running(), "{}", sluice.log());
    Ok(())
}

/// A member that switches to WebSocket, says hello and ends, for as long as this process runs.
fn greet(lab: &Lab) -> Result<()> {
    let address = scene::member_address(3);
    let listener = lab.members[3].inside(|| TcpListener::bind(address))??;
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
                head.push(byte[0]);
            }
            // A client that left is the test's to notice.
            let _ = stream.write_all(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhello",
            );
        }
    });
    Ok(())
}

/// A copy of Debian's tree with the site and its modules enabled.
fn tree(lab: &Lab, site: &str, logs: &Path) -> Result<PathBuf> {
    let tree = lab.dir().join("apache2");
    let copied = Command::new("cp").args(["-a", STOCK]).arg(&tree).status()?;
    ensure!(copied.success(), "cp: {copied}");
    for module in MODULES {
        for ending in ["load", "conf"] {
            let file = format!("{module}.{ending}");
            let enabled = tree.join("mods-enabled").join(&file);
            if tree.join("mods-available").join(&file).exists() && !enabled.exists() {
                std::os::unix::fs::symlink(format!("../mods-available/{file}"), enabled)?;
            }
        }
    }
    fs::write(tree.join("sites-available/load-balancer.conf"), site)?;
    std::os::unix::fs::symlink(
        "../sites-available/load-balancer.conf",
        tree.join("sites-enabled/load-balancer.conf"),
    )?;
    // The machine's own directories are not the test's to write into.
    let mut variables = String::new();
    for (name, value) in variables_of(logs) {
        writeln!(variables, "export {name}={value}")?;
    }
    fs::write(tree.join("envvars"), variables)?;
    super::certificate(&tree)?;
    Ok(tree)
}

fn variables_of(logs: &Path) -> Vec<(&'static str, String)> {
    let logs = logs.display().to_string();
    vec![
        ("APACHE_RUN_USER", "www-data".to_owned()),
        ("APACHE_RUN_GROUP", "www-data".to_owned()),
        ("APACHE_PID_FILE", format!("{logs}/apache2.pid")),
        ("APACHE_RUN_DIR", logs.clone()),
        ("APACHE_LOCK_DIR", logs.clone()),
        ("APACHE_LOG_DIR", logs),
    ]
}

fn httpd(lab: &Lab, tree: &Path, logs: &Path) -> Result<Child> {
    let mut child = lab
        .balancer
        .command("apache2")
        .arg("-X")
        .arg("-d")
        .arg(tree)
        .arg("-f")
        .arg(tree.join("apache2.conf"))
        .envs(variables_of(logs))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("running apache2")?;
    let address = (topology::address(topology::BALANCER), 443).into();
    let accepts = wait::until("httpd to listen", wait::PATIENCE, || {
        if !matches!(child.try_wait(), Ok(None)) {
            return Some(false);
        }
        let connect = || {
            std::net::TcpStream::connect_timeout(&address, std::time::Duration::from_secs(1))
                .is_ok()
        };
        lab.balancer
            .inside(connect)
            .unwrap_or(false)
            .then_some(true)
    });
    if !matches!(accepts, Ok(true)) {
        let _ = child.kill();
        let said = child.wait_with_output()?;
        anyhow::bail!(
            "httpd: {}{}",
            String::from_utf8_lossy(&said.stderr),
            fs::read_to_string(logs.join("error.log")).unwrap_or_default()
        );
    }
    Ok(child)
}

/// What clients see of the site, with members of its own.
fn observe(lab: &Lab, check: &mut dyn FnMut() -> Result<()>) -> Result<Vec<String>> {
    let mut members = (0..3_u8)
        .zip(&lab.members)
        .map(|(index, home)| {
            let name = scene::NAMES[usize::from(index)];
            Member::start(home, name, scene::member_address(index))
        })
        .collect::<Result<Vec<_>>>()?;
    let address = topology::address(topology::BALANCER);
    let curl = |from: &lab::Namespace| {
        Curl::inside(from)
            .option("-k")
            .option("--resolve")
            .option(format!("www.example.com:443:{address}"))
            .option("--resolve")
            .option(format!("shop.example.com:80:{address}"))
    };
    let client = curl(&lab.client);
    let url = "https://www.example.com";
    let mut seen = Vec::new();

    let sent = client.get("http://shop.example.com/a/b?c=d")?;
    seen.push(format!("{} {:?}", sent.status, sent.header("location")));
    seen.push(lab::curl::letters(
        &client.series(&format!("{url}/name"), 12)?,
    ));
    let session = client.clone().header("Cookie: JSESSIONID=abc.node2");
    seen.push(lab::curl::letters(
        &session.series(&format!("{url}/name"), 3)?,
    ));
    let in_url = client.get(&format!("{url}/name?jsessionid=abc.node2"))?;
    seen.push(in_url.text().to_owned());
    let request = client.get(&format!("{url}/x//y;p=1?q=%20"))?.json()?;
    let wanted = [
        "host",
        "x-forwarded-proto",
        "x-forwarded-for",
        "x-forwarded-host",
    ];
    for pair in request["headers"].as_array().into_iter().flatten() {
        let name = pair[0].as_str().unwrap_or_default().to_lowercase();
        if wanted.contains(&name.as_str()) {
            seen.push(format!("{name}: {}", pair[1]));
        }
    }
    seen.push(format!("{} {}", request["method"], request["target"]));
    let manager = format!("{url}/balancer-manager");
    let page = client.get(&manager)?;
    let shown = page.body.contains("balancer://mycluster");
    seen.push(format!("manager {} {shown}", page.status));
    let denied = curl(&lab.attackers[0]).get(&manager)?;
    seen.push(format!("manager from elsewhere {}", denied.status));
    let socket = client
        .clone()
        .option("--http1.1")
        .header("Connection: Upgrade")
        .header("Upgrade: websocket")
        .header("Sec-WebSocket-Version: 13")
        .header("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
        .get(&format!("{url}/ws/chat"))?;
    seen.push(format!("ws {} {}", socket.status, socket.text()));
    check()?;

    // The standby serves when the others are gone.
    members.drain(..2);
    seen.push(lab::curl::letters(
        &client.series(&format!("{url}/name"), 3)?,
    ));
    check()?;
    Ok(seen)
}
