//! What is said over a connection to a member: a request out, its answer in, HTTP/1.1.
//!
//! hyper is not used here: its client gives each connection a task, and each request two channels
//! and a second turn of the scheduler, half of what a forwarded request cost. Here the exchange's
//! own task writes the head and reads the answer; only an upload that is not here as a whole has a
//! task.

use std::{
    io,
    net::IpAddr,
    os::fd::{AsFd as _, BorrowedFd},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Response, StatusCode, header, request::Parts};
use rustix::net::RecvFlags;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, Interest, ReadBuf},
    task::JoinHandle,
};

use super::{link::Incoming, upload};
use crate::{
    config::spec::BadHeader,
    proxy::{
        answer::{self, Answer, BadAnswer, Framing, Piece, Rules, Scanner},
        body::{Go, RequestBody},
        plan::Key,
        pool::Link,
        tls::member::{Line, Peer},
    },
};

/// Least and most that is read at once, bytes; the most is also the largest head of a response. A
/// body of 64 KiB comes with its head in one read and goes in one write: the few bytes that would be
/// left over cost a call and a packet on each side.
const PIECES: std::ops::RangeInclusive<usize> = (8 << 10)..=(80 << 10);

/// Bytes of interim responses and the head after which a member's answer is none.
const HEAD_BOUND: u64 = 128 << 10;

