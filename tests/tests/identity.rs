//! A member is its balancer's name and its URL: no edit of the file moves one member's drain or
//! counters to another.

use anyhow::{Result, ensure};
use lab::{
    LabOptions, Scene,
    scene::{NAMES, member, member_address, site},
    tables::{self, MemberRow},
};

/// The row of a URL.
fn row(scene: &Scene, index: u8) -> Result<MemberRow> {
    let url = format!("http://{}", member_address(index));
    tables::members(&scene.sluice.pins())?
        .into_iter()
        .find(|row| row.url.trim_end_matches('/') == url)
        .ok_or_else(|| anyhow::anyhow!("{url} is not in the table"))
}

fn reorder(order: &[u8]) -> String {
    site(
        &order
            .iter()
            .map(|index| member(*index, ""))
            .collect::<String>(),
        "",
    )
}

#[test]
fn reordering_moves_nothing() -> Result<()> {
    let scene = Scene::with(
        LabOptions {
            members: 4,
            attackers: 0,
        },
        &reorder(&[0, 1, 2, 3]),
    )?;
    scene.letters(8)?;
    scene.sluice.cli(&["member", "drain", "b", "c"])?.ok()?;
    scene.letters(3)?;
    let before: Vec<_> = (0..4)
        .map(|index| row(&scene, index))
        .collect::<Result<_>>()?;

    for order in [[3, 2, 1, 0], [1, 3, 0, 2]] {
        scene.sluice.reload(&reorder(&order))?.ok()?;
        for (index, before) in (0..4).zip(&before) {
            let now = row(&scene, index)?;
            ensure!(now.id == before.id, "{} moved: {now:?}", before.url);
            ensure!(now.slot.head.incarnation == before.slot.head.incarnation);
            ensure!(
                now.letters() == before.letters(),
                "{}: {}",
                now.url,
                now.letters()
            );
            ensure!(
                now.slot.election.elected == before.slot.election.elected,
                "{}",
                now.url
            );
        }
    }
    ensure!(!scene.letters(6)?.contains('c'), "c is drained still");
    Ok(())
}

#[test]
fn renamed_route_is_the_same_member() -> Result<()> {
    let scene = Scene::start(&reorder(&[0, 1, 2]))?;
    scene.letters(6)?;
    scene.sluice.cli(&["member", "drain", "b", "b"])?.ok()?;
    let renamed = reorder(&[0, 1, 2]).replace("route=b", "route=other");
    scene.sluice.reload(&renamed)?.ok()?;
    let now = row(&scene, 1)?;
    ensure!(now.route == "other" && now.letters() == "N", "{now:?}");
    ensure!(now.slot.election.elected == 2);
    Ok(())
}

#[test]
fn another_url_is_another_member_and_inherits_nothing() -> Result<()> {
    let scene = Scene::start(&reorder(&[0, 1]))?;
    scene.letters(4)?;
    scene.sluice.cli(&["member", "drain", "b", "b"])?.ok()?;
    // c takes b's line and even its route.
    let swapped = reorder(&[0, 2]).replace(&format!("route={}", NAMES[2]), "route=b");
    scene.sluice.reload(&swapped)?.ok()?;
    let now = row(&scene, 2)?;
    ensure!(
        now.letters().is_empty() && now.slot.election.elected == 0,
        "{now:?}"
    );
    ensure!(scene.letters(4)?.contains('c'));
    Ok(())
}

#[test]
fn swapping_two_urls_swaps_their_drains_with_them() -> Result<()> {
    let scene = Scene::start(&reorder(&[0, 1, 2]))?;
    scene.sluice.cli(&["member", "drain", "b", "a"])?.ok()?;
    // The routes stay on their lines while the URLs change places.
    let swapped = reorder(&[1, 0, 2])
        .replace("route=a", "route=x")
        .replace("route=b", "route=a")
        .replace("route=x", "route=b");
    scene.sluice.reload(&swapped)?.ok()?;
    ensure!(row(&scene, 0)?.letters() == "N", "the drain is the URL's");
    ensure!(row(&scene, 1)?.letters().is_empty());
    ensure!(!scene.letters(6)?.contains('a'));
    Ok(())
}

#[test]
fn drains_and_counters_stay_right_across_crash_and_edit_together() -> Result<()> {
    let mut scene = Scene::start(&reorder(&[0, 1, 2]))?;
    scene.letters(6)?;
    scene.sluice.cli(&["member", "drain", "b", "a"])?.ok()?;
    scene.sluice.crash()?;
    std::fs::write(&scene.sluice.place().file, reorder(&[2, 1, 0]))?;
    scene.sluice.launch(&[])?;
    ensure!(row(&scene, 0)?.letters() == "N");
    ensure!(row(&scene, 0)?.slot.election.elected == 2);
    ensure!(row(&scene, 2)?.letters().is_empty());
    Ok(())
}
