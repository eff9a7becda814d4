//! `stickycookie=On`: the session's cookie, written here so that no Header line is needed.

use http::{HeaderMap, HeaderValue, header};

use crate::{
    balancer::sticky,
    config::spec::Target,
    proxy::{exchange::Exchange, policy::Proxied},
};

/// Sets the cookie where the client has no session with the member that answered. One that the
/// application sets under this name is the application's.
pub(super) fn set(exchange: &Exchange, fields: &mut HeaderMap) {
    let Some(engaged) = exchange.engaged.as_ref().filter(|own| own.route_changed) else {
        return;
    };
    let balancer = &exchange.current.plan.balancers[engaged.balancer].balancer;
    let Some(wanted) = &balancer.sticky else {
        return;
    };
    let route = &balancer.members()[engaged.member].route;
    if !wanted.cookie_written || route.is_empty() {
        return;
    }
    let mut set = fields.get_all(header::SET_COOKIE).iter();
    if set.any(|value| sticky::is_for_cookie(value.as_bytes(), &wanted.cookie)) {
        return;
    }
    let path = path(exchange, engaged.balancer);
    let secure = exchange.client.tls.is_some();
    let value = sticky::cookie(wanted, route, path, secure);
    // The configuration was checked for what a cookie cannot hold.
    if let Ok(value) = HeaderValue::try_from(value) {
        fields.append(header::SET_COOKIE, value);
    }
}

/// The one path of the host that leads to the balancer, `/` where there are several: a session is
/// with the balancer, and another balancer's cookie may have the same name. `/` as well where no
/// path of the configuration is what the browser asked for: a pattern led here, or a rule.
fn path(exchange: &Exchange, balancer: usize) -> &str {
    let led_by_rule = exchange.ruling.as_ref().is_some_and(|ruling| {
        let by_rule = |proxied: &Proxied| proxied.route.is_none();
        ruling.rewritten().is_some() || ruling.proxied.as_ref().is_some_and(by_rule)
    });
    if led_by_rule {
        return "/";
    }
    let routes = exchange.host_spec().routes.iter();
    let mut paths = routes.filter(
        |route| matches!(&route.target, Target::Balancer { balancer: to, .. } if *to == balancer),
    );
    match (paths.next(), paths.next()) {
        (Some(route), None) if route.pattern.is_none() && !route.interpolate => &route.path,
        _ => "/",
    }
}
