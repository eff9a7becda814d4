//! The socket pair between control and proxy: whole messages, with descriptors attached.
//!
//! SOCK_SEQPACKET: one message is one JSON text of at most [`MAX_MESSAGE`] bytes and at most
//! [`MAX_FDS`] descriptors. What is larger (a specification) travels in a sealed memory file. What
//! the proxy says is not trusted: a message that cannot be read ends the link.

use std::{
    fs::File,
    io::{self, IoSlice, IoSliceMut, Read as _, Seek as _, Write as _},
    mem::MaybeUninit,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{MemfdFlags, SealFlags},
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
        SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
    },
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{io::Interest, net::UnixDatagram};
use zeroize::Zeroizing;

use super::privileges::Identity;
use crate::{
    admin::manager::edit::Submission,
    config::spec::{LogTarget, Spec},
    names,
    proxy::{
        manager::Answer,
        tls::{Certificates, TicketKeys},
    },
};

/// Longest message, bytes.
const MAX_MESSAGE: usize = 64 * 1024;
/// Most descriptors of one message; the kernel's bound is 253 (SCM_MAX_FD).
pub(crate) const MAX_FDS: usize = 200;

/// From control to the proxy.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ToProxy {
    /// First message. Descriptors: `MEMBERS`, `BUSY`, the instance's lock file to read, the
    /// shards' counters.
    Setup {
        /// Column of `BUSY`.
        column: u32,
        /// Shards to run, each with the CPU that it is pinned to.
        cpus: Vec<Option<u32>>,
        /// User to become; `None`: stay who you are.
        identity: Option<Identity>,
    },
    /// Listening sockets of the generation to come, shard and index of listener of each.
    Listeners(Vec<(usize, usize)>),
    /// Log files, and pipes to programs, of the generation to come.
    Logs(Vec<LogTarget>),
    /// Switch. Descriptor: a memory file with a [`Parcel`]. The counts guard against a lost batch.
    Apply {
        /// Listening sockets sent since the last one.
        listeners: usize,
        /// Log files sent since the last one.
        logs: usize,
    },
    /// The keys of session tickets have changed. Descriptor: a memory file with [`TicketKeys`].
    Tickets,
    /// What became of a [`FromProxy::Change`].
    Changed {
        /// Its number.
        number: u64,
        /// What the page is to say.
        answer: Answer,
    },
    /// Accept no more, finish what is in flight, exit.
    Drain,
    /// The same, but idle connections stay until they have made one more request or are timed out:
    /// the service goes on, and closing one may cross a request on its way.
    Retire,
}

/// From the proxy to control.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum FromProxy {
    /// Privileges are dropped, shards run.
    Ready,
    /// Every shard is on this generation.
    Applied(u64),
    /// The generation was refused; the one before is still on.
    Failed {
        /// Which.
        generation: u64,
        /// Why.
        message: String,
    },
    /// Client connections open.
    Connections(u64),
    /// Told to drain or retire, it accepts no more: what connects from now on is another's.
    Quiet,
    /// What became of asking for a member's name.
    Resolved {
        /// The name.
        host: String,
        /// What was said, or why nothing was.
        answer: Result<names::Answer, String>,
    },
    /// Somebody changes something in the balancer-manager. Answered by [`ToProxy::Changed`].
    Change {
        /// Tells answers apart.
        number: u64,
        /// Who.
        client: SocketAddr,
        /// What.
        submission: Submission,
    },
}

/// One generation, as it travels.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Parcel {
    /// Its number.
    pub(crate) number: u64,
    /// The configuration.
    pub(crate) spec: Spec,
    /// `ids[b][m]`: slot of `spec.balancers[b].members[m]`.
    pub(crate) ids: Vec<Vec<u32>>,
    /// Certificates and keys: they travel in memory alone.
    pub(crate) certificates: Certificates,
    /// Keys of session tickets, likewise.
    pub(crate) tickets: TicketKeys,
}

impl Parcel {
    /// Puts it into a memory file that nobody can change any more.
    pub(crate) fn seal(&self) -> io::Result<OwnedFd> {
        write_file("sluice-generation", self)
    }

    /// Reads it back.
    pub(crate) fn open(fd: OwnedFd) -> io::Result<Self> {
        read_file(fd)
    }
}

/// A memory file with a text that nobody can change any more.
pub(crate) fn write_file<T: Serialize>(name: &str, value: &T) -> io::Result<OwnedFd> {
    let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut file = File::from(fd);
    // It may hold keys.
    let text = Zeroizing::new(serde_json::to_vec(value)?);
    file.write_all(&text)?;
    rustix::fs::fcntl_add_seals(
        &file,
        SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL,
    )?;
    Ok(file.into())
}

