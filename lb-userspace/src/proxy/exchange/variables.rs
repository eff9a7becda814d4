//! A request's variables, for logs and expressions: mod_ssl's, mod_proxy_balancer's and our own.

use std::borrow::Cow;

use http::Uri;

use super::Exchange;

impl Exchange {
    /// All variables of the request that its lines may ask for.
    pub(super) fn logged_variables(&self) -> Vec<(Cow<'static, str>, String)> {
        let mut list = self.variables();
        let Some(session) = &self.client.tls else {
            return list;
        };
        for log in &self.host().logs {
            for name in log.format.variables() {
                if !list
                    .iter()
                    .any(|(known, _)| known.eq_ignore_ascii_case(name))
                    && let Some(value) = session.variable(name)
                {
                    list.push((Cow::Owned(name.to_owned()), value));
                }
            }
        }
        list
    }

    /// Those that sections set come first.
    fn variables(&self) -> Vec<(Cow<'static, str>, String)> {
        let set = self.ruling.as_ref().map(|ruling| ruling.variables());
        let set = set.into_iter().flatten();
        set.map(|(name, value)| (Cow::Owned(name), value))
            .chain(
                self.environment()
                    .into_iter()
                    .map(|(name, value)| (Cow::Borrowed(name), value)),
            )
            .collect()
    }

    /// mod_ssl's and mod_proxy_balancer's variables and the reason.
    pub(crate) fn environment(&self) -> Vec<(&'static str, String)> {
        let mut list: Vec<_> = self
            .reason
            .map(|reason| ("SLUICE_REASON", reason.name().to_owned()))
            .into_iter()
            .collect();
        if let Some(session) = &self.client.tls {
            list.extend([
                ("HTTPS", "on".to_owned()),
                ("SSL_PROTOCOL", session.protocol.to_owned()),
                ("SSL_CIPHER", session.cipher.to_owned()),
            ]);
            if let Some(name) = &session.name {
                list.push(("SSL_TLS_SNI", name.to_string()));
            }
            let Some(shown) = &session.client else {
                list.push(("SSL_CLIENT_VERIFY", "NONE".to_owned()));
                return self.balancing_environment(list);
            };
            list.extend([
                ("SSL_CLIENT_VERIFY", shown.verify.to_owned()),
                ("SSL_CLIENT_S_DN", shown.subject.clone()),
                ("SSL_CLIENT_I_DN", shown.issuer.clone()),
                ("SSL_CLIENT_M_SERIAL", shown.serial.clone()),
            ]);
            if let Some(name) = &shown.common_name {
                list.push(("SSL_CLIENT_S_DN_CN", name.clone()));
            }
        }
        self.balancing_environment(list)
    }

    fn balancing_environment(
        &self,
        mut list: Vec<(&'static str, String)>,
    ) -> Vec<(&'static str, String)> {
        let Some((balancing, engaged)) = self.engagement() else {
            return list;
        };
        let balancer = &balancing.balancer;
        if balancer.direct {
            return list;
        }
        let member = &balancer.members()[engaged.member];
        // As in httpd: where its socket is, is nobody's business.
        let socket = &balancing.members[engaged.member].spec.socket;
        let url = match (socket, member.url.split_once('|')) {
            (Some(_), Some((_, url))) => url,
            _ => &member.url,
        };
        list.extend([
            ("BALANCER_NAME", format!("balancer://{}", balancer.written)),
            ("BALANCER_WORKER_NAME", url.to_owned()),
            ("BALANCER_WORKER_ROUTE", member.route.clone()),
        ]);
        if let (Some(session), Some(sticky)) = (&engaged.session, &balancer.sticky) {
            let name = if session.in_url {
                &sticky.path
            } else {
                &sticky.cookie
            };
            list.push(("BALANCER_SESSION_STICKY", name.clone()));
            let route = String::from_utf8_lossy(&session.route).into_owned();
            list.push(("BALANCER_SESSION_ROUTE", route));
        }
        if engaged.route_changed {
            list.push(("BALANCER_ROUTE_CHANGED", "1".to_owned()));
        }
        list
    }

    pub(super) fn wants_filename(&self) -> bool {
        let mut logs = self.host().logs.iter();
        logs.any(|log| log.format.wants().filename)
    }

    pub(super) fn filename(&self) -> String {
        self.engagement()
            .map(|(balancing, engaged)| {
                let spec = &balancing.members[engaged.member].spec;
                let base = spec.url.strip_suffix(spec.path.as_str());
                let path = engaged.target.as_ref().map_or("", Uri::path);
                format!("proxy:{}{path}", base.unwrap_or(&spec.url))
            })
            .unwrap_or_default()
    }
}
