//! Session routes by cookie and by path parameter (apache.md 5.4).

use anyhow::{Result, ensure};
use lab::{
    Scene,
    curl::letters,
    scene::{member, site, three},
};

fn start() -> Result<Scene> {
    let sticky = three("retry=60") + "    ProxySet stickysession=JSESSIONID|jsessionid\n";
    Scene::start(&site(&sticky, ""))
}

fn with_cookie(scene: &Scene, cookie: &str, count: u32) -> Result<String> {
    let curl = scene.curl.clone().header(format!("Cookie: {cookie}"));
    Ok(letters(&curl.series(&scene.url("/name"), count)?))
}

#[test]
fn cookie_that_a_member_set_leads_back_to_it() -> Result<()> {
    let scene = start()?;
    scene.letters(1)?;
    let first = scene.curl.get(&scene.url("/name?cookie=JSESSIONID"))?;
    let cookie = first.header("set-cookie").unwrap_or_default();
    ensure!(
        first.text() == "b" && cookie.starts_with("JSESSIONID=session.b"),
        "{first:?}"
    );
    lab::same(
        &with_cookie(&scene, "JSESSIONID=session.b", 6)?,
        "b b b b b b",
    )?;
    Ok(())
}

#[test]
fn path_parameter_leads_to_its_member_and_beats_the_cookie() -> Result<()> {
    let scene = start()?;
    let url = scene.url("/name;jsessionid=session.c");
    ensure!(letters(&scene.curl.series(&url, 4)?) == "c c c c");
    let curl = scene.curl.clone().header("Cookie: JSESSIONID=session.a");
    ensure!(letters(&curl.series(&url, 4)?) == "c c c c");
    Ok(())
}

#[test]
fn cookie_is_found_among_others() -> Result<()> {
    let scene = start()?;
    ensure!(with_cookie(&scene, "x=1; JSESSIONID=session.b; y=2", 3)? == "b b b");
    Ok(())
}

#[test]
fn value_without_separator_or_with_unknown_route_is_balanced() -> Result<()> {
    let scene = start()?;
    lab::same(&with_cookie(&scene, "JSESSIONID=b", 3)?, "a b c")?;
    lab::same(
        &with_cookie(&scene, "JSESSIONID=session.nobody", 3)?,
        "a b c",
    )?;
    ensure!(
        with_cookie(&scene, "jsessionid=session.b", 3)? == "a b c",
        "names are case-sensitive"
    );
    Ok(())
}

#[test]
fn session_of_a_dead_member_is_served_elsewhere() -> Result<()> {
    let mut scene = start()?;
    scene.members[1].kill();
    let seen = with_cookie(&scene, "JSESSIONID=session.b", 6)?;
    ensure!(!seen.contains('b') && !seen.contains("50"), "{seen}");
    Ok(())
}

#[test]
fn nofailover_answers_503_for_a_dead_session() -> Result<()> {
    let balancer =
        three("retry=0") + "    ProxySet stickysession=JSESSIONID|jsessionid nofailover=On\n";
    let mut scene = Scene::start(&site(&balancer, ""))?;
    scene.members[1].kill();
    lab::same(
        &with_cookie(&scene, "JSESSIONID=session.b", 3)?,
        "503 503 503",
    )?;
    Ok(())
}

#[test]
fn sticky_requests_count_for_the_election() -> Result<()> {
    // As httpd: after one new request, to a, and three sticky ones to b, a is owed three.
    let balancer = member(0, "") + &member(1, "") + "    ProxySet stickysession=JSESSIONID\n";
    let scene = Scene::start(&site(&balancer, ""))?;
    scene.expect(1, "a")?;
    lab::same(&with_cookie(&scene, "JSESSIONID=session.b", 3)?, "b b b")?;
    scene.expect(4, "a a a b")?;
    Ok(())
}