/// Reads what [`write_file`] wrote.
pub(crate) fn read_file<T: DeserializeOwned>(fd: OwnedFd) -> io::Result<T> {
    let mut file = File::from(fd);
    file.rewind()?;
    let length = usize::try_from(file.metadata()?.len()).unwrap_or(0);
    // Whole from the start: what a growing buffer leaves behind would not be wiped.
    let mut text = Zeroizing::new(Vec::with_capacity(length + 1));
    file.read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

/// One end of the pair. tokio has no type for SOCK_SEQPACKET; of `UnixDatagram` nothing is used
/// but readiness and ownership, messages go through sendmsg(2) and recvmsg(2).
#[derive(Debug)]
pub(crate) struct Link(UnixDatagram);

/// A connected pair, both ends close-on-exec.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Link {
    /// Takes one end; needs a tokio runtime.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self(UnixDatagram::from_std(fd.into())?))
    }

    /// Sends one message. Cancelled: sent as a whole or not at all.
    pub(crate) async fn send<M: Serialize + Sync>(
        &self,
        message: &M,
        fds: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let text = serde_json::to_vec(message)?;
        if text.len() > MAX_MESSAGE || fds.len() > MAX_FDS {
            return Err(io::ErrorKind::ArgumentListTooLong.into());
        }
        self.0
            .async_io(Interest::WRITABLE, || send_once(self.0.as_fd(), &text, fds))
            .await
    }

    /// Receives one message; `None`: the other side is gone. Cancelled: nothing is lost.
    pub(crate) async fn receive<M: DeserializeOwned>(
        &self,
    ) -> io::Result<Option<(M, Vec<OwnedFd>)>> {
        let mut text = vec![0; MAX_MESSAGE];
        let (length, fds) = self
            .0
            .async_io(Interest::READABLE, || {
                receive_once(self.0.as_fd(), &mut text)
            })
            .await?;
        if length == 0 {
            return Ok(None);
        }
        Ok(Some((serde_json::from_slice(&text[..length])?, fds)))
    }
}

/// Sends one message without a runtime: to somebody who reads later, so it must fit into the buffer.
pub(crate) fn send_now<M: Serialize>(
    socket: BorrowedFd<'_>,
    message: &M,
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    send_once(socket, &serde_json::to_vec(message)?, fds)
}

/// Receives one message that is there already; `None`: there is none and there will be none.
pub(crate) fn receive_now<M: DeserializeOwned>(
    socket: BorrowedFd<'_>,
) -> io::Result<Option<(M, Vec<OwnedFd>)>> {
    let mut text = vec![0; MAX_MESSAGE];
    let (length, fds) = receive_once(socket, &mut text)?;
    if length == 0 {
        return Ok(None);
    }
    Ok(Some((serde_json::from_slice(&text[..length])?, fds)))
}

fn send_once(socket: BorrowedFd<'_>, text: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::ArgumentListTooLong.into());
    }
    rustix::net::sendmsg(
        socket,
        &[IoSlice::new(text)],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    Ok(())
}

fn receive_once(socket: BorrowedFd<'_>, text: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = match rustix::net::recvmsg(
        socket,
        &mut [IoSliceMut::new(text)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    ) {
        Ok(received) => received,
        // The other side died with messages of ours unread.
        Err(rustix::io::Errno::CONNRESET) => return Ok((0, Vec::new())),
        Err(error) => return Err(error.into()),
    };
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(more) = message {
            fds.extend(more);
        }
    }
    if received
        .flags
        .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
    {
        return Err(io::Error::other("message or descriptors cut short"));
    }
    Ok((received.bytes, fds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::tls::{Der, Pair, tickets};

    #[tokio::test]
    async fn a_message_arrives_with_its_descriptors() {
        let (a, b) = pair().expect("socketpair");
        let (a, b) = (Link::new(a).expect("link"), Link::new(b).expect("link"));
        let parcel = Parcel {
            number: 7,
            spec: Spec::default(),
            ids: vec![vec![1, 2], vec![]],
            certificates: Certificates {
                pairs: vec![Pair {
                    chain: vec![Der(vec![0, 1, 0xfe, 0xff].into())],
                    key: Der(b"secret".to_vec().into()),
                }],
                hosts: vec![vec![0]],
                ..Certificates::default()
            },
            tickets: TicketKeys::new(7, &mut tickets::fresh).expect("randomness"),
        };
        let fd = parcel.seal().expect("memory file");
        let message = ToProxy::Apply {
            listeners: 0,
            logs: 0,
        };
        a.send(&message, &[fd.as_fd()]).await.expect("send");
        let (message, mut fds) = b
            .receive::<ToProxy>()
            .await
            .expect("receive")
            .expect("a message");
        assert!(matches!(message, ToProxy::Apply { .. }));
        let back = Parcel::open(fds.pop().expect("one descriptor")).expect("parcel");
        assert_eq!(back.number, 7);
        assert_eq!(back.ids, parcel.ids);
        assert_eq!(back.certificates, parcel.certificates);
        assert_eq!(back.tickets, parcel.tickets);
        assert!(
            !format!("{back:?}").contains("115, 101"),
            "keys are not shown"
        );
        assert_eq!(back.spec, parcel.spec);
        drop(a);
        assert!(b.receive::<ToProxy>().await.expect("end").is_none());
    }

    #[tokio::test]
    async fn as_many_descriptors_as_promised_fit() {
        let (a, b) = pair().expect("socketpair");
        let (a, b) = (Link::new(a).expect("link"), Link::new(b).expect("link"));
        let file = File::open("/dev/null").expect("null");
        a.send(&ToProxy::Drain, &vec![file.as_fd(); MAX_FDS])
            .await
            .expect("send");
        let (_, fds) = b
            .receive::<ToProxy>()
            .await
            .expect("receive")
            .expect("a message");
        assert_eq!(fds.len(), MAX_FDS);
    }

    #[tokio::test]
    async fn noise_from_the_proxy_is_an_error() {
        let (a, b) = pair().expect("socketpair");
        let b = Link::new(b).expect("link");
        rustix::net::send(&a, b"{\"Applied\":", SendFlags::NOSIGNAL).expect("send");
        assert!(b.receive::<FromProxy>().await.is_err());
    }
}