/// One connection to a member.
pub(crate) struct Upstream {
    /// Counters and deadline.
    pub(crate) link: Rc<Link>,
    /// It carried a request before.
    pub(crate) reused: bool,
    /// It may carry another request.
    pub(crate) reusable: bool,
    pub(super) key: Key,
    /// Who is at the other end of a TLS connection.
    pub(super) peer: Option<Arc<Peer>>,
    /// The address, where that is a further one of the member's name.
    pub(super) further: Option<IpAddr>,
    /// Tick since when it is idle.
    pub(super) idle_since: u64,
    /// What of the request is not written.
    outgoing: Vec<u8>,
    /// How far that is.
    written: usize,
    /// TLS may hold records of it.
    unflushed: bool,
    /// The rest of the request.
    body: Option<RequestBody>,
    upload: Option<JoinHandle<()>>,
    /// Told of the member's 100.
    go: [Option<Rc<Go>>; 2],
    /// How its answer is read.
    rules: Rules,
    /// What the link had received and sent before the request.
    before: (u64, u64),
    /// Read, and not given to anybody.
    buffer: BytesMut,
    /// How much is read at once.
    room: usize,
    scanner: Scanner,
    framing: Framing,
    /// Bytes of the response's status line with its end.
    pub(crate) line_bytes: u64,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoAnswer {
    /// Nothing of the request went out: it can be sent on another connection.
    #[error("nothing could be sent: {0}")]
    Unsent(#[source] io::Error),
    /// The connection broke.
    #[error("{0}")]
    Broken(#[source] io::Error),
    /// The member closed it.
    #[error("connection closed before the response was complete")]
    Closed,
    /// Not HTTP/1, or not to be passed on.
    #[error(transparent)]
    Bad(#[from] BadAnswer),
    /// More than [`HEAD_BOUND`] of interim responses, or a head that is too large.
    #[error("no final response within 128 KiB, or a head of more than 80 KiB")]
    TooMuch,
    /// The request's body broke off.
    #[error("the request's body broke off")]
    Upload,
}

impl Drop for Upstream {
    fn drop(&mut self) {
        if let Some(upload) = &self.upload {
            // Nobody wants the rest, and half a request may be followed by nothing.
            upload.abort();
        }
    }
}

impl Upstream {
    pub(super) fn new(
        link: Rc<Link>,
        key: Key,
        peer: Option<Arc<Peer>>,
        reusable: bool,
    ) -> Box<Self> {
        Box::new(Self {
            link,
            reused: false,
            reusable,
            key,
            peer,
            further: None,
            idle_since: 0,
            outgoing: Vec::new(),
            written: 0,
            unflushed: false,
            body: None,
            upload: None,
            go: [None, None],
            rules: Rules {
                to_head: false,
                limit: 0,
                bad_header: BadHeader::IsError,
            },
            before: (0, 0),
            buffer: BytesMut::new(),
            room: *PIECES.start(),
            scanner: Scanner::default(),
            framing: Framing::Length(0),
            line_bytes: 0,
        })
    }

    /// Begins a request; [`Upstream::poll_answer`] sends it. `go`: told of a 100.
    pub(crate) fn begin(
        &mut self,
        head: &Parts,
        said: Said<'_>,
        mut body: RequestBody,
        go: [Option<Rc<Go>>; 2],
        rules: Rules,
    ) {
        self.written = 0;
        write_head(&mut self.outgoing, head, said);
        match upload::goes_with_head(&mut body) {
            Some(bytes) => self.outgoing.extend_from_slice(&bytes),
            None => self.body = Some(body),
        }
        self.go = go;
        self.rules = rules;
        self.before = (self.link.received.get(), self.link.sent.get());
        self.framing = Framing::Length(0);
    }

    /// The body, if nothing of it was taken.
    pub(crate) fn take_body(&mut self) -> Option<RequestBody> {
        self.body.take()
    }

    /// Whether the member has not said a byte to the request.
    pub(crate) fn is_unanswered(&self) -> bool {
        self.link.received.get() == self.before.0
    }

    /// Whether all of the request went out.
    pub(crate) fn is_sent(&self) -> bool {
        self.outgoing.is_empty()
            && self.body.is_none()
            && self.upload.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Sends the request and waits for the head of its answer.
    pub(crate) fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Response<()>, NoAnswer>> {
        let unsent = match self.poll_send(cx) {
            Poll::Ready(Err(error)) if self.is_unsent() => {
                return Poll::Ready(Err(NoAnswer::Unsent(error)));
            }
            // A member that refuses a request closes without reading all of it.
            Poll::Ready(Err(error)) => Some(error),
            Poll::Ready(Ok(())) | Poll::Pending => None,
        };
        loop {
            if !self.buffer.is_empty() {
                let read = answer::read(&mut self.buffer, &mut self.scanner, &self.rules);
                match read {
                    Err(bad) => return Poll::Ready(Err(bad.into())),
                    Ok(None) => {}
                    Ok(Some(answer)) => {
                        if let Some(head) = self.take_answer(answer) {
                            return Poll::Ready(Ok(head));
                        }
                        continue;
                    }
                }
            }
            let heard = self.link.received.get() - self.before.0;
            if heard > HEAD_BOUND || self.buffer.len() > *PIECES.end() {
                return Poll::Ready(Err(NoAnswer::TooMuch));
            }
            match ready!(self.poll_fill(cx, usize::MAX)) {
                Ok(0) => {
                    let error = unsent.map_or(NoAnswer::Closed, NoAnswer::Broken);
                    return Poll::Ready(Err(error));
                }
                Ok(_) => {}
                Err(_) if self.link.broken.get() => return Poll::Ready(Err(NoAnswer::Upload)),
                Err(error) => {
                    return Poll::Ready(Err(NoAnswer::Broken(unsent.unwrap_or(error))));
                }
            }
        }
    }

    /// The final response, or nothing of an interim one.
    fn take_answer(&mut self, answer: Answer) -> Option<Response<()>> {
        let status = answer.head.status();
        if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
            if status == StatusCode::CONTINUE {
                self.go.iter().flatten().for_each(|go| go.give());
            }
            return None;
        }
        self.go = [None, None];
        self.reusable &= answer.keeps;
        self.framing = answer.framing;
        self.line_bytes = answer.line_bytes;
        Some(answer.head)
    }

    /// Whether nothing of the request went out. TLS says of a write that failed not what went before.
    fn is_unsent(&self) -> bool {
        let is_tls = matches!(&*self.link.stream.borrow(), Line::Tls(_));
        !is_tls && self.link.sent.get() == self.before.1
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.outgoing.len() {
            let written = ready!(self.link.poll_write(cx, &self.outgoing[self.written..]))?;
            self.written += written;
            self.unflushed = true;
        }
        if self.unflushed {
            ready!(self.link.poll_flush(cx))?;
            self.unflushed = false;
            self.outgoing.clear();
            self.written = 0;
        }
        if let Some(body) = self.body.take() {
            let link = Rc::clone(&self.link);
            self.upload = Some(tokio::task::spawn_local(upload::send(link, body)));
        }
        Poll::Ready(Ok(()))
    }

    /// The next piece of the body; `None`: it is complete.
    pub(crate) fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        loop {
            match self.framing.take(&mut self.buffer, self.room) {
                Piece::Data(data) => return Poll::Ready(Some(Ok(data))),
                Piece::End => return Poll::Ready(None),
                Piece::Broken => {
                    let error = "malformed chunked body";
                    let error = io::Error::new(io::ErrorKind::InvalidData, error);
                    return Poll::Ready(Some(Err(error)));
                }
                Piece::Missing => {}
            }
            let expected = match self.framing {
                // A little more, so that a read which gets it all is seen to have emptied the socket.
                Framing::Length(left) => usize::try_from(left)
                    .unwrap_or(usize::MAX)
                    .saturating_add(64),
                Framing::Chunked(..) | Framing::Close => usize::MAX,
            };
            if !self.outgoing.is_empty() || self.body.is_some() {
                // The answer began before the request was out. An error shows when it is read on.
                let _ = self.poll_send(cx);
            }
            match ready!(self.poll_fill(cx, expected)) {
                Ok(0) if self.framing == Framing::Close => self.framing = Framing::Length(0),
                Ok(0) => {
                    let error = "connection closed before the end of the body";
                    let error = io::Error::new(io::ErrorKind::UnexpectedEof, error);
                    return Poll::Ready(Some(Err(error)));
                }
                Ok(_) => {}
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
    }

    /// Whether the request's body broke off, so that no answer is to be waited for.
    pub(crate) fn is_broken_off(&self) -> bool {
        self.link.broken.get()
    }

    /// Whether the body is complete.
    pub(crate) const fn is_end(&self) -> bool {
        self.framing.is_end()
    }

    /// Bytes of the body that are left, if that is known.
    pub(crate) const fn left(&self) -> Option<u64> {
        match self.framing {
            Framing::Length(left) => Some(left),
            Framing::Chunked(..) | Framing::Close => None,
        }
    }

    /// What the member sent behind its 101.
    pub(crate) fn take_surplus(&mut self) -> Bytes {
        self.buffer.split().freeze()
    }

    /// Reads; `expected`: more is not worth room. 0: the member's end.
    fn poll_fill(&mut self, cx: &mut Context<'_>, expected: usize) -> Poll<io::Result<usize>> {
        if self.link.broken.get() {
            let error = "the request's body broke off";
            return Poll::Ready(Err(io::Error::other(error)));
        }
        let room = self.room.min(expected);
        self.buffer.reserve(room);
        let mut incoming = Incoming(&self.link);
        let read = std::pin::pin!(incoming.read_buf(&mut self.buffer)).poll(cx);
        let Poll::Ready(read) = read else {
            if self.upload.is_some() {
                *self.link.reader.borrow_mut() = Some(cx.waker().clone());
            }
            return Poll::Pending;
        };
        let read = read?;
        if read >= room {
            self.room = (self.room * 2).min(*PIECES.end());
        } else if room == self.room && read < room / 4 {
            self.room = (self.room / 2).max(*PIECES.start());
        }
        Poll::Ready(Ok(read))
    }

    /// Whether it may wait in a pool: all was said, and nothing beyond it.
    pub(super) fn may_rest(&self) -> bool {
        let link = &self.link;
        let is_whole = self.is_sent() && !link.half.get() && !link.broken.get();
        self.reusable && self.is_end() && is_whole && self.buffer.is_empty()
    }

    /// It goes into a pool.
    pub(super) fn rest(&mut self, now: u64) {
        self.reused = true;
        self.idle_since = now;
        self.upload = None;
        self.link.alarm.clear();
        self.link.reader.take();
    }

    /// Lets go of the room that a connection which idles for long does not need.
    pub(super) fn slim(&mut self) {
        self.outgoing = Vec::new();
        self.buffer = BytesMut::new();
        self.room = *PIECES.start();
    }

    /// Whether nothing came in on an idle connection: what did would be taken for the next response.
    ///
    /// The runtime knows of what came before its thread last asked the kernel, which is once for a
    /// turn of all that is ready, about a millisecond at most. What came since is not told from what
    /// comes while the request is on its way, so a request that can be sent again goes by that
    /// alone (`by_runtime`); before others the kernel is asked, for 0.4 µs.
    pub(super) fn is_silent(&self, by_runtime: bool) -> bool {
        let mut stream = self.link.stream.borrow_mut();
        let peek = |socket: BorrowedFd<'_>| {
            let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
            rustix::net::recv(socket, &mut [0], flags).map_err(io::Error::from)
        };
        let peeked = match &mut *stream {
            Line::Plain(plain) if by_runtime => {
                plain.try_io(Interest::READABLE, || peek(plain.as_fd()))
            }
            Line::Unix(plain) if by_runtime => {
                plain.try_io(Interest::READABLE, || peek(plain.as_fd()))
            }
            line => {
                if let Line::Tls(tls) = line
                    && has_plaintext(tls)
                {
                    return false;
                }
                peek(line.socket())
            }
        };
        peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Whether the runtime has seen something come in on an idle connection: the member's end, most
    /// of the time.
    pub(super) fn is_over(&self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        let ready = match &*self.link.stream.borrow() {
            Line::Plain(stream) => stream.poll_read_ready(&mut cx),
            Line::Unix(stream) => stream.poll_read_ready(&mut cx),
            Line::Tls(stream) => stream.get_ref().0.poll_read_ready(&mut cx),
        };
        // The runtime may remember what was read since.
        ready.is_ready() && !self.is_silent(false)
    }
}

/// Whether TLS has something that was read from the socket already.
fn has_plaintext(tls: &mut (impl AsyncRead + Unpin)) -> bool {
    let mut byte = [0];
    let mut byte = ReadBuf::new(&mut byte);
    let mut cx = Context::from_waker(Waker::noop());
    Pin::new(tls).poll_read(&mut cx, &mut byte).is_ready()
}

/// What a head says to one member; the rest of it is the same for all.
#[derive(Clone, Copy)]
pub(crate) struct Said<'a> {
    /// The Host field's value.
    pub(crate) host: &'a HeaderValue,
    /// The Connection field's.
    pub(crate) connection: &'static str,
}

/// The head of a request as it goes out, Host first.
fn write_head(out: &mut Vec<u8>, head: &Parts, said: Said<'_>) {
    out.extend_from_slice(head.method.as_str().as_bytes());
    out.push(b' ');
    let target = head
        .uri
        .path_and_query()
        .map_or("/", |target| target.as_str());
    out.extend_from_slice(target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\nHost: ");
    out.extend_from_slice(said.host.as_bytes());
    out.extend_from_slice(b"\r\nConnection: ");
    out.extend_from_slice(said.connection.as_bytes());
    out.extend_from_slice(b"\r\n");
    for (name, value) in &head.headers {
        if matches!(*name, header::HOST | header::CONNECTION) {
            continue;
        }
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
}
