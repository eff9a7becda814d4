//! Every file of examples/ is good, and the shipped ones do what they say.

use anyhow::{Context, Result, ensure};
use lab::{
    Curl, Lab, Member, Sluice,
    apache::Apache,
    scene,
    sluice::{Place, ask},
    topology,
};

#[test]
fn every_example_passes_configtest() -> Result<()> {
    let program = lab::sluice::program()?;
    let place = tempfile::tempdir()?;
    certificate(place.path())?;
    let mut count = 0;
    for entry in std::fs::read_dir(lab::workspace_root().join("examples"))? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "conf") {
            continue;
        }
        let copy = place
            .path()
            .join(path.file_name().context("a file has a name")?);
        std::fs::copy(&path, &copy)?;
        let said = ask(std::process::Command::new(&program)
            .args(["configtest", "-f"])
            .arg(&copy))?;
        ensure!(said.code == 0, "{}: {said:?}", path.display());
        count += 1;
    }
    ensure!(count >= 5, "{count} examples");
    Ok(())
}

#[test]
fn first_light_runs_as_it_is() -> Result<()> {
    let lab = Lab::new()?;
    let _members = (0..3_u8)
        .zip(&lab.members)
        .map(|(index, home)| {
            Member::start(
                home,
                scene::NAMES[usize::from(index)],
                scene::member_address(index),
            )
        })
        .collect::<Result<Vec<_>>>()?;
    let text = std::fs::read_to_string(lab::workspace_root().join("examples/first-light.conf"))?;
    let _sluice = Sluice::start_in(Place::in_lab(&lab, "first-light")?, &text, &[])?;
    let url = format!("http://{}/name", topology::address(topology::BALANCER));
    let answers = Curl::inside(&lab.client).series(&url, 6)?;
    ensure!(lab::curl::letters(&answers) == "a a a b a a");
    Ok(())
}

#[test]
fn tls_answers_over_tls() -> Result<()> {
    let lab = Lab::new()?;
    let _members = (0..2_u8)
        .zip(&lab.members)
        .map(|(index, home)| {
            Member::start(
                home,
                scene::NAMES[usize::from(index)],
                scene::member_address(index),
            )
        })
        .collect::<Result<Vec<_>>>()?;
    let text = std::fs::read_to_string(lab::workspace_root().join("examples/tls.conf"))?;
    let mut place = Place::in_lab(&lab, "tls")?;
    place.listen.set_port(443);
    let home = place.file.parent().context("a file has a folder")?;
    certificate(home)?;
    let root = home.join("tls/www.example.com.pem");
    let _sluice = Sluice::start_in(place, &text, &[])?;
    let address = topology::address(topology::BALANCER);
    let answer = lab::netns::run(
        lab.client
            .command("curl")
            .args(["-q", "-sS", "--max-time", "5", "--cacert"])
            .arg(&root)
            .args(["--resolve", &format!("www.example.com:443:{address}")])
            .arg("https://www.example.com/name"),
    )?;
    ensure!(answer.trim() == "a", "{answer}");
    Ok(())
}

/// What examples/tls.conf names, below `home`.
fn certificate(home: &std::path::Path) -> Result<()> {
    let folder = home.join("tls");
    std::fs::create_dir_all(&folder)?;
    let output = std::process::Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-nodes", "-days", "30"])
        .args(["-pkeyopt", "ec_paramgen_curve:P-256"])
        .args(["-subj", "/CN=www.example.com"])
        .args(["-addext", "subjectAltName=DNS:www.example.com"])
        .arg("-keyout")
        .arg(folder.join("www.example.com.key"))
        .arg("-out")
        .arg(folder.join("www.example.com.pem"))
        .output()
        .context("openssl")?;
    ensure!(output.status.success(), "{output:?}");
    Ok(())
}

#[test]
fn httpd_loads_the_examples_and_answers_the_same() -> Result<()> {
    if let Some(reason) = Apache::missing() {
        return lab::skip(&reason);
    }
    let lab = Lab::new()?;
    let balancer = scene::member(0, "loadfactor=5") + &scene::member(1, "");
    let site = scene::site(&balancer, "");
    let _members = (0..2_u8)
        .zip(&lab.members)
        .map(|(index, home)| {
            Member::start(
                home,
                scene::NAMES[usize::from(index)],
                scene::member_address(index),
            )
        })
        .collect::<Result<Vec<_>>>()?;
    let curl = Curl::inside(&lab.client);
    let address = topology::address(topology::BALANCER);

    // httpd first, alone on the address; then sluice with the same text.
    let peer = strip(&site);
    let mut httpd = Apache::start(
        &lab.balancer,
        &lab.dir().join("httpd"),
        (address, 80).into(),
        &peer,
    )
    .context("httpd with the same site")?;
    let theirs = observe(&curl, &format!("http://{address}"))?;
    httpd.kill();
    let _sluice = Sluice::start(&lab, &site)?;
    let ours = observe(&curl, &format!("http://{address}"))?;
    ensure!(ours == theirs, "sluice: {ours:#?}\nhttpd: {theirs:#?}");
    Ok(())
}

/// The site without what the peer's own scaffold has.
fn strip(site: &str) -> String {
    let scaffold = ["Listen ", "User ", "Group ", "ServerName "];
    let keep = |line: &&str| !scaffold.iter().any(|start| line.starts_with(start));
    site.lines().filter(keep).collect::<Vec<_>>().join("\n")
}

/// The sequence of members, and what a member was sent.
fn observe(curl: &Curl, url: &str) -> Result<(String, Vec<String>)> {
    let letters = lab::curl::letters(&curl.series(&format!("{url}/name"), 12)?);
    let request = curl
        .clone()
        .header("X-Forwarded-For: 203.0.113.7")
        .header("Connection: X-Gone")
        .header("X-Gone: 1");
    let seen = request.get(&format!("{url}/x//y;p=1?q=%20"))?.json()?;
    let mut sent: Vec<String> = seen["headers"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|pair| Some(format!("{}: {}", pair[0].as_str()?.to_lowercase(), pair[1])))
        .collect();
    sent.sort();
    sent.insert(0, format!("{} {}", seen["method"], seen["target"]));
    Ok((letters, sent))
}
