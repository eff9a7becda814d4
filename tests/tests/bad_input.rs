//! Bad input to `run`, `configtest` and `reload`: one clear message, the documented exit code,
//! nothing half-started, the running service untouched.

use std::os::unix::fs::PermissionsExt;

use anyhow::{Result, ensure};
use lab::{
    Lab, LabOptions, Scene,
    scene::{member, site, site_with, three},
    sluice::{FAILED, NO_DATAPLANE, Place, Said, UNREACHABLE, USAGE, ask, configtest},
    topology, wait,
};

/// What `run` says of a configuration that it should refuse, in a lab without anything else.
fn refused(text: &str) -> Result<Said> {
    let lab = Lab::with(LabOptions {
        members: 0,
        attackers: 0,
    })?;
    let place = Place::in_lab(&lab, "main")?;
    std::fs::write(&place.file, text)?;
    let said = ask(place.command().args(["run", "-f"]).arg(&place.file))?;
    nothing_left(&lab, &place)?;
    Ok(said)
}

/// No XDP program, no listener, no socket of a daemon.
fn nothing_left(lab: &Lab, place: &Place) -> Result<()> {
    let links = lab::netns::run(lab.balancer.command("ip").args(["link", "show", "eth0"]))?;
    ensure!(!links.contains("xdp"), "a program was left: {links}");
    let connect = std::net::TcpStream::connect;
    ensure!(
        lab.balancer.inside(|| connect(place.listen))?.is_err(),
        "something listens"
    );
    ensure!(
        ask(place.command().arg("status"))?.code == UNREACHABLE,
        "something answers"
    );
    Ok(())
}

#[test]
fn configtest_reports_all_errors_at_once() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let text = "Listen 80\n\
                Lisen 81\n\
                KeepAlive Perhaps\n\
                <Proxy \"balancer://b\">\n\
                \x20   BalancerMember \"http://127.0.0.1:1\" loadfactor=1000\n\
                </Proxy>\n";
    let said = configtest(dir.path(), text.as_bytes())?;
    ensure!(said.code == FAILED, "{said:?}");
    for (line, what) in [(2, "Lisen"), (3, "KeepAlive"), (5, "loadfactor")] {
        let place = format!("tested.conf:{line}");
        ensure!(
            said.err.contains(&place) && said.err.contains(what),
            "{place}: {}",
            said.err
        );
    }
    ensure!(
        said.err.contains("Listen"),
        "a misspelt name gets a suggestion: {}",
        said.err
    );
    ensure!(said.err.contains('^'), "a caret shows where: {}", said.err);
    Ok(())
}

#[test]
fn configtest_of_a_good_file_says_so_as_httpd_does() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let said = configtest(dir.path(), site(&three(""), "").as_bytes())?;
    ensure!(
        said.code == 0 && said.all().contains("Syntax OK"),
        "{said:?}"
    );
    Ok(())
}

#[test]
fn configuration_that_is_a_folder_or_missing_is_named() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let program = lab::sluice::program()?;
    for path in [dir.path().to_owned(), dir.path().join("missing.conf")] {
        for verb in ["configtest", "run"] {
            let mut command = std::process::Command::new(&program);
            command.args([verb, "-f"]).arg(&path);
            command
                .args(["--run-dir"])
                .arg(dir.path())
                .args(["--bpffs"])
                .arg(dir.path());
            let said = ask(&mut command)?;
            ensure!(said.code == FAILED, "{verb}: {said:?}");
            ensure!(
                said.err.contains(&*path.to_string_lossy()),
                "{verb}: {said:?}"
            );
        }
    }
    Ok(())
}

#[test]
fn ten_megabytes_of_noise_are_refused_in_a_bounded_message() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let noise: Vec<u8> = (0..10_000_000)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect();
    let said = configtest(dir.path(), &noise)?;
    ensure!(said.code == FAILED);
    ensure!(
        said.all().len() < 100_000,
        "{} bytes of complaints",
        said.all().len()
    );
    Ok(())
}

#[test]
fn port_in_use_is_named_and_nothing_starts() -> Result<()> {
    let lab = Lab::with(LabOptions {
        members: 0,
        attackers: 0,
    })?;
    let place = Place::in_lab(&lab, "main")?;
    let listener = lab
        .balancer
        .inside(|| std::net::TcpListener::bind(place.listen))??;
    std::fs::write(&place.file, site(&three(""), ""))?;
    let said = ask(place.command().args(["run", "-f"]).arg(&place.file))?;
    ensure!(
        said.code == FAILED && said.all().contains("192.0.2.1:80"),
        "{said:?}"
    );
    drop(listener);
    nothing_left(&lab, &place)
}

#[test]
fn unknown_user_is_named() -> Result<()> {
    let said = refused(&site(&three(""), "").replace("User nobody", "User no-such-user"))?;
    ensure!(
        said.code == FAILED && said.all().contains("no-such-user"),
        "{said:?}"
    );
    Ok(())
}

#[test]
fn wrong_value_of_a_guard_directive_is_named() -> Result<()> {
    for (line, what) in [
        ("    GuardLimit syn many\n", "many"),
        ("    GuardLimit sin 10/s\n", "sin"),
        ("    GuardDeny 192.0.2.0/33\n", "192.0.2.0/33"),
        ("    XDPInterface eth0 mode=sideways\n", "sideways"),
    ] {
        let said = refused(&site(&three(""), line))?;
        ensure!(
            said.code == FAILED && said.all().contains(what),
            "{line}: {said:?}"
        );
    }
    Ok(())
}

