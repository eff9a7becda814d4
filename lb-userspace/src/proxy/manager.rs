//! The balancer-manager's requests: who may ask for what (Referer, nonce), what the page is made
//! from, and the way of a change to control, which owns what it changes (apache.md 9).
//!
//! Access to the page is `Require`'s, before this.

use std::{net::SocketAddr, time::SystemTime};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri, header, request::Parts};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use siphasher::sip128::SipHasher13;
use tokio::sync::{mpsc, oneshot};
use tracing::{error, info};

use super::{
    client::Asked, exchange::Exchange, page, page::Detail, plan::Plan, policy, shard::Shared,
};
use crate::{
    admin::manager::{
        self, BalancerView, Outcome, Shown, View, WorkerView,
        edit::{Submission, check_name, name_of},
        form::{self, Params},
    },
    config::spec::{Nonce, Scheme, Target},
    dataplane::table::monotonic_ns,
};

const LOG: &str = "sluice::proxy";

/// Changes that may wait for control.
const MOST_WAITING: usize = 64;

/// Bytes of a body that are waited for; more is no form.
const MOST_BODY: usize = 16 * 1024;

/// A change on its way to control.
#[derive(Debug)]
pub struct Ask {
    /// Who asks.
    pub client: SocketAddr,
    /// What for.
    pub submission: Submission,
    /// Where the answer goes; dropped: there is none.
    pub reply: oneshot::Sender<Answer>,
}

/// What control says: what was done, or why nothing was and whether the request was a bad one.
pub type Answer = Result<String, (String, bool)>;

/// What the shards have of the manager.
#[derive(Debug)]
pub(crate) struct Office {
    /// Nonces are made from it; of this process alone.
    secret: [u8; 16],
    asks: mpsc::Sender<Ask>,
}

impl Office {
    /// With the end at which changes arrive. An error: the system has no randomness.
    pub(crate) fn open() -> std::io::Result<(Self, mpsc::Receiver<Ask>)> {
        let mut secret = [0; 16];
        getrandom::fill(&mut secret).map_err(std::io::Error::other)?;
        let (asks, arrive) = mpsc::channel(MOST_WAITING);
        Ok((Self { secret, asks }, arrive))
    }

    /// What a change of a balancer has to carry, as a UUID; empty: there is no such thing.
    fn nonce(&self, name: &str, configured: &Nonce) -> String {
        match configured {
            Nonce::Off => String::new(),
            Nonce::Fixed(nonce) => nonce.clone(),
            Nonce::Random => {
                let hash = SipHasher13::new_with_key(&self.secret).hash(name.as_bytes());
                let hex = format!("{:016x}{:016x}", hash.h1, hash.h2);
                let groups = [0..8, 8..12, 12..16, 16..20, 20..32].map(|group| &hex[group]);
                groups.join("-")
            }
        }
    }

    async fn ask(&self, client: SocketAddr, submission: Submission) -> Answer {
        let (reply, answer) = oneshot::channel();
        let ask = Ask {
            client,
            submission,
            reply,
        };
        let nobody = |()| {
            let message = "nobody can carry it out at the moment: control is not there, or changes \
                           are waiting for it already; nothing was changed";
            (message.to_owned(), false)
        };
        self.asks.try_send(ask).map_err(|_| ()).map_err(nobody)?;
        answer.await.map_err(|_| ()).map_err(nobody)?
    }
}

