//! Forms, pages and what is kept, without a proxy.

use super::{
    edit::{EditError, Letter, Live, Setting, plan},
    form::{MOST_BYTES, Params, of_balancer, of_member},
    kept::Kept,
    *,
};
use crate::{
    admin::protocol::MemberChange,
    config::{
        member_of_url,
        spec::{Balancer, LbMethod, Manage, Place, Spec, Sticky},
    },
};

fn balancer(urls: &[&str]) -> Balancer {
    Balancer {
        name: "app".to_owned(),
        direct: false,
        members: urls
            .iter()
            .map(|url| member_of_url(url).expect("a URL"))
            .collect(),
        lbmethod: LbMethod::ByRequests,
        sticky: None,
        nofailover: false,
        timeout: std::time::Duration::ZERO,
        maxattempts: None,
        failonstatus: Vec::new(),
        failontimeout: false,
        forcerecovery: true,
        beyond: crate::config::spec::Beyond::default(),
        manage: Manage {
            growth: 1,
            ..Manage::default()
        },
        at: Place::default(),
    }
}

fn body(text: &str) -> Params {
    Params::of_body(text.as_bytes())
}

const LIVE: Live = Live {
    state: MemberState(0),
    lbfactor: 100,
    lbset: 0,
};

#[test]
fn values_are_decoded_as_httpd_does() {
    // As observed with httpd 2.4.71.
    for (sent, meant) in [
        ("a+b", "a+b"),
        ("a%2bb", "a+b"),
        ("a%252bb", "a+b"),
        ("%252541", "%41"),
        ("%zz", "%zz"),
        ("a%00b", "a"),
        ("a%2500b", "a"),
        ("%", "%"),
        ("%2", "%2"),
        ("a=b", "a=b"),
        ("", ""),
    ] {
        let params = body(&format!("b=x&w_wr={sent}"));
        assert_eq!(params.value("w_wr"), Some(meant), "{sent}");
    }
    assert_eq!(
        body("w_lf=3&w_lf=4").value("w_lf"),
        Some("4"),
        "the last counts"
    );
    let long = format!("a={}&b=1", "x".repeat(MOST_BYTES));
    assert_eq!(
        body(&long).value("b"),
        None,
        "what follows is not looked at"
    );
    let params = Params::of_query("b=x&w_lf=3&b_lbm=y&nonce=z");
    assert!(!params.ask_for_change() && params.value("w_lf").is_none());
}

#[test]
fn values_out_of_range_are_left_out_and_said() {
    let (settings, ignored) = of_member(&body(
        "w_lf=101&w_ls=100&w_hi=99&w_hp=0&w_hf=-1&w_hm=nope&w_lf_=1&w_status_X=1",
    ));
    assert_eq!(settings, []);
    assert_eq!(ignored.len(), 6, "{ignored:?}");
    let (settings, ignored) = of_balancer(&body("b_lbm=BYREQUESTS&b_tmo=7201&b_max=100&b_nwrkr=x"));
    assert_eq!(settings, []);
    assert_eq!(ignored.len(), 4, "{ignored:?}");
    let (settings, _) = of_member(&body("w_lf=3.456&w_ls=abc&w_status_D=2&w_status_N=abc"));
    assert_eq!(
        settings,
        [
            Setting::Slot(MemberChange::LoadFactor { lbfactor: 345 }),
            Setting::Slot(MemberChange::LbSet { lbset: 0 }),
            Setting::Status(Letter::D, true),
            Setting::Status(Letter::N, false),
        ],
        "numbers are read as C reads them"
    );
    let long = "x".repeat(64);
    let (settings, _) = of_member(&body(&format!("w_wr={long}")));
    assert_eq!(
        settings,
        [Setting::Route(String::new())],
        "too long is empty, as in httpd"
    );
}

