//! Where requests are sent, and what becomes of the way back.

use serde::{Deserialize, Serialize};

use super::Place;
use crate::pattern::Pattern;

/// One `ProxyPass`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Route {
    /// The path as written, decoded; matched by httpd's prefix rules (apache.md 3.1).
    pub path: String,
    /// `ProxyPassMatch`, or a `<LocationMatch>` around it: what `path` is then the text of. Groups
    /// are filled in where the target has `$1`.
    pub pattern: Option<Pattern>,
    /// Where it leads.
    pub target: Target,
    /// `nocanon`.
    pub nocanon: bool,
    /// `mapping=`. Those that are not [`Mapping::Decoded`] come first.
    pub mapping: Mapping,
    /// `interpolate`: `${NAME}` in the target's path is a variable of the request, where
    /// `ProxyPassInterpolateEnv` is on.
    pub interpolate: bool,
    /// Where it stands.
    pub at: Place,
}

/// `mapping=`: what of a request's path a [`Route`] is compared with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mapping {
    /// The decoded path.
    #[default]
    Decoded,
    /// The path as it was received, which is sent on like that.
    Encoded,
    /// Likewise, and parameters of its segments (`;v=1`) are left out of the comparison.
    Servlet,
}

/// Where a [`Route`] leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// `!`: not proxied; the search stops.
    Local,
    /// A member of this balancer.
    Balancer {
        /// Index into [`Spec::balancers`].
        balancer: usize,
        /// What follows the balancer's name or the direct worker's authority: `/sub/`, may be empty.
        path: String,
    },
}

/// `ProxyVia`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Via {
    /// Via passes.
    #[default]
    Off,
    /// This host is added.
    On,
    /// So is the software's name.
    Full,
    /// Via of requests is removed.
    Block,
}

/// One `ProxyPassReverse`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reverse {
    /// What the prefix is replaced by.
    pub path: String,
    /// The `<Location>` it stands in: it is for requests of that path and below alone (whole
    /// segments, as a route). `None`: for every request of the host.
    pub location: Option<String>,
    /// What the header's value is compared with.
    pub target: ReverseTarget,
    /// `interpolate`: `${NAME}` in path and target is a variable of the request, where
    /// `ProxyPassInterpolateEnv` is on.
    pub interpolate: bool,
}

/// What a [`Reverse`] compares with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReverseTarget {
    /// A URL, or a path when it begins with `/`.
    Url(String),
    /// Every member's URL of this balancer, followed by `path`.
    Balancer {
        /// Index into [`Spec::balancers`].
        balancer: usize,
        /// What follows the balancer's name.
        path: String,
    },
}

/// `ProxyBadHeader`: what a line of a member's response head without a colon is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum BadHeader {
    /// An error: 502.
    #[default]
    IsError,
    /// Nothing: the line is left out.
    Ignore,
    /// The body's first line.
    StartBody,
}