/// Answers a request for the page.
pub(crate) async fn answer(
    exchange: &Exchange,
    parts: &Parts,
    body: Incoming,
    asked: Option<&Asked>,
) -> Response<Bytes> {
    let peer = exchange.client.peer;
    let params = match parts.method {
        Method::GET | Method::HEAD => Params::of_query(parts.uri.query().unwrap_or_default()),
        Method::POST => match submitted(body).await {
            Ok(params) => params,
            Err(status) => return page::error(status, Detail::Plain),
        },
        _ => {
            let mut refused = page::error(StatusCode::METHOD_NOT_ALLOWED, Detail::Plain);
            let allowed = HeaderValue::from_static("GET, HEAD, POST");
            refused.headers_mut().insert(header::ALLOW, allowed);
            return refused;
        }
    };
    let own = policy::Canonically::of(exchange, asked);
    let host = own.name();
    // Numbers without nonces, and nothing but a page of another site cannot read it.
    let wants_json = params.value("json") == Some("1");
    if wants_json && !params.ask_for_change() && parts.method != Method::POST {
        let view = view(exchange, host, &parts.uri);
        return respond(StatusCode::OK, "application/json", manager::json(&view));
    }
    let foreign = (!params.is_empty())
        .then(|| foreign(&parts.headers, host))
        .flatten();
    if let Some(origin) = &foreign {
        error!(
            target: LOG,
            "[client {peer}] AH10187: ignoring params in balancer-manager cross-site access {origin}: {host}"
        );
    }
    let params = if foreign.is_some() {
        Params::default()
    } else {
        params
    };
    let mut outcome = foreign.map(|origin| {
        Outcome::Refused(format!(
            "Nothing was changed: the request's Referer ({origin}) is not of this host"
        ))
    });
    if params.ask_for_change() {
        let (status, what) = change(exchange, host, &parts.uri, &params).await;
        if status != StatusCode::OK && !wants_json {
            let why = match &what {
                Outcome::Done(message) | Outcome::Refused(message) => message,
            };
            return page::error(status, Detail::Reason(why));
        }
        outcome = Some(what);
    }
    if wants_json {
        let outcome = outcome.unwrap_or_else(|| Outcome::Refused("nothing was asked".to_owned()));
        let text = manager::outcome_json(&outcome);
        return respond(StatusCode::OK, "application/json", text);
    }
    let view = view(exchange, host, &parts.uri);
    if params
        .value("xml")
        .is_some_and(|xml| xml.starts_with(|c: char| matches!(c, '1'..='9')))
    {
        let now = SystemTime::now();
        let date = |seconds| {
            let then = now.checked_sub(std::time::Duration::from_secs(seconds));
            then.map(httpdate).unwrap_or_default()
        };
        return respond(StatusCode::OK, "text/xml", manager::xml(&view, date));
    }
    let form = selected(&view, &params);
    let shown = Shown {
        form,
        outcome: outcome.as_ref(),
    };
    let html = manager::page(&view, shown);
    respond(StatusCode::OK, "text/html; charset=utf-8", html)
}

/// The balancer, and the member, that parameters name.
fn selected(view: &View, params: &Params) -> Option<(usize, Option<usize>)> {
    let name = params.value("b")?;
    let at = view.balancers.iter().position(|b| b.name == name)?;
    let member = params.value("w").filter(|url| !url.is_empty());
    match member {
        None => Some((at, None)),
        Some(url) => {
            let workers = &view.balancers[at].workers;
            let member = workers.iter().position(|w| w.url == url)?;
            Some((at, Some(member)))
        }
    }
}

/// Makes the change that parameters ask for, if they carry the balancer's nonce.
async fn change(
    exchange: &Exchange,
    host: &str,
    uri: &Uri,
    params: &Params,
) -> (StatusCode, Outcome) {
    let refused = |message: &str| {
        let message = format!("Nothing was changed: {message}");
        (StatusCode::OK, Outcome::Refused(message))
    };
    let view = view(exchange, host, uri);
    let Some((at, member)) = selected(&view, params) else {
        return refused("there is no such balancer or member here");
    };
    let balancer = &view.balancers[at];
    let nonce = params.value("nonce").unwrap_or_default();
    if balancer.nonce.is_empty() {
        return refused("this balancer has nonce=None");
    }
    if !same(nonce.as_bytes(), balancer.nonce.as_bytes()) {
        let peer = exchange.client.peer;
        info!(target: LOG, "[client {peer}] balancer-manager: wrong or missing nonce for balancer://{}", balancer.name);
        return refused(
            "the nonce is not this balancer's (it is new at each start): reload the page",
        );
    }
    let (settings, ignored) = match member {
        Some(_) => form::of_member(params),
        None => form::of_balancer(params),
    };
    let submission = Submission {
        balancer: balancer.key.clone(),
        member: member.map(|member| balancer.workers[member].url.clone()),
        settings,
    };
    let office = &exchange.shard.shared.office;
    match office.ask(exchange.client.peer, submission).await {
        Ok(mut done) => {
            for note in ignored {
                done.push_str("; ");
                done.push_str(&note);
            }
            (StatusCode::OK, Outcome::Done(done))
        }
        Err((why, true)) => (StatusCode::BAD_REQUEST, Outcome::Refused(why)),
        // What cannot be done is told by an error page, not by a page that looks like success.
        Err((why, false)) => (StatusCode::CONFLICT, Outcome::Refused(why)),
    }
}