#[test]
fn whole_form_changes_what_differs_alone() {
    let balancer = balancer(&["http://h:1"]);
    let form = "w_lf=1.00&w_ls=0&w_wr=&w_rr=&w_status_I=0&w_status_N=1&w_status_D=0&w_status_H=0\
                &w_status_R=0&w_status_C=0&w_status_S=0&w_hm=NONE&w_he=&w_hi=30000&w_hp=1&w_hf=1&w_hu=";
    let (settings, ignored) = of_member(&body(form));
    assert_eq!(ignored, Vec::<String>::new());
    let plan = plan(&balancer, Some((0, LIVE)), &settings).expect("a plan");
    assert_eq!(plan.balancer, None, "no new generation");
    let flags = "+N".to_owned();
    assert_eq!(plan.slot, [MemberChange::Status { flags }]);
    let form = "b_lbm=byrequests&b_tmo=0&b_max=0&b_sforce=0&b_ss=&b_nwrkr=";
    let (settings, _) = of_balancer(&body(form));
    let plan = edit::plan(&balancer, None, &settings).expect("a plan");
    assert_eq!((plan.balancer, plan.done), (None, vec![]));
}

#[test]
fn what_cannot_be_done_is_refused_as_a_whole() {
    let balancer = balancer(&["http://h:1"]);
    let refused =
        |member, settings: &[Setting]| plan(&balancer, member, settings).expect_err("refused");
    let member = Some((0, LIVE));
    let add = |url: &str| Setting::Add(url.to_owned());
    assert!(!refused(member, &[Setting::Status(Letter::C, true)]).is_bad_request());
    assert!(matches!(
        refused(None, &[Setting::Route("x".to_owned())]),
        EditError::Mixed
    ));
    assert!(matches!(
        refused(None, &[Setting::Status(Letter::D, true)]),
        EditError::Mixed
    ));
    for url in [
        "ftp://x",
        "x",
        "http://",
        "https://h",
        "http://h:1",
        "HTTP://H:1",
    ] {
        let error = refused(None, &[add(url)]);
        assert!(error.is_bad_request(), "{url}: {error}");
    }
    let error = refused(None, &[add("http://h:2"), add("http://h:3")]);
    assert!(
        matches!(error, EditError::NoRoom { growth: 1, .. }),
        "{error}"
    );
    let done = plan(&balancer, None, &[add("http://H:2")]).expect("room for one");
    let added = &done.balancer.expect("changed").members[1];
    assert_eq!(
        (added.url.as_str(), added.status),
        ("http://h:2", MemberState::DISABLED)
    );
}

#[test]
fn what_a_proxy_or_a_file_may_say_is_bounded() {
    let long = "x".repeat(64);
    for setting in [
        Setting::Slot(MemberChange::LoadFactor { lbfactor: 99 }),
        Setting::Slot(MemberChange::LbSet { lbset: 100 }),
        Setting::Slot(MemberChange::Enable),
        Setting::Route(long.clone()),
        Setting::HealthUri(long.clone()),
        Setting::HealthIntervalMs(99),
        Setting::HealthIntervalMs(u64::MAX),
        Setting::HealthFails(0),
        Setting::TimeoutSeconds(7201),
        Setting::MaxAttempts(100),
        Setting::Sticky(Some((long, "x".to_owned()))),
        Setting::Add("x".repeat(MOST_BYTES + 1)),
    ] {
        assert!(!setting.is_valid(), "{setting:?}");
    }
}

