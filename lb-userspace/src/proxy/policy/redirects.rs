//! Redirect and its kin, carried out.

use http::{HeaderMap, HeaderValue, StatusCode};
use tracing::info;

use super::{LOG, Ruling, Scene, Stop, canonical::Canonically};
use crate::{
    config::spec::policy::{From, Redirect},
    pattern,
    proxy::{exchange::Exchange, path, reason::Reason},
    rewrite,
};

impl Ruling {
    /// The first Redirect that is for the request; those of later layers come first.
    pub(super) fn redirected(
        &self,
        scene: &dyn Scene,
        fields: &HeaderMap,
        layers: &[usize],
    ) -> Option<Stop> {
        let policies = &scene.spec().policies;
        let mut redirects = layers
            .iter()
            .rev()
            .flat_map(|layer| &policies[*layer].redirects);
        let (status, to) = redirects.find_map(|redirect| self.redirect(redirect))?;
        if !status.is_redirection() {
            return Some(Stop::Fail(status, Reason::Redirected));
        }
        let mut place = Vec::new();
        if to.first() == Some(&b'/') {
            let own = Canonically::by_fields(scene, self, fields);
            place.extend_from_slice(own.origin().as_bytes());
        }
        place.extend_from_slice(&to);
        // What no field can hold is no place to send anybody.
        let place = HeaderValue::from_bytes(&place).ok()?;
        Some(Stop::Send(status, place))
    }

    /// Status and place of a Redirect that is for the request.
    fn redirect(&self, redirect: &Redirect) -> Option<(StatusCode, Vec<u8>)> {
        let path = &self.path[..];
        let status = StatusCode::from_u16(redirect.status).ok()?;
        let mut to = match &redirect.from {
            From::Everything => redirect.to.clone().into_bytes(),
            From::Prefix(prefix) => {
                let matched = path::match_prefix(path, prefix.as_bytes())?;
                let mut to = redirect.to.clone().into_bytes();
                to.extend_from_slice(&rewrite::escape_path(&path[matched..]));
                to
            }
            From::Pattern(pattern) => {
                let captures = pattern.captures(path)?;
                let to = pattern::substitute(redirect.to.as_bytes(), path, &captures);
                encode_place(&to)
            }
        };
        if let Some(query) = self.target.query()
            && !to.contains(&b'?')
        {
            to.push(b'?');
            to.extend_from_slice(query.as_bytes());
        }
        Some((status, to))
    }
}

/// Encodes what cannot stand in a Location field; what a pattern's target has of `?`, `%` and the
/// like stays.
fn encode_place(place: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(place.len());
    for &byte in place {
        if byte <= b' ' || byte >= 0x7f || matches!(byte, b'"' | b'<' | b'>' | b'\\' | b'^' | b'`')
        {
            out.extend_from_slice(format!("%{byte:02X}").as_bytes());
        } else {
            out.push(byte);
        }
    }
    out
}

/// Says that a request was sent elsewhere.
pub(crate) fn say_sent(exchange: &Exchange, place: &HeaderValue) {
    info!(
        target: LOG,
        "[client {}] redirected to {}", exchange.client.peer, String::from_utf8_lossy(place.as_bytes())
    );
}