/// Compares without telling by its time how much is right.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
}

/// Where a request with parameters comes from, if not from a page of this host: its Referer must be
/// there and name it, and what else browsers say must not contradict.
fn foreign(fields: &HeaderMap, host: &str) -> Option<String> {
    let text = |name| {
        fields
            .get(name)
            .map(|value| String::from_utf8_lossy(value.as_bytes()))
    };
    let Some(referer) = text(header::REFERER) else {
        return Some("(null)".to_owned());
    };
    if !is_of(&referer, host) {
        return Some(referer.into_owned());
    }
    if let Some(origin) = text(header::ORIGIN).filter(|origin| !is_of(origin, host)) {
        return Some(origin.into_owned());
    }
    let site = text(header::HeaderName::from_static("sec-fetch-site"));
    site.filter(|site| *site == "cross-site")
        .map(std::borrow::Cow::into_owned)
}

/// Whether a URL names this host; its port does not count, as in httpd.
fn is_of(url: &str, host: &str) -> bool {
    let Ok(uri) = url.parse::<Uri>() else {
        return false;
    };
    uri.scheme().is_some()
        && uri
            .host()
            .is_some_and(|name| name.eq_ignore_ascii_case(host) || bare(name) == bare(host))
}

/// Without the brackets of an IPv6 address.
fn bare(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

/// Reads a form: no more than one may have.
async fn submitted(mut body: Incoming) -> Result<Params, StatusCode> {
    let mut text = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| StatusCode::BAD_REQUEST)?;
        if let Some(data) = frame.data_ref() {
            text.extend_from_slice(data);
        }
        if text.len() > MOST_BODY {
            return Err(StatusCode::PAYLOAD_TOO_LARGE);
        }
    }
    Ok(Params::of_body(&text))
}

fn respond(status: StatusCode, kind: &'static str, text: String) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(text));
    *response.status_mut() = status;
    let fields = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        // The Referer check needs it, and nobody else is to have it: links carry nonces.
        (header::REFERRER_POLICY, "same-origin"),
        (header::CONTENT_SECURITY_POLICY, manager::policy()),
    ] {
        fields.insert(name, HeaderValue::from_static(value));
    }
    let opener = header::HeaderName::from_static("cross-origin-opener-policy");
    fields.insert(opener, HeaderValue::from_static("same-origin"));
    let resource = header::HeaderName::from_static("cross-origin-resource-policy");
    fields.insert(resource, HeaderValue::from_static("same-origin"));
    response
}

/// A moment as HTTP writes it.
fn httpdate(moment: SystemTime) -> String {
    let seconds = moment
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    jiff::Timestamp::from_second(i64::try_from(seconds).unwrap_or(0))
        .map(|stamp| stamp.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string())
        .unwrap_or_default()
}

/// What is there now, for the virtual host that serves the page.
fn view(exchange: &Exchange, host: &str, uri: &Uri) -> View {
    let plan = &exchange.current.plan;
    let shared = &exchange.shard.shared;
    let shown = plan
        .spec
        .balancers
        .iter()
        .enumerate()
        .filter(|(_, b)| !b.direct && (b.manage.host == 0 || b.manage.host == exchange.host));
    View {
        host: host.to_owned(),
        path: uri.path().to_owned(),
        balancers: shown
            .map(|(index, _)| balancer_view(plan, shared, exchange.host, index))
            .collect(),
    }
}

fn balancer_view(plan: &Plan, shared: &Shared, host: usize, index: usize) -> BalancerView {
    let spec = &plan.spec.balancers[index];
    let leads_here =
        |target: &Target| matches!(target, Target::Balancer { balancer, .. } if *balancer == index);
    let routes = plan.spec.hosts[host].routes.iter();
    let path = routes
        .filter(|route| leads_here(&route.target))
        .map(|route| route.path.clone())
        .next();
    BalancerView {
        name: spec.written().to_owned(),
        key: spec.name.clone(),
        nonce: shared.office.nonce(&spec.name, &spec.manage.nonce),
        persist: spec.manage.persist,
        growth: spec.manage.growth,
        room: spec.manage.growth.saturating_sub(spec.manage.added),
        sticky: spec
            .sticky
            .as_ref()
            .map(|sticky| (sticky.cookie.clone(), sticky.path.clone())),
        scolonpathdelim: spec.sticky.as_ref().is_some_and(|s| s.scolonpathdelim),
        nofailover: spec.nofailover,
        timeout_seconds: spec.timeout.as_secs(),
        maxattempts: spec.maxattempts,
        lbmethod: name_of(spec.lbmethod),
        path: path.unwrap_or_default(),
        workers: (0..spec.members.len())
            .map(|member| worker_view(plan, shared, index, member))
            .collect(),
    }
}

