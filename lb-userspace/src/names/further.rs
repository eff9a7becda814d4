//! Further addresses of members' names, for connections: what the last answers had besides the
//! address that a member has. The watcher writes them, shards and checks read them when a connection
//! to that address fails. Packets know nothing of them.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use tokio::sync::watch;

use super::Answer;

/// What the last answers had, by name.
pub(crate) struct Further {
    known: watch::Sender<HashMap<String, Known>>,
}

/// `None`: asked for, and not answered yet.
type Known = Option<Arc<[IpAddr]>>;

impl Default for Further {
    fn default() -> Self {
        Self {
            known: watch::Sender::new(HashMap::new()),
        }
    }
}

impl Further {
    /// These names are about to be asked for: who wants to know of them waits for the answer.
    pub(super) fn expect<'n>(&self, names: impl Iterator<Item = &'n String>) {
        self.known.send_modify(|known| {
            for name in names {
                if !known.contains_key(name) {
                    known.insert(name.clone(), None);
                }
            }
        });
    }

    /// Forgets all other names.
    pub(super) fn keep(&self, is_asked_for: impl Fn(&str) -> bool) {
        self.known
            .send_modify(|known| known.retain(|name, _| is_asked_for(name)));
    }

    /// A name was asked for; `None`: in vain, so that the answer before it counts.
    pub(super) fn tell(&self, name: &str, answer: Option<&Answer>) {
        let addresses = answer.map(|answer| {
            let all = answer.addresses.iter().chain(&answer.others);
            all.copied().collect::<Arc<[IpAddr]>>()
        });
        self.known.send_if_modified(|known| {
            let Some(known) = known.get_mut(name) else {
                return false;
            };
            let addresses = addresses.or_else(|| known.take()).unwrap_or_default();
            known.replace(addresses).is_none()
        });
    }

    /// Nobody asks any more: nobody is to wait.
    pub(super) fn settle(&self) {
        self.known.send_modify(|known| {
            for addresses in known.values_mut() {
                addresses.get_or_insert_default();
            }
        });
    }

    /// Whether an address is a name's.
    pub(crate) fn has(&self, name: &str, address: IpAddr) -> bool {
        let known = self.known.borrow();
        let addresses = known.get(name).and_then(Option::as_ref);
        addresses.is_some_and(|addresses| addresses.contains(&address))
    }

    /// The addresses of a name except one, in the order of the answer. Waits for the first answer to
    /// a name that is asked for; there are none of a name that nobody asks for.
    pub(crate) async fn beside(&self, name: &str, address: IpAddr) -> Vec<IpAddr> {
        let mut reader = self.known.subscribe();
        let is_settled =
            |known: &HashMap<String, Known>| known.get(name).is_none_or(Option::is_some);
        let Ok(known) = reader.wait_for(is_settled).await else {
            return Vec::new();
        };
        let addresses = known.get(name).and_then(Option::as_ref);
        addresses
            .into_iter()
            .flat_map(|addresses| addresses.iter().copied())
            .filter(|further| *further != address)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        task::{Context, Poll, Waker},
        time::Duration,
    };

    use super::*;

    fn answer(addresses: &[&str]) -> Answer {
        let addresses = addresses.iter().map(|ip| ip.parse().expect("an address"));
        Answer::of(addresses, Duration::ZERO).expect("addresses")
    }

    /// `None`: it waits.
    fn beside(further: &Further, name: &str, address: &str) -> Option<Vec<String>> {
        let address = address.parse().expect("an address");
        let mut asking = pin!(further.beside(name, address));
        match asking
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
        {
            Poll::Ready(found) => Some(found.iter().map(ToString::to_string).collect()),
            Poll::Pending => None,
        }
    }

    #[test]
    fn order_of_the_answer_is_kept_and_the_other_family_comes_last() {
        let further = Further::default();
        further.expect(["app".to_owned()].iter());
        let found = answer(&["2001:db8::1", "192.0.2.3", "192.0.2.1", "192.0.2.2"]);
        further.tell("app", Some(&found));
        let found = beside(&further, "app", "192.0.2.1").expect("it is known");
        assert_eq!(found, ["192.0.2.3", "192.0.2.2", "2001:db8::1"]);
        let has = |ip: &str| further.has("app", ip.parse().expect("an address"));
        assert!(has("192.0.2.3") && !has("192.0.2.4"));
    }

    #[test]
    fn a_name_is_waited_for_until_it_was_asked_for_once() {
        let further = Further::default();
        let none: [String; 0] = [];
        assert_eq!(beside(&further, "app", "192.0.2.1"), Some(none.to_vec()));
        further.expect(["app", "b"].map(str::to_owned).iter());
        assert_eq!(beside(&further, "app", "192.0.2.1"), None);
        further.tell("app", None);
        assert_eq!(beside(&further, "app", "192.0.2.1"), Some(none.to_vec()));
        assert_eq!(beside(&further, "b", "192.0.2.1"), None);
        further.settle();
        assert_eq!(beside(&further, "b", "192.0.2.1"), Some(none.to_vec()));
    }

    #[test]
    fn last_good_answer_stays_when_lookups_fail_and_goes_with_the_name() {
        let further = Further::default();
        further.expect(["app".to_owned()].iter());
        further.tell("app", Some(&answer(&["192.0.2.1", "192.0.2.2"])));
        further.tell("app", None);
        further.expect(["app".to_owned()].iter());
        let found = beside(&further, "app", "192.0.2.1");
        assert_eq!(found, Some(vec!["192.0.2.2".to_owned()]));
        further.keep(|name| name != "app");
        further.tell("app", Some(&answer(&["192.0.2.1", "192.0.2.2"])));
        assert_eq!(beside(&further, "app", "192.0.2.1"), Some(Vec::new()));
    }
}
