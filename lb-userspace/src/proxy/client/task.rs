//! The task of a client's connection: hyper for as long as something happens, and next to nothing
//! in between.
//!
//! hyper keeps 16 kB of buffers for the life of a connection. So it is there from the end of a
//! request's head, which is looked at before, until the connection was silent for a while after
//! the response; what remains then is the socket, a few cells and this task.

use std::{pin::Pin, rc::Rc, task::Poll};

use hyper::{server::conn::http1, service::service_fn};
use tracing::debug;

use super::{Activity, Client, ClientIo};
use crate::proxy::{
    forward,
    gate::MAX_HEAD,
    shard::{Counted, Registered, Served, Shard},
};

/// hyper's default, for which it needs no heap.
const FIELDS_ON_STACK: usize = 100;

/// How the time with hyper ended.
enum Stop {
    /// The connection is silent, nothing is buffered anywhere: its transport.
    Rest(ClientIo),
    /// hyper is done with it.
    Over(hyper::Result<()>),
}

/// A client's connection over HTTP/1, from accept (or the end of the handshake) to close. `fields`:
/// `LimitRequestFields`.
pub(crate) async fn http1(shard: Rc<Shard>, client: Rc<Client>, fields: usize, _counted: Counted) {
    let registered = Registered::new(&shard, &client);
    let mut io = ClientIo::new(Rc::clone(&client), Rc::clone(&shard));
    loop {
        let awaited = std::future::poll_fn(|cx| io.poll_awaited(cx)).await;
        match awaited {
            Ok(true) => {}
            Ok(false) => {
                Box::pin(client.linger(&shard)).await;
                break;
            }
            Err(error) => {
                debug!(target: "sluice::proxy", "[client {}] {error}", client.peer);
                break;
            }
        }
        match serve(&shard, &client, io, fields).await {
            Stop::Rest(rested) => io = rested,
            Stop::Over(result) => {
                if let Err(error) = &result {
                    debug!(target: "sluice::proxy", "[client {}] {error}", client.peer);
                }
                if (result.is_ok() || client.reset.get()) && !client.may_part() {
                    Box::pin(client.linger(&shard)).await;
                }
                break;
            }
        }
    }
    drop(registered);
}

/// Serves requests until the connection ends or rests.
fn serve(
    shard: &Rc<Shard>,
    client: &Rc<Client>,
    io: ClientIo,
    fields: usize,
) -> impl Future<Output = Stop> + use<> {
    let (shard, client) = (Rc::clone(shard), Rc::clone(client));
    let service = {
        let (shard, client) = (Rc::clone(&shard), Rc::clone(&client));
        service_fn(move |request| {
            let (shard, client) = (Rc::clone(&shard), Rc::clone(&client));
            forward::answer(shard, client, request)
        })
    };
    let mut http = http1::Builder::new();
    // Half of it again, so that the gate refuses a head before hyper would.
    http.max_buf_size(MAX_HEAD + MAX_HEAD / 2)
        .half_close(false)
        .pipeline_flush(false);
    if fields != FIELDS_ON_STACK {
        http.max_headers(fields);
    }
    // Boxed: an idle connection's task must not be as large as its largest state.
    let mut served = Some(Box::pin(http.serve_connection(io, service)));
    let mut told = false;
    let counted = Served::new(&shard);
    std::future::poll_fn(move |cx| {
        let _counted = &counted;
        let Some(http) = served.as_mut() else {
            return Poll::Pending;
        };
        let mut polled = http.as_mut().poll(cx);
        client.settle();
        // In a polite drain every response closes its connection, and nothing else does.
        if polled.is_pending() && !told && shard.closes_idle() {
            told = true;
            match client.activity() {
                // Their request is answered first; its response closes.
                Activity::Fresh | Activity::Beginning => {}
                Activity::Busy | Activity::Idle => http.as_mut().graceful_shutdown(),
            }
            polled = http.as_mut().poll(cx);
            client.settle();
        }
        if let Poll::Ready(result) = polled {
            // What of the request is left is given up, and its line is written.
            served = None;
            client.settle();
            return Poll::Ready(Stop::Over(result));
        }
        if !client.may_rest() {
            return Poll::Pending;
        }
        let Some(http) = served.take() else {
            return Poll::Pending;
        };
        let parts = Pin::into_inner(http).into_parts();
        if parts.read_buf.is_empty() {
            Poll::Ready(Stop::Rest(parts.io))
        } else {
            // The gate gives hyper whole messages and nothing between them.
            debug!(target: "sluice::proxy", "[client {}] bytes between requests", client.peer);
            Poll::Ready(Stop::Over(Ok(())))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<A, B, C, D, F>(_: fn(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn task_of_a_connection_stays_small() {
        let size = size(http1);
        assert!(size <= 420, "{size} bytes");
        assert!(size_of::<Client>() <= 480, "{} bytes", size_of::<Client>());
    }
}
