//! `sluice route`: what it says would happen is what happens next, and asking changes nothing.

use anyhow::{Context, Result, ensure};
use lab::{
    Scene,
    curl::letters,
    scene::{member, site},
    sluice::UNREACHABLE,
};
use serde_json::Value;

fn ask(scene: &Scene, more: &[&str]) -> Result<Value> {
    let url = scene.url("/name");
    let words = [&["route", &url][..], more].concat();
    scene.sluice.json(&words)
}

fn elected(view: &Value) -> Result<String> {
    let all = view["candidates"].as_array().context("candidates")?;
    let one = all.iter().find(|one| one["elected"] == true);
    Ok(one.context("nobody elected")?["route"]
        .as_str()
        .unwrap_or_default()
        .to_owned())
}

#[test]
fn next_request_goes_where_it_says() -> Result<()> {
    let members = member(0, "loadfactor=3") + &member(1, "") + &member(2, "");
    let text = site(&(members + "    ProxySet stickysession=ID\n"), "");
    let mut scene = Scene::start(&text)?;
    for round in 0..12 {
        if round == 6 {
            scene.sluice.cli(&["member", "disable", "b", "a"])?.ok()?;
        }
        let said = elected(&ask(&scene, &[])?)?;
        // Asking twice is asking once.
        lab::same(&elected(&ask(&scene, &[])?)?, &said)?;
        lab::same(&scene.letters(1)?, &said)?;
    }
    let cookie = ["-H", "Cookie: ID=x.c"];
    let view = ask(&scene, &cookie)?;
    lab::same(&elected(&view)?, "c")?;
    ensure!(view["live"] == true && view["session"] == "c", "{view}");
    let curl = scene.curl.clone().header("Cookie: ID=x.c");
    lab::same(&letters(&curl.series(&scene.url("/name"), 1)?), "c")?;
    let url = scene.url("/name");
    let text = scene.sluice.cli(&["route", &url])?.ok()?.out;
    ensure!(
        text.contains("disabled") && text.contains("goes to http://"),
        "{text}"
    );

    scene.sluice.stop()?;
    let said = scene.sluice.cli(&["route", &url])?;
    ensure!(
        said.code == UNREACHABLE && said.err.contains("-f FILE"),
        "{said:?}"
    );
    let file = scene.sluice.place().file.display().to_string();
    let view = scene.sluice.json(&["route", "-f", &file, &url])?;
    lab::same(&elected(&view)?, "a")?;
    ensure!(view["live"] == false, "{view}");
    Ok(())
}
