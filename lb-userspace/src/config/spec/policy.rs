//! What sections say of requests: a [`Policy`] for each place where directives stand, and which
//! requests each is for.
//!
//! Nothing is merged here: a request passes through several policies in order ("layers": the main
//! server's, its virtual host's, then those of `<Proxy>`, `<Location>` and `<If>` that are for it),
//! and each setting has its own rule for what a later layer does to an earlier one.

use serde::{Deserialize, Serialize};

use crate::{
    expr::{
        Expr,
        fnmatch::{self, Options},
    },
    pattern::Pattern,
    policy::{
        access::{Combination, Methods, Rule},
        environment::SetEnvIf,
        fields::FieldEdit,
    },
    rewrite::Rewriting,
};

/// The directives of one place. Empty unless something was said there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    /// `SetHandler`; a later layer's counts.
    pub handler: Option<Handler>,
    /// `RequestHeader`; layers follow each other.
    pub request_fields: Vec<FieldEdit>,
    /// `Header onsuccess`: fields of a member's response; layers follow each other.
    pub response_fields: Vec<FieldEdit>,
    /// `Header always`: of every response, in a table of their own; layers follow each other.
    pub always_fields: Vec<FieldEdit>,
    /// `SetEnvIf` and its kin; layers follow each other.
    pub set_env_if: Vec<SetEnvIf>,
    /// `SetEnv` and `PassEnv`.
    pub set_env: Vec<(String, String)>,
    /// `UnsetEnv`: takes back what this layer and those before it set.
    pub unset_env: Vec<String>,
    /// `Require`; a later layer's counts, unless it says otherwise.
    pub access: Option<Rule>,
    /// `SSLRequireSSL`: refuses who does not speak TLS, whatever other layers say.
    pub requires_tls: bool,
    /// `AuthMerging`.
    pub auth_merging: AuthMerging,
    /// `Order`, `Allow`, `Deny`; a later layer's count.
    pub legacy: Option<LegacyAccess>,
    /// `Redirect` and its kin, in order; a later layer's come first.
    pub redirects: Vec<Redirect>,
    /// `ErrorDocument`, by status; a later layer's counts.
    pub error_documents: Vec<(u16, ErrorDocument)>,
    /// `ProxyErrorOverride`; a later layer's counts.
    pub error_override: Option<ErrorOverride>,
    /// `ProxyPreserveHost`; a later layer's counts.
    pub preserve_host: Option<bool>,
    /// `ProxyAddHeaders`; a later layer's counts.
    pub add_headers: Option<bool>,
    /// `Proxy100Continue`; a later layer's counts.
    pub forwards_expect: Option<bool>,
    /// `UseCanonicalName On`; a later layer's counts.
    pub canonical_name: Option<bool>,
    /// `UseCanonicalPhysicalPort`; a later layer's counts.
    pub physical_port: Option<bool>,
    /// `ProxyPassInterpolateEnv`; a later layer's counts.
    pub interpolate: Option<bool>,
    /// `ProxyPassReverseCookiePath`: what a path of a cookie begins with, and the whole path that
    /// takes its place.
    pub cookie_paths: Vec<CookieRule>,
    /// `ProxyPassReverseCookieDomain`, likewise; compared without regard to case.
    pub cookie_domains: Vec<CookieRule>,
    /// `<If>`, `<ElseIf>` and `<Else>`, in order.
    pub branches: Vec<Branch>,
    /// `RewriteEngine` and `RewriteRule`.
    pub rewriting: Rewriting,
}

impl Policy {
    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether names may have to be looked up for its rules.
    pub fn asks_for_names(&self) -> bool {
        let legacy = self.legacy.iter();
        let legacy = legacy.flat_map(|legacy| legacy.allow.iter().chain(&legacy.deny));
        (self.access.iter().chain(legacy)).any(Rule::asks_for_names)
    }

    /// Whether it refuses nobody and does nothing else, as `Require all granted` where nothing else
    /// is required.
    pub fn is_idle(&self) -> bool {
        let grants = |rule: &Rule| match rule {
            Rule::Group(Combination::Any, rules) => rules.contains(&Rule::All(true)),
            rule => *rule == Rule::All(true),
        };
        let open = |legacy: &LegacyAccess| {
            // `Satisfy Any` opens what another layer closes.
            legacy.limited.is_empty()
                && !legacy.satisfy_any
                && legacy.satisfy_limited.is_empty()
                && match legacy.order {
                    Order::DenyAllow => {
                        legacy.deny.is_empty() || legacy.allow.contains(&Rule::All(true))
                    }
                    Order::AllowDeny => {
                        legacy.deny.is_empty() && legacy.allow.contains(&Rule::All(true))
                    }
                }
        };
        self.access.as_ref().is_none_or(grants)
            && self.legacy.as_ref().is_none_or(open)
            && Self {
                access: None,
                legacy: None,
                auth_merging: AuthMerging::Off,
                ..self.clone()
            }
            .is_empty()
    }
}

