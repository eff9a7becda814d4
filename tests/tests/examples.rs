//! Every file of examples/ is good, and the shipped ones do what they say.

use anyhow::{Context, Result, ensure};
use lab::{
    Curl, Lab, Member, Sluice,
    apache::Apache,
    scene,
    sluice::{Place, ask},
    topology,
};

#[path = "examples/guide.rs"]
mod guide;

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
    ensure!(count >= 6, "{count} examples");
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
            .args(["-q", "-sS", "--max-time", "20", "--cacert"])
            .arg(&root)
            .args(["--resolve", &format!("www.example.com:443:{address}")])
            .arg("https://www.example.com/name"),
    )?;
    ensure!(answer.trim() == "a", "{answer}");
    Ok(())
}

#[test]
fn tls_members_are_verified_and_shown_a_certificate() -> Result<()> {
    if let Some(reason) = Apache::missing() {
        return lab::skip(&reason);
    }
    let lab = Lab::new()?;
    let text = std::fs::read_to_string(lab::workspace_root().join("examples/tls-members.conf"))?;
    let place = Place::in_lab(&lab, "tls-members")?;
    let home = place.file.parent().context("a file has a folder")?;
    certificate(home)?;
    let tls = home.join("tls");
    let _members = (0..2_u8)
        .zip(&lab.members)
        .map(|(index, namespace)| {
            let mut address = scene::member_address(index);
            address.set_port(8443);
            let name = scene::NAMES[usize::from(index)];
            sign(&tls, name, &format!("IP:{}", address.ip()))?;
            // It answers whom our authority vouches for.
            let text = format!(
                "LoadModule ssl_module /usr/lib/apache2/modules/mod_ssl.so\nSSLEngine on\n\
                 SSLCertificateFile {tls}/{name}.pem\nSSLCertificateKeyFile {tls}/{name}.key\n\
                 SSLVerifyClient require\nSSLCACertificateFile {tls}/members-ca.pem\n\
                 RedirectMatch 302 ^/name https://{address}/{name}\n",
                tls = tls.display(),
            );
            Apache::start(namespace, &lab.dir().join(name), address, &text)
        })
        .collect::<Result<Vec<_>>>()?;
    let _sluice = Sluice::start_in(place, &text, &[])?;
    let address = topology::address(topology::BALANCER);
    for name in ["a", "b", "a"] {
        let answer = lab::netns::run(lab.client.command("curl").args([
            "-q",
            "-sSi",
            "--max-time",
            "20",
            &format!("http://{address}/name"),
        ]))?;
        let wanted = format!("location: http://{address}/{name}");
        ensure!(answer.to_lowercase().contains(&wanted), "{answer}");
    }
    Ok(())
}

/// `NAME.pem` and `NAME.key` in `folder`, by its `members-ca`.
fn sign(folder: &std::path::Path, name: &str, names: &str) -> Result<()> {
    let run = |args: &[&str]| {
        let mut command = std::process::Command::new("openssl");
        let output = command.args(args).current_dir(folder).output()?;
        ensure!(output.status.success(), "{args:?}: {output:?}");
        Ok(())
    };
    let (key, request, pem) = (
        format!("{name}.key"),
        format!("{name}.csr"),
        format!("{name}.pem"),
    );
    let extensions = format!("{name}.ext");
    std::fs::write(
        folder.join(&extensions),
        format!("subjectAltName={names}\n"),
    )?;
    let subject = format!("/CN={name}");
    let new = ["req", "-new", "-newkey", "ec", "-nodes", "-pkeyopt"];
    let curve = "ec_paramgen_curve:P-256";
    let files = ["-subj", &subject, "-keyout", &key, "-out", &request];
    run(&[&new[..], &[curve], &files].concat())?;
    let ca = ["-CA", "members-ca.pem", "-CAkey", "members-ca.key"];
    let own = ["-in", &request, "-extfile", &extensions, "-out", &pem];
    run(&[
        &["x509", "-req", "-days", "30", "-CAcreateserial"],
        &ca[..],
        &own,
    ]
    .concat())
}

/// What the examples name, below `home`.
fn certificate(home: &std::path::Path) -> Result<()> {
    let folder = home.join("tls");
    std::fs::create_dir_all(&folder)?;
    let output = std::process::Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-nodes", "-days", "30"])
        .args([
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-subj",
            "/CN=members",
        ])
        .args(["-keyout", "members-ca.key", "-out", "members-ca.pem"])
        .current_dir(&folder)
        .output()
        .context("openssl")?;
    ensure!(output.status.success(), "{output:?}");
    sign(&folder, "own", "DNS:balancer.example.com")?;
    let both = std::fs::read_to_string(folder.join("own.pem"))?
        + &std::fs::read_to_string(folder.join("own.key"))?;
    std::fs::write(folder.join("balancer.pem"), both)?;
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

#[test]
fn steer_takes_packets_and_requests_to_the_same_members() -> Result<()> {
    let lab = Lab::new()?;
    lab::vip::share(&lab)?;
    let _members = lab::vip::members(&lab)?;
    let text = std::fs::read_to_string(lab::workspace_root().join("examples/steer.conf"))?;
    let _sluice = Sluice::start_in(Place::in_lab(&lab, "steer")?, &text, &[])?;
    let service = (lab::vip::VIP4, lab::vip::PORT).into();
    let flows = lab::vip::answers(&lab.client, service, 40)?;
    ensure!(flows.len() == 2 && !flows.contains_key("c"), "{flows:?}");
    let url = format!("http://{}/name", scene::service());
    let answers = lab::curl::letters(&Curl::inside(&lab.client).series(&url, 6)?);
    ensure!(answers == "b a b b a b", "{answers}");
    Ok(())
}
