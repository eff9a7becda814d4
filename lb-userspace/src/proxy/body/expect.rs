//! Bodies that wait for the member's 100: those of clients that asked for it themselves, and those
//! that `ping` holds back.

use std::{
    cell::{Cell, RefCell},
    pin::Pin,
    rc::Rc,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};

use super::{BodyError, Progress, RequestBody};
use crate::proxy::wheel::Alarm;

/// `Expect: 100-continue`, passed on: the body waits for the member's go-ahead, and asking the
/// client for it is what makes hyper send the client's own 100.
pub(crate) struct Expectation {
    go: Arc<Go>,
    /// A member that never says 100 is given the body after this.
    patience: Alarm,
}

/// Set by the member's interim response, which hyper reports from a `Send` callback.
#[derive(Debug, Default)]
pub(crate) struct Go {
    given: AtomicBool,
    waiter: Mutex<Option<Waker>>,
}

/// A body that is kept until the member says 100 (`ping`): until then it can be given to another.
pub(crate) struct Held {
    go: Arc<Go>,
    body: RefCell<RequestBody>,
    progress: Rc<Progress>,
    /// It is wholly here.
    whole: bool,
    /// It was taken back: the connection gets nothing of it.
    released: Cell<bool>,
}

impl Held {
    pub(super) fn is_end_stream(&self) -> bool {
        self.body.borrow().is_end_stream()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.body.borrow().size_hint()
    }

    /// Keeps a body, of which nothing was handed to a connection then.
    pub(crate) fn new(body: RequestBody, progress: &Rc<Progress>) -> Self {
        Self {
            go: Arc::default(),
            body: RefCell::new(body),
            progress: Rc::clone(progress),
            whole: progress.done.replace(false),
            released: Cell::new(false),
        }
    }

    /// For the member's interim response.
    pub(crate) fn go(&self) -> Arc<Go> {
        Arc::clone(&self.go)
    }

    /// Whether the member wants the body.
    pub(crate) fn is_wanted(&self) -> bool {
        self.go.given.load(Relaxed)
    }

    /// The body, to be given to another member; nothing of it if a member wanted it.
    pub(crate) fn release(&self) -> Option<RequestBody> {
        if self.is_wanted() {
            return None;
        }
        self.released.set(true);
        self.progress.done.set(self.whole);
        if let Some(waiting) = self.progress.waiting.take() {
            waiting.wake();
        }
        Some(self.body.replace(RequestBody::Empty))
    }

    pub(super) fn poll_frame(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.progress.abandoned.get() || self.released.get() {
            return Poll::Ready(Some(Err(BodyError::Abandoned)));
        }
        self.go.wait(cx);
        if !self.is_wanted() {
            *self.progress.waiting.borrow_mut() = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let mut body = self.body.borrow_mut();
        let polled = Pin::new(&mut *body).poll_frame(cx);
        if self.whole && body.is_end_stream() {
            self.progress.done.set(true);
        }
        polled
    }
}

/// How long a client's body waits for a member that does not answer the expectation (RFC 9110
/// section 10.1.1: do not wait for ever).
const PATIENCE: Duration = Duration::from_secs(1);

impl Go {
    /// Whom to wake; looked at before the answer, so that none is missed.
    fn wait(&self, cx: &Context<'_>) {
        *self.waiter.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
    }

    /// The member wants the body.
    pub(crate) fn give(&self) {
        self.given.store(true, Relaxed);
        let waiter = self
            .waiter
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(waiter) = waiter {
            waiter.wake();
        }
    }
}

impl Expectation {
    pub(crate) fn new(go: Arc<Go>, alarm: Alarm) -> Self {
        alarm.set(PATIENCE);
        Self {
            go,
            patience: alarm,
        }
    }

    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.go.wait(cx);
        if self.go.given.load(Relaxed) {
            return Poll::Ready(());
        }
        self.patience.poll(cx)
    }
}
