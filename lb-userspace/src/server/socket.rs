//! The control socket: JSON lines from whoever may connect, one task each, none of which can hold
//! up control or the others.

use std::{
    fs, io,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::fs::PermissionsExt as _,
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustix::fs::Mode;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};

use super::{StartError, control::socket_path, privileges::Accounts};
use crate::{
    admin::protocol::{Request, Response},
    config::spec::Sluice,
    dataplane::Place,
};

/// One request, on its way to control's loop.
pub(crate) struct Ask {
    pub(crate) request: Request,
    /// Who asks (SO_PEERCRED).
    pub(crate) uid: u32,
    /// Its connection, where the answer may come from another program.
    pub(crate) client: Option<OwnedFd>,
    pub(crate) reply: oneshot::Sender<Response>,
}

/// Longest request line, bytes.
const MAX_LINE: u64 = 64 * 1024;
/// Connections at a time; more wait to be accepted.
const MAX_CLIENTS: usize = 128;
/// How long a client may be slow to ask, or to take its answer. Programs ask at once; a crowd that
/// does not soon makes room.
const PATIENCE: Duration = Duration::from_secs(2);

/// The bound socket; its files go when it is dropped, after a crash with the next start.
pub(crate) struct ControlSocket {
    paths: Vec<PathBuf>,
    socket: OwnedFd,
    task: JoinHandle<()>,
}

impl ControlSocket {
    /// Binds and begins to serve. The instance's lock is held: what lies at the path is stale.
    pub(crate) fn bind(
        place: &Place,
        sluice: &Sluice,
        asks: mpsc::Sender<Ask>,
    ) -> Result<Self, StartError> {
        let link = socket_path(place);
        let path = sluice.control.clone().unwrap_or_else(|| link.clone());
        let error = |path: &Path| {
            let path = path.to_owned();
            move |source| StartError::Socket { path, source }
        };
        remove(&path).map_err(error(&path))?;
        let listener =
            bind_private(&path, sluice.control_group.as_deref()).map_err(error(&path))?;
        let mut this = Self::over(listener, vec![path.clone()], asks).map_err(error(&path))?;
        if path != link {
            // Clients find it by the instance's name alone.
            remove(&link).map_err(error(&link))?;
            std::os::unix::fs::symlink(&path, &link).map_err(error(&link))?;
            this.paths.push(link);
        }
        Ok(this)
    }
}

impl ControlSocket {
    /// Serves on a socket that a predecessor bound. Its files stay whatever happens, until
    /// [`ControlSocket::own`].
    pub(crate) fn adopt(socket: OwnedFd, asks: mpsc::Sender<Ask>) -> io::Result<Self> {
        let listener = std::os::unix::net::UnixListener::from(socket);
        listener.set_nonblocking(true)?;
        let listener = UnixListener::from_std(listener)?;
        Self::over(listener, Vec::new(), asks)
    }

    /// From now on its files go with it.
    pub(crate) fn own(&mut self, place: &Place, sluice: &Sluice) {
        let link = socket_path(place);
        let path = sluice.control.clone().unwrap_or_else(|| link.clone());
        self.paths = if path == link {
            vec![path]
        } else {
            vec![path, link]
        };
    }

    /// The socket, for a successor.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn over(
        listener: UnixListener,
        paths: Vec<PathBuf>,
        asks: mpsc::Sender<Ask>,
    ) -> io::Result<Self> {
        let socket = listener.as_fd().try_clone_to_owned()?;
        Ok(Self {
            paths,
            socket,
            task: tokio::spawn(accept(listener, asks)),
        })
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        self.task.abort();
        for path in &self.paths {
            // Whatever is left is replaced by the next start.
            drop(remove(path));
        }
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() || found.is_file() => Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "something that is not a socket lies there",
        )),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn bind_private(path: &Path, group: Option<&str>) -> io::Result<UnixListener> {
    // Nobody may connect between bind and chmod. This is control's only thread.
    let before = rustix::process::umask(Mode::RWXG | Mode::RWXO | Mode::XUSR);
    let bound = UnixListener::bind(path);
    rustix::process::umask(before);
    let listener = bound?;
    if let Some(group) = group {
        let gid = Accounts::of_host(None, Some(group))
            .group(group)
            .ok_or_else(|| {
                io::Error::new(
                    io::ErrorKind::NotFound,
                    format!("there is no group {group}"),
                )
            })?;
        std::os::unix::fs::chown(path, None, Some(gid))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
    }
    Ok(listener)
}

async fn accept(listener: UnixListener, asks: mpsc::Sender<Ask>) {
    let places = Arc::new(Semaphore::new(MAX_CLIENTS));
    loop {
        let Ok(permit) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let asks = asks.clone();
                tokio::spawn(async move {
                    // The client went away, or was too slow: its loss.
                    drop(converse(stream, &asks).await);
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!("control socket: accept: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(stream: UnixStream, asks: &mpsc::Sender<Ask>) -> io::Result<()> {
    let uid = stream.peer_cred()?.uid();
    let descriptor = stream.as_fd().try_clone_to_owned()?;
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut limited = (&mut read).take(MAX_LINE);
        timeout(PATIENCE, limited.read_until(b'\n', &mut line)).await??;
        if line.is_empty() {
            return Ok(());
        }
        let (response, last) = match parse(&line) {
            Ok(request) => {
                let upgrade = matches!(request, Request::Upgrade { .. });
                let client = if upgrade {
                    Some(descriptor.try_clone()?)
                } else {
                    None
                };
                (ask(asks, request, uid, client).await, false)
            }
            Err(message) => (Response::Refused { message }, true),
        };
        let mut text = serde_json::to_vec(&response)?;
        text.push(b'\n');
        timeout(PATIENCE, write.write_all(&text)).await??;
        if last {
            return Ok(());
        }
    }
}

fn parse(line: &[u8]) -> Result<Request, String> {
    if line.last() != Some(&b'\n') {
        return Err(format!(
            "not a request: one line of at most {MAX_LINE} bytes"
        ));
    }
    serde_json::from_slice(line).map_err(|error| format!("not a request: {error}"))
}

async fn ask(
    asks: &mpsc::Sender<Ask>,
    request: Request,
    uid: u32,
    client: Option<OwnedFd>,
) -> Response {
    let (reply, answer) = oneshot::channel();
    let gone = || Response::Refused {
        message: "the service is stopping".to_owned(),
    };
    let ask = Ask {
        request,
        uid,
        client,
        reply,
    };
    if asks.send(ask).await.is_err() {
        return gone();
    }
    answer.await.unwrap_or_else(|_| gone())
}
