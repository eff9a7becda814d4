//! More than one sluice: in labs side by side, and on one host.

use anyhow::{Result, ensure};
use lab::{
    Scene, Sluice,
    scene::{member, site, three},
    sluice::{FAILED, Place, ask},
    tables, topology,
};

#[test]
fn second_lab_beside_the_first_shares_nothing() -> Result<()> {
    let first = Scene::start(&site(&three(""), ""))?;
    let second = Scene::start(&site(&three(""), ""))?;
    first.sluice.cli(&["member", "drain", "b", "a"])?.ok()?;
    second.sluice.cli(&["deny", "add", "192.0.2.201"])?.ok()?;
    first.expect(4, "b c b c")?;
    second.expect(3, "a b c")?;
    ensure!(second.sluice.state("b", "a")?.is_empty());
    ensure!(
        !first
            .sluice
            .cli(&["deny", "list"])?
            .all()
            .contains("192.0.2.201")
    );
    Ok(())
}

#[test]
fn second_instance_of_the_same_name_is_refused() -> Result<()> {
    let scene = Scene::start(&site(&three(""), ""))?;
    let place = scene.sluice.place();
    let said = ask(place.command().args(["run", "-f"]).arg(&place.file))?;
    ensure!(
        said.code == FAILED && said.all().contains("main"),
        "{said:?}"
    );
    scene.expect(3, "a b c")?;
    Ok(())
}

#[test]
fn held_xdp_hook_is_an_error_that_names_the_holder() -> Result<()> {
    let scene = Scene::start(&site(&three(""), ""))?;
    let mut other = Place::in_lab(&scene.lab, "other")?;
    other.listen.set_port(81);
    let text = site(&member(0, ""), "").replace(":80\n", ":81\n");
    std::fs::write(&other.file, text)?;
    let said = ask(other.command().args(["run", "-f"]).arg(&other.file))?;
    ensure!(said.code != 0, "{said:?}");
    ensure!(
        said.all().contains("eth0"),
        "the interface is named: {said:?}"
    );
    ensure!(
        said.all().contains("sluice"),
        "the program that holds the hook is named: {said:?}"
    );
    scene.expect(3, "a b c")?;
    Ok(())
}

#[test]
fn instances_without_xdp_live_side_by_side_on_one_host() -> Result<()> {
    let scene = Scene::start(&site(&three(""), ""))?;
    let mut other = Place::in_lab(&scene.lab, "other")?;
    other.listen.set_port(81);
    let text = site(&member(1, ""), "").replace(":80\n", ":81\n");
    let second = Sluice::start_in(other, &text, &["--no-xdp"])?;
    let url = format!("http://{}:81/name", topology::address(topology::BALANCER));
    ensure!(scene.curl.get(&url)?.text() == "b");
    scene.expect(3, "a b c")?;
    drop(second);
    scene.expect(3, "a b c")?;
    Ok(())
}

#[test]
fn foreign_pin_is_never_adopted_silently() -> Result<()> {
    let mut scene = Scene::start(&site(&three(""), ""))?;
    ensure!(scene.sluice.stop()? == 0);
    // Another program's map under the name of one of ours.
    let pin = scene.sluice.pins().join("MEMBERS");
    std::fs::remove_file(&pin)?;
    let bpftool = lab::tool_path("bpftool");
    let Some(bpftool) = bpftool else {
        return lab::skip("bpftool is missing");
    };
    let mut create = std::process::Command::new(bpftool);
    create.args(["map", "create"]).arg(&pin);
    create.args([
        "type", "array", "key", "4", "value", "8", "entries", "4", "name", "theirs",
    ]);
    lab::netns::run(&mut create)?;
    if let Err(error) = scene.sluice.launch(&[]) {
        // Refused: named, and the other program's map is still there.
        ensure!(error.to_string().contains("MEMBERS"), "{error}");
        ensure!(pin.exists());
    } else {
        // Or replaced by our own, with a message.
        ensure!(
            scene.sluice.log().contains("MEMBERS"),
            "{}",
            scene.sluice.log()
        );
        ensure!(tables::members(&scene.sluice.pins())?.len() == 3);
    }
    Ok(())
}

#[test]
fn detach_takes_the_program_off_a_dead_instances_interface() -> Result<()> {
    let mut scene = Scene::start(&site(&three(""), ""))?;
    scene.sluice.crash()?;
    scene.sluice.cli(&["detach", "--yes"])?.ok()?;
    let links = lab::netns::run(
        scene
            .lab
            .balancer
            .command("ip")
            .args(["link", "show", "eth0"]),
    )?;
    ensure!(!links.contains("xdp"), "{links}");
    // Once more is no error.
    let said = scene.sluice.cli(&["detach", "--yes"])?.ok()?;
    ensure!(said.out.contains("attached to no interface"), "{said:?}");
    Ok(())
}