fn worker_view(plan: &Plan, shared: &Shared, index: usize, member: usize) -> WorkerView {
    use std::sync::atomic::Ordering::{Acquire, Relaxed};
    let spec = &plan.spec.balancers[index].members[member];
    let balancer = &plan.balancers[index].balancer;
    let cell = balancer.cell(member);
    let state = balancer.state(member);
    let since = cell.error_since.load(Acquire);
    let in_error = state.has(lb_common::member::MemberState::ERROR) && since != 0;
    let health = &spec.health;
    WorkerView {
        url: spec.url.clone(),
        scheme: match spec.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
            Scheme::Tcp => "tcp",
            Scheme::Udp => "udp",
        },
        hostname: spec.host.clone(),
        port: spec.port,
        lbfactor: cell.weight.load(Acquire),
        lbset: cell.lbset(),
        route: spec.route.clone(),
        redirect: spec.redirect.clone(),
        state,
        error_seconds: in_error.then(|| monotonic_ns().saturating_sub(since) / 1_000_000_000),
        retry_seconds: spec.retry.as_secs(),
        retries: cell.retries.load(Relaxed),
        elected: cell.elected.load(Relaxed),
        busy: shared.table.busy_sum(balancer.members()[member].id),
        lbstatus: cell.lbstatus.load(Relaxed),
        transferred: cell.transferred.load(Relaxed),
        read: cell.read.load(Relaxed),
        max: spec.max.unwrap_or(0),
        ttl_seconds: spec.ttl.map_or(0, |ttl| ttl.as_secs()),
        timeout_seconds: spec.timeout.map(|timeout| timeout.as_secs()),
        acquire_ms: spec.acquire.map(millis),
        connection_timeout_ms: spec.connection_timeout.map(millis),
        keepalive: spec.keepalive,
        disablereuse: spec.disablereuse,
        hc_method: check_name(health.check),
        hc_interval_ms: millis(health.interval),
        hc_passes: health.passes,
        hc_fails: health.fails,
        hc_uri: health.uri.clone(),
        hc_expr: health.expr.is_some(),
    }
}

fn millis(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pages_of_this_host_may_ask() {
        let from = |pairs: &[(&'static str, &'static str)]| {
            let mut fields = HeaderMap::new();
            for (name, value) in pairs {
                fields.insert(*name, HeaderValue::from_static(value));
            }
            foreign(&fields, "lb.test").is_none()
        };
        assert!(from(&[("referer", "http://lb.test/m")]));
        assert!(from(&[("referer", "https://LB.test:8443/m?b=x")]));
        assert!(from(&[
            ("referer", "http://lb.test/"),
            ("origin", "http://lb.test")
        ]));
        for bad in [
            &[][..],
            &[("referer", "http://evil.test/lb.test")],
            &[("referer", "http://lb.test.evil.test/")],
            &[("referer", "http://lb.test@evil.test/")],
            &[("referer", "lb.test/")],
            &[("referer", "lb.test")],
            &[("referer", "")],
            &[("referer", "http://lb.test/"), ("origin", "null")],
            &[
                ("referer", "http://lb.test/"),
                ("origin", "http://evil.test"),
            ],
            &[
                ("referer", "http://lb.test/"),
                ("sec-fetch-site", "cross-site"),
            ],
        ] {
            assert!(!from(bad), "{bad:?}");
        }
    }

    #[test]
    fn nonces_differ_by_balancer_and_by_start() {
        let (one, _) = Office::open().expect("randomness");
        let (two, _) = Office::open().expect("randomness");
        let of = |office: &Office, name: &str| office.nonce(name, &Nonce::Random);
        assert_eq!(of(&one, "a"), of(&one, "a"));
        assert_ne!(of(&one, "a"), of(&one, "b"));
        assert_ne!(of(&one, "a"), of(&two, "a"));
        assert_eq!(of(&one, "a").len(), 36);
        assert_eq!(one.nonce("a", &Nonce::Fixed("x".to_owned())), "x");
        assert_eq!(one.nonce("a", &Nonce::Off), "");
    }
}
