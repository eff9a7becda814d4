//! Bodies that wait for the member's 100: those of clients that asked for it themselves, and those
//! that `ping` holds back.

use std::{
    cell::{Cell, RefCell},
    pin::Pin,
    rc::Rc,
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
    go: Rc<Go>,
    /// A member that never says 100 is given the body after this.
    patience: Alarm,
}

/// Set by the member's interim response.
#[derive(Debug, Default)]
pub(crate) struct Go {
    given: Cell<bool>,
    waiter: RefCell<Option<Waker>>,
}

/// A body that is kept until the member says 100 (`ping`): until then it can be given to another.
pub(crate) struct Held {
    go: Rc<Go>,
    body: RefCell<RequestBody>,
    progress: Rc<Progress>,
    /// It is wholly here.
    whole: bool,
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
            go: Rc::default(),
            body: RefCell::new(body),
            progress: Rc::clone(progress),
            whole: progress.done.replace(false),
        }
    }

    /// For the member's interim response.
    pub(crate) fn go(&self) -> Rc<Go> {
        Rc::clone(&self.go)
    }

    /// Whether the member wants the body.
    pub(crate) fn is_wanted(&self) -> bool {
        self.go.given.get()
    }

    /// The body, to be given to another member; nothing of it if a member wanted it.
    pub(crate) fn release(&self) -> Option<RequestBody> {
        if self.is_wanted() {
            return None;
        }
        self.progress.done.set(self.whole);
        Some(self.body.replace(RequestBody::Empty))
    }

    pub(super) fn poll_frame(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if !self.is_wanted() {
            self.go.wait(cx);
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
    /// Whom to wake.
    fn wait(&self, cx: &Context<'_>) {
        *self.waiter.borrow_mut() = Some(cx.waker().clone());
    }

    /// The member wants the body.
    pub(crate) fn give(&self) {
        self.given.set(true);
        if let Some(waiter) = self.waiter.take() {
            waiter.wake();
        }
    }
}

impl Expectation {
    pub(crate) fn new(go: Rc<Go>, alarm: Alarm) -> Self {
        alarm.set(PATIENCE);
        Self {
            go,
            patience: alarm,
        }
    }

    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.go.given.get() {
            return Poll::Ready(());
        }
        self.go.wait(cx);
        self.patience.poll(cx)
    }
}