#[test]
fn without_a_bpf_filesystem_guards_are_a_start_error_unless_waived() -> Result<()> {
    let lab = Lab::with(LabOptions {
        members: 1,
        attackers: 0,
    })?;
    let _member = lab::Member::start(&lab.members[0], "a", lab::scene::member_address(0))?;
    let mut place = Place::in_lab(&lab, "main")?;
    // A folder that is no bpf filesystem.
    place.bpffs = lab.dir().join("not-bpf");
    std::fs::create_dir_all(&place.bpffs)?;
    let text = site(&member(0, ""), "    GuardLimit syn 100/s per=/32,/64\n");
    std::fs::write(&place.file, &text)?;
    let said = ask(place.command().args(["run", "-f"]).arg(&place.file))?;
    ensure!(said.code == NO_DATAPLANE, "{said:?}");
    nothing_left(&lab, &place)?;

    let sluice = lab::Sluice::start_in(place, &text, &["--no-xdp"])?;
    let url = format!("http://{}/name", topology::address(topology::BALANCER));
    ensure!(lab::Curl::inside(&lab.client).get(&url)?.text() == "a");
    drop(sluice);
    Ok(())
}

#[test]
fn without_root_only_a_file_without_guards_runs() -> Result<()> {
    let Some(setpriv) = lab::tool_path("setpriv") else {
        return lab::skip("setpriv (util-linux) is missing");
    };
    let lab = Lab::with(LabOptions {
        members: 1,
        attackers: 0,
    })?;
    let _member = lab::Member::start(&lab.members[0], "a", lab::scene::member_address(0))?;
    let mut place = Place::in_lab(&lab, "main")?;
    place.listen.set_port(8000);
    place.run_dir = lab.dir().join("anybody");
    std::fs::create_dir_all(&place.run_dir)?;
    std::fs::set_permissions(&place.run_dir, std::fs::Permissions::from_mode(0o777))?;
    // A copy that anybody may run, wherever the original lies.
    let program = lab.dir().join("sluice");
    std::fs::copy(&place.program, &program)?;
    let unprivileged = || {
        let mut command = lab.balancer.command(&setpriv);
        command
            .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
            .arg(&program);
        command
            .args(place.arguments())
            .args(["run", "-f"])
            .arg(&place.file);
        command
    };
    let guarded = site(&member(0, ""), "").replace(":80\n", ":8000\n");
    std::fs::write(&place.file, &guarded)?;
    let said = ask(&mut unprivileged())?;
    ensure!(said.code == NO_DATAPLANE, "{said:?}");
    nothing_left(&lab, &place)?;

    let (plain, _) = guarded.split_once("<IfModule").unwrap_or((&guarded, ""));
    std::fs::write(&place.file, plain)?;
    let log = std::fs::File::create(&place.log)?;
    let mut child = unprivileged()
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()?;
    let url = format!("http://{}/name", place.listen);
    let answered = wait::until("sluice to answer", wait::PATIENCE, || {
        let ended = !matches!(child.try_wait(), Ok(None));
        let response = lab::Curl::inside(&lab.client).get(&url).ok()?;
        (ended || response.status == 200).then_some(response)
    });
    child.kill()?;
    child.wait()?;
    let answered = answered?;
    ensure!(
        answered.text() == "a",
        "{answered:?} {}",
        std::fs::read_to_string(&place.log)?
    );
    Ok(())
}

#[test]
fn bad_reload_leaves_the_service_and_the_table_as_they_were() -> Result<()> {
    let scene = Scene::start(&site(&three(""), ""))?;
    scene.sluice.cli(&["member", "drain", "b", "a"])?.ok()?;
    for text in [
        "nonsense\n".to_owned(),
        site(&three(""), "").replace("eth0", "eth77"),
        site_with(&three(""), "", "Listen 203.0.113.9:80"),
        site("    BalancerMember \"http://nobody.invalid\"\n", ""),
    ] {
        let said = scene.sluice.reload(&text)?;
        ensure!(
            said.code == FAILED && !said.err.is_empty(),
            "{text}: {said:?}"
        );
        ensure!(scene.sluice.state("b", "a")? == "N");
        ensure!(
            scene
                .letters(2)?
                .split(' ')
                .all(|name| name == "b" || name == "c")
        );
    }
    Ok(())
}

#[test]
fn wrong_command_lines_are_usage_errors() -> Result<()> {
    let program = lab::sluice::program()?;
    for arguments in [&["fly"][..], &["member"], &["status", "--jsno"]] {
        let said = ask(std::process::Command::new(&program).args(arguments))?;
        ensure!(said.code == USAGE, "{arguments:?}: {said:?}");
    }
    Ok(())
}

#[test]
fn commands_without_daemon_or_pins_say_that_it_is_unreachable() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let program = lab::sluice::program()?;
    for verb in [&["status"][..], &["member", "list"], &["reload"], &["stop"]] {
        let mut command = std::process::Command::new(&program);
        command
            .args(["--run-dir"])
            .arg(dir.path())
            .args(["--bpffs"])
            .arg(dir.path())
            .args(verb);
        let said = ask(&mut command)?;
        ensure!(
            said.code == UNREACHABLE && !said.err.is_empty(),
            "{verb:?}: {said:?}"
        );
    }
    Ok(())
}