#[test]
fn sessions_that_are_switched_off_and_on_again_keep_what_the_file_says_of_them() {
    let file = Sticky {
        cookie: "S".to_owned(),
        path: "s".to_owned(),
        separator: Some('!'),
        scolonpathdelim: true,
        cookie_written: true,
    };
    let mut before = balancer(&["http://h:1"]);
    before.sticky = Some(file.clone());
    let set = |balancer: &Balancer, to: Option<(String, String)>| {
        let plan = plan(balancer, None, &[Setting::Sticky(to)]).expect("a plan");
        plan.balancer.expect("a change")
    };
    let off = set(&before, None);
    assert_eq!(off.sticky, None);
    let next = set(&off, Some(("T".to_owned(), "t".to_owned())));
    let expected = Sticky {
        cookie: "T".to_owned(),
        path: "t".to_owned(),
        ..file
    };
    assert_eq!(next.sticky, Some(expected));
    let plain = set(&balancer(&[]), Some(("T".to_owned(), "t".to_owned())));
    assert_eq!(plain.sticky.expect("sessions").separator, Some('.'));
}

#[test]
fn destinations_of_packets_are_added_where_there_are_such() {
    let steered = balancer(&["tcp://192.0.2.1:25"]);
    let add = |url: &str| plan(&steered, None, &[Setting::Add(url.to_owned())]);
    let done = add("TCP://192.0.2.2:25/").expect("a plan");
    let member = &done.balancer.expect("a change").members[1];
    assert_eq!(
        (member.url.as_str(), member.port),
        ("tcp://192.0.2.2:25", 25)
    );
    for url in ["udp://192.0.2.2:25", "tcp://192.0.2.2:25/path"] {
        assert!(matches!(add(url), Err(EditError::Url { .. })), "{url}");
    }
    let plain = balancer(&["http://h:1"]);
    let added = plan(
        &plain,
        None,
        &[Setting::Add("tcp://192.0.2.2:25".to_owned())],
    );
    assert!(matches!(added, Err(EditError::Url { .. })));
}

fn spec(balancer: Balancer) -> Spec {
    Spec {
        balancers: vec![balancer],
        ..Spec::default()
    }
}

#[test]
fn kept_changes_come_back_over_the_same_file() {
    let mut file = balancer(&["http://h:1"]);
    file.manage.persist = true;
    let mut kept = Kept::default();
    kept.before(&file);
    kept.set(
        "app",
        None,
        &[
            Setting::TimeoutSeconds(5),
            Setting::Add("http://h:2".to_owned()),
        ],
    );
    kept.set("app", None, &[Setting::TimeoutSeconds(6)]);
    kept.set("app", Some("http://h:1"), &[Setting::Route("r".to_owned())]);
    let live = Live {
        state: MemberState(MemberState::DRAIN | MemberState::ERROR),
        lbfactor: 700,
        lbset: 3,
    };
    kept.slot("app", "http://h:1", live);
    let text = kept.text(&spec(file.clone())).expect("text");
    let mut read = Kept::parse(&text).expect("read");
    let mut next = spec(file.clone());
    assert_eq!(read.put_over(&mut next), Vec::<String>::new());
    let made = &next.balancers[0];
    assert_eq!(
        (
            made.timeout.as_secs(),
            made.members.len(),
            made.manage.added
        ),
        (6, 2, 1)
    );
    let member = &made.members[0];
    assert_eq!(
        (member.route.as_str(), member.lbfactor, member.lbset),
        ("r", 700, 3)
    );
    assert_eq!(
        member.status,
        MemberState::DRAIN,
        "the error is the shards'"
    );

    // Without BalancerPersist nothing is written, and slots are the table's.
    file.manage.persist = false;
    let text = kept.text(&spec(file.clone())).expect("text");
    assert_eq!(Kept::parse(&text).expect("read"), Kept::default());
    let mut changed = spec(file);
    changed.balancers[0].maxattempts = Some(1);
    assert_eq!(
        kept.put_over(&mut changed).len(),
        1,
        "a file that changed wins"
    );
    assert_eq!(changed.balancers[0].members.len(), 1);
}

