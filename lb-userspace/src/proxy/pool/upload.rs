//! A request's body on its way to a member, in a task of its own: a member may answer while it is
//! still being sent to, and a client may send on while it does not read.

use std::{
    io::{self, IoSlice, Write as _},
    pin::Pin,
    rc::Rc,
    task::{Poll, ready},
};

use bytes::Bytes;
use http_body::Body;

use super::Link;
use crate::proxy::body::RequestBody;

/// Sends the whole body, framed. An error of the body's breaks the link off; one of the member's is
/// left to whoever reads from it: an answer may be there.
pub(super) async fn send(link: Rc<Link>, mut body: RequestBody) {
    let mut left = body.size_hint().exact();
    link.half.set(true);
    loop {
        let frame = std::future::poll_fn(|cx| {
            let frame = Pin::new(&mut body).poll_frame(cx);
            if frame.is_pending() {
                // TLS may hold what the socket did not take, and the member may wait for it. An
                // error shows with the next piece.
                let _ = link.poll_flush(cx);
            }
            frame
        });
        let frame = frame.await;
        let data = match frame {
            None => break,
            Some(Err(_)) => return link.break_off(),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) if !data.is_empty() => data,
                _ => continue,
            },
        };
        let sent = if let Some(left) = &mut left {
            let Some(rest) = left.checked_sub(data.len() as u64) else {
                return link.break_off();
            };
            *left = rest;
            write(&link, [&data, b"", b""]).await
        } else {
            let mut size = Vec::with_capacity(18);
            // Into memory.
            let _ = write!(size, "{:x}\r\n", data.len());
            write(&link, [&size, &data, b"\r\n"]).await
        };
        if sent.is_err() {
            return;
        }
    }
    let ended = match left {
        Some(0) => Ok(()),
        Some(_) => return link.break_off(),
        None => write(&link, [b"0\r\n\r\n", b"", b""]).await,
    };
    if ended.is_ok() {
        let flushed = std::future::poll_fn(|cx| link.poll_flush(cx)).await;
        link.half.set(flushed.is_err());
    }
}

/// Writes all of it.
async fn write(link: &Link, parts: [&[u8]; 3]) -> io::Result<()> {
    let mut at = 0;
    let total: usize = parts.iter().map(|part| part.len()).sum();
    std::future::poll_fn(|cx| {
        while at < total {
            let mut slices = parts.map(IoSlice::new);
            let mut slices = &mut slices[..];
            IoSlice::advance_slices(&mut slices, at);
            at += ready!(link.poll_write_vectored(cx, slices))?;
        }
        Poll::Ready(Ok(()))
    })
    .await
}

/// Whether a body goes out with the head: it is there as a whole.
pub(super) fn goes_with_head(body: &mut RequestBody) -> Option<Bytes> {
    match body {
        RequestBody::Empty => Some(Bytes::new()),
        RequestBody::Whole(bytes) => Some(std::mem::take(bytes)),
        RequestBody::Streamed(_) | RequestBody::Held(_) => None,
    }
}
