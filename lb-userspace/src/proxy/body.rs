//! Bodies on their way: a client's to a member, a member's to a client. Streamed, one frame in hand
//! at a time, so the slower side sets the pace; trailers are dropped (RFC 9110 section 6.5.1 lets a
//! recipient do so, and merging them is how smuggled fields get in).

use std::{
    cell::Cell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::{exchange::Exchange, pool::Upstream, wheel::Alarm};

mod expect;

pub(crate) use expect::{Expectation, Go, Held};

/// Bytes of a request body that are read before a member is chosen, as in httpd: a body that fits
/// can be given to another member after a failed connection, and gets a Content-Length.
const PREFETCH: usize = 16 << 10;

/// Why a body ended before its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// Broken off or malformed by the client.
    #[error(transparent)]
    Client(#[from] hyper::Error),
    /// Broken off or malformed by the member.
    #[error(transparent)]
    Member(#[from] io::Error),
    /// Nothing came for as long as the timeout allows.
    #[error("timed out")]
    TimedOut,
    /// Broken off by the client, and said already.
    #[error("broken off")]
    BrokenOff,
}

/// A request's body on its way to a member.
pub(crate) enum RequestBody {
    /// None.
    Empty,
    /// Wholly here.
    Whole(Bytes),
    /// Begun, the rest is still to come.
    Streamed(Box<Upload>),
    /// Whatever it is, not before the member wants it.
    Held(Rc<Held>),
}

/// A body of which a part may be here already.
pub(crate) struct Upload {
    here: Bytes,
    rest: Incoming,
    progress: Rc<Progress>,
    expectation: Option<Expectation>,
    stall: Option<Stall>,
}

/// The time of a client that has to send, where no transport of its own minds it (HTTP/2).
pub(crate) struct Stall {
    alarm: Alarm,
    limit: Duration,
}

impl Stall {
    pub(crate) fn new((alarm, limit): (Alarm, Duration)) -> Self {
        Self { alarm, limit }
    }

    /// Ready when nothing has come for too long.
    fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.alarm.is_set() {
            self.alarm.set(self.limit);
        }
        self.alarm.poll(cx)
    }
}

/// The next frame, or the end of the client's time.
fn poll_frame(
    body: &mut Incoming,
    stall: Option<&Stall>,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
    let Poll::Ready(frame) = Pin::new(body).poll_frame(cx) else {
        let Some(stall) = stall else {
            return Poll::Pending;
        };
        return stall.poll(cx).map(|()| Some(Err(BodyError::TimedOut)));
    };
    if let Some(stall) = stall {
        stall.alarm.clear();
    }
    Poll::Ready(frame.map(|frame| frame.map_err(BodyError::from)))
}

/// How far an upload is, for whoever waits for the response.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Everything was handed to the connection.
    pub(crate) done: Cell<bool>,
    /// The client has to send next.
    pub(crate) waits_for_client: Cell<bool>,
    /// The client failed: broke off, sent rubbish (`false`) or stopped sending (`true`).
    pub(crate) failed: Cell<Option<bool>>,
    /// Bytes of the body so far.
    pub(crate) taken: Cell<u64>,
}

impl Progress {
    /// Of requests without a body: nothing in it changes any more.
    pub(crate) fn none() -> Rc<Self> {
        let progress = Self::default();
        progress.done.set(true);
        Rc::new(progress)
    }

    fn took(&self, data: &Bytes) {
        self.taken.set(self.taken.get() + data.len() as u64);
    }
}

impl RequestBody {
    /// Reads what [`PREFETCH`] allows of a body that has not ended. The second value watches the
    /// rest.
    pub(crate) async fn prefetch(
        mut body: Incoming,
        stall: Option<Stall>,
    ) -> Result<(Self, Rc<Progress>), BodyError> {
        let progress = Rc::new(Progress::default());
        let mut here = Gathered::default();
        while here.len() < PREFETCH {
            let frame = std::future::poll_fn(|cx| poll_frame(&mut body, stall.as_ref(), cx)).await;
            if let Some(frame) = frame {
                if let Ok(data) = frame?.into_data() {
                    progress.took(&data);
                    here.push(data);
                }
                if !body.is_end_stream() {
                    continue;
                }
            }
            progress.done.set(true);
            return Ok((Self::Whole(here.into()), progress));
        }
        let body = Self::streamed(here.into(), body, None, stall, &progress);
        Ok((body, progress))
    }

    /// A body that is not asked for before the member gave its go-ahead.
    pub(crate) fn expected(body: Incoming, expectation: Expectation) -> (Self, Rc<Progress>) {
        let progress = Rc::new(Progress::default());
        let body = Self::streamed(Bytes::new(), body, Some(expectation), None, &progress);
        (body, progress)
    }

