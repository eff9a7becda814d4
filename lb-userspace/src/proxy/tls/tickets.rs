//! Session tickets: the keys that seal them, when these change, and what rustls seals and opens with.
//!
//! The keys are control's, which gives them to its proxies: a ticket is of use after a reload, with a
//! proxy that was started anew and after an upgrade. rustls' own ticketer makes keys that nobody can
//! pass on. A proxy without control changes them by itself. Which sessions may be resumed is not decided
//! here: tickets of one class are noise to another.

use std::{
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use rustls::server::ProducesTickets;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::Der;
use crate::dataplane::table::monotonic_ns;

/// How long tickets are made with one key, ns.
const PERIOD: u64 = 6 * 3600 * 1_000_000_000;
/// What a client is told of how long its ticket is good for, s: two periods, after which no key is left.
const LIFETIME: u32 = 12 * 3600;
/// What a ticket begins with: a name says which key it needs, so that noise costs nothing.
const NAME_LEN: usize = 16;
const KEY_LEN: usize = 32;

/// Keys of session tickets, each its name and the key, [`NAME_LEN`] and [`KEY_LEN`] bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketKeys {
    /// Tickets are made with it.
    current: Der,
    /// Tickets of the period before are still read.
    previous: Option<Der>,
    /// Known before its time, so that control and proxies change to the same one.
    next: Der,
    /// When the next one becomes the current one, ns of the monotonic clock.
    turns_at: u64,
}

/// Where keys come from; `None`: the kernel has no randomness.
type Fresh<'a> = &'a mut dyn FnMut() -> Option<Der>;

impl TicketKeys {
    /// Keys that nobody knows, from `now` on.
    pub fn new(now: u64, fresh: Fresh<'_>) -> Option<Self> {
        Some(Self {
            current: fresh()?,
            previous: None,
            next: fresh()?,
            turns_at: now.saturating_add(PERIOD),
        })
    }

    /// Changes keys when it is time; whether they have changed. Keys that are out of date are wiped.
    pub fn turn(&mut self, now: u64, fresh: Fresh<'_>) -> bool {
        if now < self.turns_at {
            return false;
        }
        // Nobody looked for so long that every ticket is out of date.
        if now - self.turns_at >= 2 * PERIOD {
            let anew = Self::new(now, fresh);
            let is_new = anew.is_some();
            *self = anew.unwrap_or_else(|| self.clone());
            return is_new;
        }
        let mut turned = false;
        while now >= self.turns_at {
            let Some(next) = fresh() else {
                return turned;
            };
            let current = std::mem::replace(&mut self.next, next);
            self.previous = Some(std::mem::replace(&mut self.current, current));
            self.turns_at += PERIOD;
            turned = true;
        }
        turned
    }
}

/// A key of the kernel's randomness. Not of aws-lc's, which costs a server without TLS much to begin
/// with.
pub(crate) fn fresh() -> Option<Der> {
    let mut bytes = Zeroizing::new(vec![0; NAME_LEN + KEY_LEN]);
    getrandom::fill(&mut bytes).ok()?;
    Some(Der(bytes))
}

/// The keys of a process, shared by its shards.
#[derive(Debug, Default)]
pub(super) struct Ring(RwLock<State>);

#[derive(Debug, Default)]
struct State {
    /// `None`: control has given none, and nobody has needed any.
    keys: Option<TicketKeys>,
    /// The current key and the one before it, ready; empty: to be made.
    ready: Vec<Ready>,
}

#[derive(Debug)]
struct Ready {
    name: [u8; NAME_LEN],
    key: RandomizedNonceKey,
}

impl Ready {
    /// `None`: not of the right length.
    fn new(secret: &Der) -> Option<Self> {
        let (name, key) = secret.0.split_first_chunk()?;
        Some(Self {
            name: *name,
            // Of its nonces, drawn at random, two may well be alike some day: that must not matter.
            key: RandomizedNonceKey::new(&AES_256_GCM_SIV, key).ok()?,
        })
    }
}

impl Ring {
    /// Takes the keys that control says. Those of a control that is behind are not taken: its proxy has
    /// changed them without it.
    pub(super) fn take(&self, keys: TicketKeys) {
        let mut state = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if (state.keys.as_ref()).is_some_and(|own| own.turns_at > keys.turns_at) {
            return;
        }
        *state = State {
            keys: Some(keys),
            ready: Vec::new(),
        };
    }

    /// Does something with the keys as they are `now`, the current one first.
    fn with<T>(&self, now: u64, work: impl FnOnce(&[Ready]) -> Option<T>) -> Option<T> {
        let state = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let is_current = (state.keys.as_ref()).is_some_and(|keys| now < keys.turns_at);
        if is_current && !state.ready.is_empty() {
            return work(&state.ready);
        }
        drop(state);
        let mut state = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let mut keys = match state.keys.take() {
            Some(keys) => keys,
            None => TicketKeys::new(now, &mut fresh)?,
        };
        if keys.turn(now, &mut fresh) || state.ready.is_empty() {
            let secrets = [Some(&keys.current), keys.previous.as_ref()];
            state.ready = secrets
                .into_iter()
                .flatten()
                .filter_map(Ready::new)
                .collect();
        }
        state.keys = Some(keys);
        work(&state.ready)
    }
}

/// Seals and opens the tickets of one class.
pub(super) struct Ticketer {
    ring: Arc<Ring>,
    class: [u8; 32],
}

impl fmt::Debug for Ticketer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticketer").finish_non_exhaustive()
    }
}

impl Ticketer {
    pub(super) const fn new(ring: Arc<Ring>, class: [u8; 32]) -> Self {
        Self { ring, class }
    }

    /// A ticket: the key's name, the nonce, what is sealed and its tag.
    fn seal(&self, now: u64, session: &[u8]) -> Option<Vec<u8>> {
        self.ring.with(now, |keys| {
            let Ready { name, key } = keys.first()?;
            let mut sealed = Vec::with_capacity(session.len() + key.algorithm().tag_len());
            sealed.extend_from_slice(session);
            let nonce = key.seal_in_place_append_tag(Aad::from(self.class), &mut sealed);
            Some([name.as_slice(), nonce.ok()?.as_ref(), &sealed].concat())
        })
    }

    fn open(&self, now: u64, ticket: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_first_chunk::<NAME_LEN>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        self.ring.with(now, |keys| {
            let Ready { key, .. } = keys.iter().find(|known| known.name == *name)?;
            let mut session = sealed.to_vec();
            let nonce = Nonce::assume_unique_for_key(*nonce);
            let opened = key.open_in_place(nonce, Aad::from(self.class), &mut session);
            let length = opened.ok()?.len();
            session.truncate(length);
            Some(session)
        })
    }
}

impl ProducesTickets for Ticketer {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        LIFETIME
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.seal(monotonic_ns(), plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.open(monotonic_ns(), cipher)
    }
}

#[cfg(test)]
mod tests;
