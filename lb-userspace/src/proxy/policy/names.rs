//! Names that rules about access ask for: what is known is answered at once, what is not is noted,
//! looked up when the rules are through, and the rules go over the request once more.

use std::{cell::RefCell, net::IpAddr};

use http::{HeaderMap, Uri, request::Parts};

use super::{Exchange, Ruling, Scene, Stop};
use crate::{
    config::spec::Spec,
    names::clients::{self, Question, Reply},
    policy::access::Names,
};

/// Rounds of lookups for one request: a rule may be asked only when those before it were answered.
const MOST_ROUNDS: u32 = 8;

/// What is known of names where a request is judged.
pub(super) struct Known<'r> {
    pub(super) client: IpAddr,
    pub(super) scene: &'r dyn Scene,
    /// What was asked and is not known.
    pub(super) open: &'r RefCell<Vec<Question>>,
}

impl Known<'_> {
    fn ask(&self, question: Question) -> Option<Reply> {
        let known = self.scene.known(&question);
        if known.is_none() && !self.open.borrow().contains(&question) {
            self.open.borrow_mut().push(question);
        }
        known
    }
}

impl Names for Known<'_> {
    fn client_name(&self) -> Option<String> {
        match self.ask(Question::Client(self.client))? {
            Reply::Client(name) => name,
            Reply::Name(_) => None,
        }
    }

    fn client_is(&self, name: &str) -> bool {
        match self.ask(Question::Name(name.to_owned())) {
            Some(Reply::Name(addresses)) => addresses.contains(&self.client),
            Some(Reply::Client(_)) | None => false,
        }
    }
}

/// Waits for the names that a request's rules asked for and has the rules judge it again, as it was
/// `before`. What cannot be known in time counts as no name.
pub(super) async fn look_up(
    exchange: &Exchange,
    spec: &Spec,
    parts: &mut Parts,
    before: (HeaderMap, Uri),
    first: (Box<Ruling>, Result<(), Stop>),
) -> (Box<Ruling>, Result<(), Stop>) {
    let (mut ruling, mut verdict) = first;
    for _ in 0..MOST_ROUNDS {
        let open = std::mem::take(&mut *ruling.open.borrow_mut());
        if open.is_empty() {
            break;
        }
        clients::ask(open).await;
        (parts.headers, parts.uri) = before.clone();
        (ruling, verdict) = Ruling::of(exchange, spec, parts);
    }
    (ruling, verdict)
}