#[test]
fn kept_members_that_the_file_has_now_are_the_files() {
    let mut kept = Kept::default();
    let mut file = balancer(&["http://h:1"]);
    file.manage.persist = true;
    kept.set("app", None, &[Setting::Add("http://h:2".to_owned())]);
    let mut now = balancer(&["http://h:1", "http://h:2"]);
    now.manage.persist = true;
    let mut next = spec(now);
    kept.put_over(&mut next);
    let made = &next.balancers[0];
    assert_eq!(
        (
            made.members.len(),
            made.members[1].status,
            made.manage.added
        ),
        (2, 0, 0)
    );
}

#[test]
fn states_are_in_httpds_words_and_in_ours() {
    let of = |state| WorkerView {
        state: MemberState(state),
        error_seconds: (state & MemberState::ERROR != 0).then_some(10),
        retry_seconds: 60,
        ..WorkerView::default()
    };
    for (state, status, class, words) in [
        (0, "Init Ok ", "ok", "in use"),
        (
            MemberState::DRAIN,
            "Init Drn Ok ",
            "warn",
            "draining: existing sessions only",
        ),
        (MemberState::DISABLED, "Init Dis ", "off", "disabled"),
        (
            MemberState::ERROR,
            "Init Err ",
            "bad",
            "in error, tried again in 50 s",
        ),
        (
            MemberState::STANDBY | MemberState::IGNORE_ERRORS,
            "Init Ign Stby Ok ",
            "idle",
            "standby",
        ),
        (
            MemberState::HEALTH_FAILED | MemberState::DRAIN,
            "Init Drn HcFl ",
            "bad",
            "health check failed; draining: existing sessions only",
        ),
    ] {
        let view = of(state);
        assert_eq!(view.status(), status);
        assert_eq!(view.in_words(), (class, words.to_owned()));
    }
}

#[test]
fn sizes_are_those_of_apr() {
    for (bytes, text) in [
        (0, "  0 "),
        (972, "972 "),
        (973, "1.0K"),
        (1024, "1.0K"),
        (1536, "1.5K"),
        (10 * 1024, " 10K"),
        (972 * 1024, "972K"),
        (1024 * 1024, "1.0M"),
        (u64::MAX, " 16E"),
    ] {
        assert_eq!(size(bytes), text, "{bytes}");
    }
}

#[test]
fn nothing_from_outside_is_markup() {
    let evil = "<img src=x onerror=alert(1)>\"'&\u{0}";
    let text = || evil.to_owned();
    let view = View {
        host: text(),
        path: text(),
        balancers: vec![BalancerView {
            name: text(),
            key: text(),
            nonce: text(),
            path: text(),
            room: 1,
            sticky: Some((text(), text())),
            workers: vec![WorkerView {
                url: text(),
                hostname: text(),
                route: text(),
                redirect: text(),
                hc_method: "GET",
                hc_uri: text(),
                ..WorkerView::default()
            }],
            ..BalancerView::default()
        }],
    };
    let said = Outcome::Refused(text());
    for form in [None, Some((0, None)), Some((0, Some(0)))] {
        let page = page(
            &view,
            Shown {
                form,
                outcome: Some(&said),
            },
        );
        assert!(!page.contains("<img") && !page.contains('\u{0}'), "{page}");
        assert!(page.contains("&lt;img src=x onerror=alert(1)&gt;&quot;&#39;&amp;\u{fffd}"));
    }
    assert!(!xml(&view, |_| String::new()).contains("<img"));
    let json: serde_json::Value = serde_json::from_str(&json(&view)).expect("JSON");
    assert_eq!(json["balancers"][0]["name"], evil);
    assert!(
        json["balancers"][0]["nonce"].is_null(),
        "not for who sends no Referer"
    );
    assert!(policy().is_ascii() && !policy().contains("unsafe"));
}

#[test]
fn links_name_what_they_mean_after_two_decodings() {
    for text in ["http://[::1]:8080/a%20b?c=d&e#f", "%41", "a+b c", "ü|x"] {
        let query = format!("w={}", InQuery(text));
        assert_eq!(Params::of_query(&query).value("w"), Some(text), "{query}");
    }
}