impl Matcher {
    /// Whether it matches a decoded path, for `<Location>`.
    pub fn matches_path(&self, path: &[u8]) -> bool {
        match self {
            Self::Prefix(prefix) => path
                .strip_prefix(prefix.as_bytes())
                .is_some_and(|rest| rest.is_empty() || rest[0] == b'/' || prefix.ends_with('/')),
            Self::Wildcard(pattern) => {
                fnmatch::matches(pattern.as_bytes(), path, Options::of_paths(true))
            }
            Self::Pattern(pattern) => pattern.is_match(path),
        }
    }

    /// Whether it matches the URL that a request is proxied to, for `<Proxy>`.
    pub fn matches_url(&self, url: &[u8]) -> bool {
        match self {
            Self::Prefix(prefix) => url.starts_with(prefix.as_bytes()),
            Self::Wildcard(pattern) => {
                fnmatch::matches(pattern.as_bytes(), url, Options::of_paths(false))
            }
            Self::Pattern(pattern) => pattern.is_match(url),
        }
    }
}

/// One `ProxyPassReverseCookiePath` or `-Domain`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CookieRule {
    /// What the attribute's value begins with.
    pub internal: String,
    /// What takes the whole value's place.
    pub public: String,
    /// `interpolate`: `${NAME}` in both is a variable of the request, where `ProxyPassInterpolateEnv`
    /// is on.
    pub interpolate: bool,
}

/// A `<Location>` or `<Proxy>` section.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Section {
    /// Which requests it is for.
    pub matcher: Matcher,
    /// Index into [`super::Spec::policies`].
    pub policy: usize,
}

/// Which requests a [`Section`] is for. A `<Location>` looks at the decoded path, a `<Proxy>` at the
/// URL that the request is proxied to, `balancer://name/path`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Matcher {
    /// Begins with this. For a `<Location>`, whole segments only.
    Prefix(String),
    /// A shell pattern matches all of it; in a `<Location>` its wildcards match no slash.
    Wildcard(String),
    /// A regular expression matches somewhere.
    Pattern(Pattern),
}

/// One `<If>`, `<ElseIf>` or `<Else>`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Branch {
    /// It begins a chain: `<If>`.
    pub first: bool,
    /// `None`: `<Else>`.
    pub condition: Option<Expr>,
    /// Index into [`super::Spec::policies`].
    pub policy: usize,
}

/// `SetHandler`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Handler {
    /// `none`: takes back what an earlier layer said.
    None,
    /// `balancer-manager`.
    BalancerManager,
    /// `server-status`, `server-info`: pages that sluice has not; nothing answers there.
    Absent,
}

/// `AuthMerging`: what `Require` of this layer does to that of those before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AuthMerging {
    /// Takes its place.
    #[default]
    Off,
    /// Both must grant.
    And,
    /// One must grant.
    Or,
}

/// `Order`, `Allow` and `Deny` of mod_access_compat.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LegacyAccess {
    /// `Order`.
    pub order: Order,
    /// `Order` within `<Limit>`: the last that is for a request's method counts.
    pub limited: Vec<(Methods, Order)>,
    /// `Allow from`.
    pub allow: Vec<Rule>,
    /// `Deny from`.
    pub deny: Vec<Rule>,
    /// `Satisfy Any`: who is allowed by these need not be by `Require`, and the other way round.
    pub satisfy_any: bool,
    /// `Satisfy` within `<Limit>`: the last that is for a request's method counts.
    pub satisfy_limited: Vec<(Methods, bool)>,
}

/// `Order`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// `deny,allow`: who is denied and not allowed is refused.
    #[default]
    DenyAllow,
    /// `allow,deny` and `mutual-failure`: who is not allowed, or is denied, is refused.
    AllowDeny,
}

/// One `Redirect` or `RedirectMatch`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Redirect {
    /// Status, 300 to 399 with a target, any other without.
    pub status: u16,
    /// What it is for.
    pub from: From,
    /// Where to; empty: nowhere.
    pub to: String,
}

/// What a [`Redirect`] is for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum From {
    /// Paths that begin with this, whole segments; what follows goes behind the target.
    Prefix(String),
    /// Paths that a pattern matches; `$1` in the target is filled in.
    Pattern(Pattern),
    /// Every path of the section.
    Everything,
}

/// One `ErrorDocument`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ErrorDocument {
    /// `default`: the page of our own.
    Default,
    /// A text, sent as HTML.
    Text(String),
    /// A path of this server: asked for as a request of its own.
    Path(String),
    /// A URL elsewhere: the client is sent there.
    Url(String),
}

/// `ProxyErrorOverride`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ErrorOverride {
    /// Members' pages pass.
    Off,
    /// Those of 400 and above do not.
    On,
    /// Those of these statuses do not.
    Codes(Vec<u16>),
}
