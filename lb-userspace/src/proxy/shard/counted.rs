//! A connection in a shard's counts and lists, for as long as it is there.

use std::{
    rc::Rc,
    sync::{
        Arc,
        atomic::Ordering::{Relaxed, Release},
    },
};

use super::{Shard, Shared};
use crate::{proxy::client::Client, telemetry::counters::Number};

/// A connection in the process's count, from accept to close.
pub(crate) struct Counted(Rc<Shard>);

impl Counted {
    pub(super) fn new(shard: &Rc<Shard>) -> Self {
        shard.shared.connections.fetch_add(1, Relaxed);
        shard.tally.up(Number::Accepted);
        shard.tally.up(Number::Clients);
        Self(Rc::clone(shard))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.shared.connections.fetch_sub(1, Relaxed);
        self.0.tally.down(Number::Clients);
    }
}

/// A listening socket in the process's count of those that are accepted from: from the order to listen
/// until its queue was emptied for the last time.
pub(super) struct Accepting(Arc<Shared>);

impl Accepting {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        shared.accepting.fetch_add(1, Relaxed);
        Self(Arc::clone(shared))
    }
}

impl Drop for Accepting {
    fn drop(&mut self) {
        // Whoever sees this sees the connections counted that came before it.
        self.0.accepting.fetch_sub(1, Release);
    }
}

/// A connection in the shard's count of those that hyper serves.
pub(crate) struct Served(Rc<Shard>);

impl Served {
    pub(crate) fn new(shard: &Rc<Shard>) -> Self {
        let served = shard.served.get() + 1;
        shard.served.set(served);
        shard.most_served.set(shard.most_served.get().max(served));
        Self(Rc::clone(shard))
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.0.served.set(self.0.served.get() - 1);
    }
}

/// A connection in the shard's list.
pub(crate) struct Registered {
    shard: Rc<Shard>,
    number: usize,
}

impl Registered {
    pub(crate) fn new(shard: &Rc<Shard>, client: &Rc<Client>) -> Self {
        let number = shard.clients.borrow_mut().insert(Rc::downgrade(client));
        Self {
            shard: Rc::clone(shard),
            number,
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let client = self.shard.clients.borrow_mut().remove(self.number);
        if let Some(client) = client.upgrade() {
            client.give_up_switch();
        }
    }
}
