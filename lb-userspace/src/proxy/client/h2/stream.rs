//! One request of an HTTP/2 connection: what is known of it besides its exchange, and the watch
//! over a client that does not take its response.

use std::{
    cell::{Cell, OnceCell, RefCell},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Method, request::Parts};

use super::{Session, head};
use crate::proxy::{exchange::Head, gate::Refusal, reason::Reason, wheel::Alarm};

/// A request of an HTTP/2 connection.
pub(crate) struct Stream {
    session: Rc<Session>,
    /// Rings while the client takes nothing of the response. Most are taken at once.
    alarm: OnceCell<Alarm>,
    /// `H2StreamTimeout`.
    patience: Cell<Duration>,
    /// A piece of the body was given to the library, and it asked for no other yet.
    handed: Cell<bool>,
    /// It was given up because the client took nothing.
    stalled: Cell<bool>,
    /// The response has no body, whatever its fields say.
    head_only: Cell<bool>,
    /// Bytes of the heads as HTTP/1.1 would have them, where a log asks for it.
    pub(crate) request_head: Cell<u64>,
    pub(crate) response_head: Cell<u64>,
    /// What is left of a piece of body that was longer than `H2MaxDataFrameLen`.
    rest: RefCell<Bytes>,
}

impl Stream {
    pub(super) fn new(session: &Rc<Session>) -> Rc<Self> {
        Rc::new(Self {
            session: Rc::clone(session),
            alarm: OnceCell::new(),
            patience: Cell::new(session.client.io_timeout.get()),
            handed: Cell::new(false),
            stalled: Cell::new(false),
            head_only: Cell::new(false),
            request_head: Cell::new(0),
            response_head: Cell::new(0),
            rest: RefCell::default(),
        })
    }

    /// Makes the head one as HTTP/1.1 has it, or says why it is refused.
    pub(crate) fn admit(&self, parts: &mut Parts) -> Result<(), Refusal> {
        self.head_only.set(parts.method == Method::HEAD);
        head::admit(parts, &self.session.client.limits)
    }

    /// The response has no body, whatever its fields say.
    pub(crate) fn is_head_only(&self) -> bool {
        self.head_only.get()
    }

    /// Longest time without progress, once the virtual host is known.
    pub(crate) fn set_patience(&self, patience: Duration) {
        self.patience.set(patience);
    }

    /// An alarm for the body's wait for the client, and its time.
    pub(crate) fn upload_alarm(&self) -> (Alarm, Duration) {
        (self.session.shard.wheel.alarm(), self.patience.get())
    }

    /// Why the response is not complete, if the client has not merely gone.
    pub(crate) fn cut_short(&self) -> Option<(Reason, &'static str)> {
        if self.stalled.get() {
            let what = "the client did not take the response in time";
            return Some((Reason::ClientStalled, what));
        }
        let what = "the connection was closed before the end of the response";
        let flooded = self.session.flood.get().is_some() || self.session.calmed.get();
        flooded.then_some((Reason::Http2Flood, what))
    }

    /// Counts the request's head, for a log.
    pub(crate) fn count_request(&self, head: &Head<'_>) {
        let target = head.target.path_and_query();
        let target = target.map_or(0, |target| target.as_str().len());
        let line = head.method.as_str().len() + target + "  HTTP/2.0\r\n".len();
        let bytes = line as u64 + head::field_bytes(head.fields);
        self.request_head.set(bytes);
    }

    /// Counts the response's head, for a log.
    pub(crate) fn count_response(&self, fields: &HeaderMap) {
        let line = "HTTP/2.0 200\r\n".len() as u64;
        self.response_head.set(line + head::field_bytes(fields));
    }

    /// The library asks for more of the body: it has let go of what it had. What is left of the
    /// last piece comes first.
    pub(crate) fn asked(&self) -> Option<Bytes> {
        self.handed.set(false);
        if let Some(alarm) = self.alarm.get() {
            alarm.clear();
        }
        let mut rest = self.rest.borrow_mut();
        (!rest.is_empty()).then(|| self.split(&mut rest))
    }

    /// A piece of the body; what of it goes out now.
    pub(crate) fn hand(&self, mut piece: Bytes) -> Bytes {
        self.handed.set(true);
        let limit = self.session.data_frame;
        if limit == 0 || piece.len() <= limit {
            return piece;
        }
        let first = self.split(&mut piece);
        *self.rest.borrow_mut() = piece;
        first
    }

    fn split(&self, rest: &mut Bytes) -> Bytes {
        self.handed.set(true);
        let length = rest.len().min(self.session.data_frame);
        rest.split_to(length)
    }

    /// Whether a part of a piece waits.
    pub(crate) fn has_rest(&self) -> bool {
        !self.rest.borrow().is_empty()
    }

    fn poll_stalled(&self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.handed.get() {
            return Poll::Pending;
        }
        let alarm = self.alarm.get_or_init(|| self.session.shard.wheel.alarm());
        if !alarm.is_set() {
            alarm.set(self.patience.get());
        }
        ready!(alarm.poll(cx));
        self.stalled.set(true);
        Poll::Ready(())
    }
}

/// A stream that is open, for as long as its task lives.
struct Open(Rc<Stream>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.session.stream_ended();
    }
}

pin_project_lite::pin_project! {
    /// Runs a request's task to its end, or until the client has taken nothing of the response for
    /// too long: then the task is dropped, which resets the stream.
    ///
    /// No `async fn`: one would hold the task twice, and move it.
    pub(super) struct Watch<F> {
        #[pin]
        task: F,
        open: Open,
    }
}

impl<F> Watch<F> {
    pub(super) fn new(stream: Rc<Stream>, task: F) -> Self {
        let open = Open(stream);
        Self { task, open }
    }
}

impl<F: Future<Output = ()>> Future for Watch<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        if this.task.poll(cx).is_ready() {
            return Poll::Ready(());
        }
        this.open.0.poll_stalled(cx)
    }
}
