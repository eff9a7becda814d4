//! The page in Chromium, driven over its DevTools pipe: by mouse, by keyboard, on a phone, in the
//! dark. Needs Debian's chromium (`cargo xtask setup`).

use super::{
    super::harness::{Member, Sluice, fetch, wait_until},
    start, submit,
};

#[path = "chromium.rs"]
mod chromium;

use chromium::{Browser, Key};

fn open(sluice: &Sluice) -> Browser {
    let mut browser = Browser::start();
    let url = format!("http://127.0.0.1:{}/manager", sluice.port);
    browser.go(&url);
    // A new page would lose it.
    browser.run("window.marker = 1");
    browser
}

fn state(browser: &mut Browser, row: usize) -> String {
    let script = format!("document.querySelectorAll('tr[data-worker] .state')[{row}].textContent");
    browser.text(&script)
}

fn members_asked(sluice: &Sluice) -> String {
    (0..6)
        .map(|_| fetch(sluice.port, "/").expect("answer").body)
        .collect()
}

const DRAIN: &str = "document.querySelector('tr[data-worker] form[data-when=in] button')";

#[test]
fn click_on_drain_asks_first_and_then_moves_the_traffic() {
    let (a, b) = (Member::start("a"), Member::start("b"));
    let sluice = start(&[&a, &b], "", "");
    let mut browser = open(&sluice);
    assert_eq!(state(&mut browser, 0), "in use");

    browser.click(DRAIN);
    browser.wait("document.getElementById('confirm').open");
    let question = browser.text("document.getElementById('confirm-text').textContent");
    assert!(question.contains(&a.url()), "{question}");
    browser.click("document.querySelector('#confirm button[value=no]')");
    browser.wait("!document.getElementById('confirm').open");
    assert_eq!(
        sluice.status()["members"][0]["state"]
            .as_array()
            .map(Vec::len),
        Some(0),
        "cancelled"
    );

    browser.click(DRAIN);
    browser.click("document.getElementById('confirm-yes')");
    browser.wait("document.getElementById('outcome').textContent.includes('status is now N')");
    browser.wait("document.querySelector('.state').textContent.startsWith('draining')");
    assert_eq!(members_asked(&sluice), "bbbbbb");
    let elected = "Number(document.querySelectorAll('tr[data-worker] [data-key=elected]')[1].textContent) >= 6";
    browser.wait(elected);
    assert!(browser.holds("window.marker === 1"), "without a new page");

    browser.click("document.querySelector('tr[data-worker] form[data-when=out] button')");
    browser.wait("document.querySelector('.state').textContent === 'in use'");
    assert!(members_asked(&sluice).contains('a'));
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn weight_is_edited_and_member_added_in_the_page() {
    let (a, b) = (Member::start("a"), Member::start("b"));
    let sluice = start(&[&a, &b], "growth=1", "");
    let mut browser = open(&sluice);
    browser.click("document.querySelector('input[name=w_lf]')");
    browser.run("document.activeElement.select()");
    browser.write("12.5");
    browser.press(Key::Enter);
    browser.wait("document.getElementById('outcome').textContent.includes('loadfactor 12.5')");
    browser.wait("document.querySelector('[data-key=factor]').textContent === '12.50'");

    let c = Member::start("c");
    browser.click("document.querySelector('input[name=b_nwrkr]')");
    browser.write(&c.url());
    browser.press(Key::Enter);
    browser.wait("document.querySelectorAll('tr[data-worker]').length === 3");
    browser.wait("document.getElementById('outcome').textContent.includes('added, disabled')");
    assert_eq!(state(&mut browser, 2), "disabled");
    assert!(
        browser.holds("!document.querySelector('input[name=b_nwrkr]')"),
        "growth is used up"
    );

    // A form of httpd's, by its link.
    browser.click("document.querySelector('tr[data-worker] a')");
    browser.wait("document.getElementById('w_wr')");
    browser.click("document.getElementById('w_wr')");
    browser.write("neu");
    browser.press(Key::Enter);
    browser.wait("document.getElementById('outcome')?.textContent.includes('neu')");
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn keyboard_alone_drains_a_member() {
    let (a, b) = (Member::start("a"), Member::start("b"));
    let sluice = start(&[&a, &b], "", "");
    let mut browser = open(&sluice);
    let tab_to = |browser: &mut Browser, wanted: &str| {
        for _ in 0..60 {
            browser.press(Key::Tab);
            if browser.holds(&format!("document.activeElement === {wanted}")) {
                return;
            }
        }
        panic!("Tab never reaches {wanted}");
    };
    tab_to(&mut browser, DRAIN);
    browser.press(Key::Enter);
    browser.wait("document.getElementById('confirm').contains(document.activeElement)");
    browser.press(Key::Escape);
    browser.wait("!document.getElementById('confirm').open");
    // The focus comes back.
    browser.wait(&format!("document.activeElement === {DRAIN}"));
    browser.press(Key::Enter);
    browser.wait("document.getElementById('confirm').open");
    tab_to(&mut browser, "document.getElementById('confirm-yes')");
    browser.press(Key::Enter);
    browser.wait("document.querySelector('.state').textContent.startsWith('draining')");
    // The focus is not lost.
    browser.wait("document.activeElement !== document.body");
    assert_eq!(members_asked(&sluice), "bbbbbb");
}

/// What WCAG asks for: 4.5 to 1.
const POOR_CONTRAST: &str = "(() => {
  const light = (color) => { const [r, g, b] = color.match(/[0-9.]+/g).map(Number).map((v) => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const ground = (at) => { for (; at; at = at.parentElement) { const c = getComputedStyle(at).backgroundColor; if (!/^rgba.*, 0\\)$/.test(c)) return c; } return 'rgb(255, 255, 255)'; };
  const poor = [];
  for (const at of document.querySelectorAll('h1, h3, a, td, th, button, input, label, .state, p')) {
    const [x, y] = [light(getComputedStyle(at).color), light(ground(at))].sort((m, n) => n - m);
    if ((x + 0.05) / (y + 0.05) < 4.5) poor.push(at.tagName + '.' + at.className);
  }
  return poor.join(' ');
})()";

#[test]
fn phone_and_dark_scheme_show_everything() {
    let members: Vec<Member> = ["a", "b", "c", "d", "e"].map(Member::start).into();
    let members: Vec<&Member> = members.iter().collect();
    let sluice = start(&members, "nonce=x growth=2", "");
    let set = |member: &Member, bits: &str| {
        submit(&sluice, &format!("b=app&w={}&nonce=x&{bits}", member.url()));
    };
    set(members[1], "w_status_N=1");
    set(members[2], "w_status_D=1");
    set(
        members[3],
        "w_status_H=1&w_wr=a-route-that-is-quite-long-for-a-small-screen-and-unbroken",
    );
    let mut browser = open(&sluice);
    for dark in [false, true] {
        browser.scheme(dark);
        browser.wait(&format!(
            "matchMedia('(prefers-color-scheme: dark)').matches === {dark}"
        ));
        let ground = browser.text("getComputedStyle(document.body).backgroundColor");
        assert_eq!(ground == "rgb(255, 255, 255)", !dark, "{ground}");
        assert_eq!(browser.text(POOR_CONTRAST), "", "dark: {dark}");
    }
    for width in [320, 360, 412, 800, 1280] {
        browser.viewport(width, 740);
        browser.wait(&format!("innerWidth === {width}"));
        let widths = browser.text("document.documentElement.scrollWidth + ' ' + innerWidth");
        let (page, window) = widths.split_once(' ').expect("two numbers");
        let (page, window): (u32, u32) = (
            page.parse().expect("number"),
            window.parse().expect("number"),
        );
        assert!(
            page <= window && window == width,
            "no sideways scrolling at {width}: {widths}"
        );
    }
    browser.viewport(360, 740);
    let small = "[...document.querySelectorAll('button, input, select')].filter((at) => at.offsetParent && at.getBoundingClientRect().height < 24).length";
    assert_eq!(
        browser.text(&format!("String({small})")),
        "0",
        "fingers hit it"
    );
    // As cards they are tables still, to who does not see.
    let roles = browser.roles();
    for role in ["table", "row", "columnheader", "cell"] {
        assert!(roles.iter().any(|(known, _)| known == role), "{role}");
    }
}

#[test]
fn everything_has_a_name_for_who_does_not_see_it() {
    let (a, b) = (Member::start("a"), Member::start("b"));
    let sluice = start(&[&a, &b], "nonce=x growth=2", "");
    let mut browser = open(&sluice);
    for query in [
        "",
        "?b=app&nonce=x",
        &format!("?b=app&w={}&nonce=x", a.url()),
    ] {
        if !query.is_empty() {
            // By a link of the page, for the Referer.
            browser.run(&format!(
                "window.left = 1; location.href = location.pathname + '{query}'"
            ));
            // The page that is left may have such a form too.
            browser.wait(
                "!window.left && document.readyState === 'complete' && document.querySelector('form.edit')",
            );
        }
        let mut names = Vec::new();
        for (role, name) in browser.roles() {
            let acts = [
                "button",
                "link",
                "textbox",
                "spinbutton",
                "combobox",
                "radio",
                "checkbox",
                "table",
                "region",
            ];
            if acts.contains(&role.as_str()) {
                assert!(!name.trim().is_empty(), "a {role} without a name, {query}");
            }
            if role == "button" {
                names.push(name);
            }
        }
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(
            names.len(),
            count,
            "buttons are told apart by name: {names:?}"
        );
        let twice = "[...document.querySelectorAll('[id]')].map((at) => at.id).filter((id, at, all) => all.indexOf(id) !== at).join(' ')";
        assert_eq!(browser.text(twice), "", "ids are unique");
        assert_eq!(browser.text("document.documentElement.lang"), "en");
        assert_eq!(
            browser.text("String(document.querySelectorAll('h1').length)"),
            "1"
        );
        assert_eq!(
            browser.text("document.getElementById('outcome').getAttribute('role')"),
            "status"
        );
    }
}

#[test]
fn page_of_another_site_cannot_change_anything() {
    let (a, b) = (Member::start("a"), Member::start("b"));
    // The nonce is known to the attacker: the Referer alone has to hold.
    let sluice = start(&[&a, &b], "nonce=x", "");
    let mut browser = Browser::start();
    // Another name of the same address is another site.
    browser.go(&format!("http://localhost:{}/manager", sluice.port));
    let target = format!("http://127.0.0.1:{}/manager", sluice.port);
    browser.allow_anything();
    browser.go(&format!("http://localhost:{}/manager", sluice.port));
    browser.run(&format!(
        "(() => {{ const form = document.createElement('form'); form.method = 'post'; form.action = '{target}'; \
         for (const [name, value] of [['b', 'app'], ['w', '{}'], ['nonce', 'x'], ['w_status_D', '1']]) {{ \
         const field = document.createElement('input'); field.name = name; field.value = value; form.append(field); }} \
         document.body.append(form); form.submit(); }})()",
        a.url()
    ));
    browser.wait("location.hostname === '127.0.0.1' && document.readyState === 'complete'");
    wait_until("the attempt was noticed", || {
        sluice.log().contains("AH10187")
    });
    assert_eq!(
        sluice.status()["members"][0]["state"]
            .as_array()
            .map(Vec::len),
        Some(0)
    );
}