    fn streamed(
        here: Bytes,
        rest: Incoming,
        expectation: Option<Expectation>,
        stall: Option<Stall>,
        progress: &Rc<Progress>,
    ) -> Self {
        Self::Streamed(Box::new(Upload {
            here,
            rest,
            progress: Rc::clone(progress),
            expectation,
            stall,
        }))
    }

    /// Takes the body for an attempt; a body that is wholly here stays for another.
    pub(crate) fn take(&mut self) -> Self {
        match self {
            Self::Empty => Self::Empty,
            Self::Whole(bytes) => Self::Whole(bytes.clone()),
            Self::Streamed(_) => std::mem::replace(self, Self::Empty),
            Self::Held(held) => Self::Held(Rc::clone(held)),
        }
    }
}

impl RequestBody {
    /// Gives back what an attempt did not use.
    pub(crate) fn put_back(&mut self, unused: Option<Self>) {
        if let Some(body @ Self::Streamed(_)) = unused {
            *self = body;
        }
    }
}

/// Parts of a body in one piece. A part keeps the whole buffer alive that it was read into, and
/// each read makes a new one: a body that comes byte by byte must not hold 8 KiB for every byte.
#[derive(Default)]
enum Gathered {
    /// Nothing yet.
    #[default]
    Nothing,
    /// One part, as it came: nothing is copied for a body that came at once.
    One(Bytes),
    /// More than one.
    Copied(Vec<u8>),
}

impl Gathered {
    fn len(&self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::One(part) => part.len(),
            Self::Copied(bytes) => bytes.len(),
        }
    }

    fn push(&mut self, part: Bytes) {
        match self {
            Self::Nothing => *self = Self::One(part),
            Self::One(first) => {
                let mut bytes = Vec::with_capacity(PREFETCH.max(first.len() + part.len()));
                bytes.extend_from_slice(first);
                bytes.extend_from_slice(&part);
                *self = Self::Copied(bytes);
            }
            Self::Copied(bytes) => bytes.extend_from_slice(&part),
        }
    }
}

impl From<Gathered> for Bytes {
    fn from(gathered: Gathered) -> Self {
        match gathered {
            Gathered::Nothing => Self::new(),
            Gathered::One(part) => part,
            Gathered::Copied(bytes) => Self::from(bytes),
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Streamed(upload) => upload.poll_frame(cx),
            Self::Held(held) => held.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Whole(bytes) => bytes.is_empty(),
            Self::Streamed(upload) => upload.here.is_empty() && upload.rest.is_end_stream(),
            Self::Held(held) => held.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Held(held) => held.size_hint(),
            Self::Streamed(upload) => {
                let here = upload.here.len();
                upload
                    .rest
                    .size_hint()
                    .exact()
                    .map_or_else(SizeHint::new, |rest| {
                        SizeHint::with_exact(here as u64 + rest)
                    })
            }
        }
    }
}

impl Upload {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(expectation) = &self.expectation {
            ready!(expectation.poll(cx));
            self.expectation = None;
        }
        if !self.here.is_empty() {
            let data = std::mem::take(&mut self.here);
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        loop {
            let Poll::Ready(frame) = poll_frame(&mut self.rest, self.stall.as_ref(), cx) else {
                self.progress.waits_for_client.set(true);
                return Poll::Pending;
            };
            self.progress.waits_for_client.set(false);
            match frame {
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else {
                        continue;
                    };
                    self.progress.took(&data);
                    if self.rest.is_end_stream() {
                        self.progress.done.set(true);
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => {
                    self.progress.failed.set(Some(error.is_timeout()));
                    return Poll::Ready(Some(Err(error)));
                }
                None => {
                    self.progress.done.set(true);
                    return Poll::Ready(None);
                }
            }
        }
    }
}

impl BodyError {
    /// Whether the body broke off because its sender was too slow.
    pub(crate) fn is_timeout(&self) -> bool {
        match self {
            Self::Client(error) => is_timeout(error),
            Self::TimedOut => true,
            Self::Member(_) | Self::BrokenOff => false,
        }
    }
}

/// Whether the transport found the sender too slow.
fn is_timeout(error: &hyper::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            return io.kind() == io::ErrorKind::TimedOut;
        }
        source = cause.source();
    }
    false
}

/// A response's body on its way to a client. Carries the request's exchange: when it is dropped,
/// the request is over.
pub(crate) struct ReplyBody {
    source: Source,
    exchange: Box<Exchange>,
}

enum Source {
    /// One of our own pages, or nothing.
    Page(Bytes),
    /// A member's.
    Member(Box<Download>),
}

/// A member's response body with the connection it comes from.
struct Download {
    upstream: Option<Box<Upstream>>,
    timeout: Duration,
    waiting: bool,
    failed: Option<BodyError>,
    /// It broke off.
    broken: bool,
}

