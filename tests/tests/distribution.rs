//! byrequests: who gets which request (apache.md 5.3).

use anyhow::{Result, ensure};
use lab::{
    Scene,
    scene::{member, site, three},
    tables,
};

#[test]
fn five_to_one_is_httpds_sequence() -> Result<()> {
    let balancer = member(0, "loadfactor=5") + &member(1, "loadfactor=1");
    let scene = Scene::start(&site(&balancer, ""))?;
    scene.expect(12, "a a a b a a a a a b a a")?;
    Ok(())
}

#[test]
fn three_two_one_is_httpds_sequence() -> Result<()> {
    let balancer = member(0, "loadfactor=3") + &member(1, "loadfactor=2") + &member(2, "");
    let scene = Scene::start(&site(&balancer, ""))?;
    scene.expect(12, "a b a c b a a b a c b a")?;
    Ok(())
}

#[test]
fn sequence_holds_across_connections_and_shards() -> Result<()> {
    let scene = Scene::start(&site(&three(""), "    SluiceShards 2\n"))?;
    let mut seen = String::new();
    for _ in 0..9 {
        // A curl for each: another connection, perhaps another shard.
        seen += scene.curl.get(&scene.url("/name"))?.text();
    }
    ensure!(seen == "abcabcabc", "{seen}");
    Ok(())
}

#[test]
fn lower_lbset_is_used_while_it_has_a_member() -> Result<()> {
    let balancer = member(0, "lbset=1 retry=60") + &member(1, "lbset=0 retry=60");
    let mut scene = Scene::start(&site(&balancer, ""))?;
    scene.expect(4, "b b b b")?;
    scene.members[1].kill();
    scene.expect(4, "a a a a")?;
    Ok(())
}

#[test]
fn kernel_table_counts_what_the_members_got() -> Result<()> {
    let scene = Scene::start(&site(&three(""), ""))?;
    scene.letters(30)?;
    for (member, name) in scene.members.iter().zip(["a", "b", "c"]) {
        let row = tables::member(&scene.sluice.pins(), "b", name)?;
        ensure!(row.slot.election.elected == 10, "{name}: {row:?}");
        ensure!(member.requests() == 10);
        let listed = scene.sluice.member("b", name)?;
        ensure!(
            listed["elected"] == 10 && listed["id"] == row.id,
            "{listed}"
        );
    }
    Ok(())
}