impl ReplyBody {
    /// A page of our own.
    pub(crate) fn page(bytes: Bytes, exchange: Box<Exchange>) -> Self {
        Self {
            source: Source::Page(bytes),
            exchange,
        }
    }

    /// Whether a part of the last piece waits for its turn (`H2MaxDataFrameLen`).
    fn has_rest(&self) -> bool {
        let stream = self.exchange.stream.as_ref();
        stream.is_some_and(|stream| stream.has_rest())
    }

    /// A member's body; `timeout` is the longest silence.
    pub(crate) fn member(
        upstream: Box<Upstream>,
        timeout: Duration,
        exchange: Box<Exchange>,
    ) -> Self {
        Self {
            source: Source::Member(Box::new(Download {
                upstream: Some(upstream),
                timeout,
                waiting: false,
                failed: None,
                broken: false,
            })),
            exchange,
        }
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let rest = this
            .exchange
            .stream
            .as_ref()
            .and_then(|stream| stream.asked());
        let frame = match &mut this.source {
            _ if rest.is_some() => rest.map(Ok),
            Source::Page(bytes) if bytes.is_empty() => None,
            Source::Page(bytes) => Some(Ok(std::mem::take(bytes))),
            Source::Member(download) => {
                let engaged = this.exchange.engaged.as_ref();
                let progress = engaged.and_then(|engaged| engaged.progress.as_deref());
                ready!(download.poll_data(cx, progress))
            }
        };
        let frame = match (frame, &this.exchange.stream) {
            (Some(Ok(data)), Some(stream)) => Some(Ok(stream.hand(data))),
            (frame, _) => frame,
        };
        match &frame {
            Some(Ok(data)) => this.exchange.sent_body(data.len()),
            Some(Err(error)) => {
                let before = this.exchange.enter_log();
                this.exchange.cut_short(error);
                this.exchange.leave_log(before);
            }
            None => {}
        }
        Poll::Ready(frame.map(|data| data.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        if self.has_rest() {
            return false;
        }
        match &self.source {
            Source::Page(bytes) => bytes.is_empty(),
            Source::Member(download) => download.is_end(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Page(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Source::Member(download) => {
                let upstream = download.upstream.as_ref();
                upstream
                    .and_then(|upstream| upstream.left())
                    .map_or_else(SizeHint::new, SizeHint::with_exact)
            }
        }
    }
}

impl Drop for ReplyBody {
    fn drop(&mut self) {
        let whole = !self.has_rest();
        match &mut self.source {
            Source::Page(bytes) => self.exchange.end(bytes.is_empty() && whole),
            Source::Member(download) => {
                let complete = download.is_end() && whole;
                self.exchange.end(complete);
                if let Some(upstream) = download.upstream.take()
                    && complete
                {
                    self.exchange.give_back(upstream);
                }
            }
        }
    }
}

impl Download {
    fn is_end(&self) -> bool {
        !self.broken
            && self.failed.is_none()
            && self
                .upstream
                .as_ref()
                .is_some_and(|upstream| upstream.is_end())
    }

    fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
        progress: Option<&Progress>,
    ) -> Poll<Option<Result<Bytes, BodyError>>> {
        if let Some(error) = self.failed.take() {
            self.broken = true;
            return Poll::Ready(Some(Err(error)));
        }
        let Some(upstream) = &mut self.upstream else {
            return Poll::Ready(None);
        };
        let error = match upstream.poll_body(cx) {
            Poll::Ready(Some(Ok(data))) => {
                self.waiting = false;
                return Poll::Ready(Some(Ok(data)));
            }
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Ready(Some(Err(_))) if upstream.is_broken_off() => BodyError::BrokenOff,
            Poll::Ready(Some(Err(error))) => error.into(),
            Poll::Pending => {
                // Counts only while the client has taken everything before: a slow client is
                // not the member's fault.
                if !self.waiting {
                    self.waiting = true;
                    upstream.link.alarm.set(self.timeout);
                }
                loop {
                    ready!(upstream.link.alarm.poll(cx));
                    let left = progress
                        .and_then(|progress| upstream.link.patience(progress, self.timeout));
                    match left {
                        Some(left) => upstream.link.alarm.set(left),
                        None => break BodyError::TimedOut,
                    }
                }
            }
        };
        // hyper throws away what it has buffered when a body fails. One turn without progress lets
        // it send first what the member did send.
        self.failed = Some(error);
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn body_that_comes_in_parts_holds_none_of_their_buffers() {
        let buffer = Bytes::from(vec![b'x'; 8192]);
        let mut here = Gathered::default();
        here.push(buffer.slice(..1));
        assert!(!buffer.is_unique(), "one part is not copied");
        here.push(buffer.slice(1..3));
        here.push(buffer.slice(3..4));
        assert!(buffer.is_unique());
        assert_eq!(here.len(), 4);
        assert_eq!(Bytes::from(here), b"xxxx".as_slice());
    }
}
