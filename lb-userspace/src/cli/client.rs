//! Talking to the daemon, or reading the pins of one that is dead.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::PathBuf,
    time::Duration,
};

use super::{FAILED, Failure, Outcome, UNREACHABLE, args::Global, output};
use crate::{
    admin::protocol::{Request, Response, Snapshot},
    dataplane,
};

/// Longest answer: 4096 members with long names fit several times.
const MAX_ANSWER: u64 = 64 * 1024 * 1024;
/// Reloads take as long as name servers and the proxy let them.
const PATIENCE: Duration = Duration::from_mins(2);
/// Times that who only looks asks again.
const RETRIES: u32 = 5;
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Why there is no answer.
pub(crate) enum NoAnswer {
    /// Nobody listens.
    Dead,
    /// It ended before it answered.
    Ended,
    /// Somebody does, but it went wrong.
    Failed(Failure),
}

/// The failure when the daemon ended before it answered.
pub(crate) fn ended() -> Failure {
    Failure::text(
        FAILED,
        "the daemon ended, or became another program, before it answered",
    )
}

/// Where the instance's control socket is.
pub(crate) fn socket(global: &Global) -> PathBuf {
    let place = global.place();
    place.run_dir.join(format!("{}.sock", place.instance))
}

/// Sends one request and reads the answer. Who only looks asks again when the daemon became another
/// program meanwhile (`sluice upgrade`).
pub(crate) fn ask(global: &Global, request: &Request) -> Result<Response, NoAnswer> {
    let looks = matches!(request, Request::Snapshot | Request::Metrics);
    for _ in 0..RETRIES {
        match ask_once(global, request) {
            Err(NoAnswer::Ended) if looks => std::thread::sleep(RETRY_PAUSE),
            answered => return answered,
        }
    }
    ask_once(global, request)
}

fn ask_once(global: &Global, request: &Request) -> Result<Response, NoAnswer> {
    let path = socket(global);
    let stream = match UnixStream::connect(&path) {
        Ok(stream) => stream,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Err(NoAnswer::Dead);
        }
        Err(error) => {
            let hint = if error.kind() == io::ErrorKind::PermissionDenied {
                "; run it as root, or as a member of the group that SluiceControl names"
            } else {
                ""
            };
            return Err(NoAnswer::Failed(Failure::text(
                UNREACHABLE,
                format_args!("control socket {}: {error}{hint}", path.display()),
            )));
        }
    };
    converse(&stream, request).map_err(|error| {
        let path = path.display();
        NoAnswer::Failed(match error.kind() {
            // What a read that runs out of time is called.
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Failure::text(
                FAILED,
                format_args!(
                    "control socket {path}: no answer within {} s; what was asked may still be done",
                    PATIENCE.as_secs()
                ),
            ),
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
                return NoAnswer::Ended;
            }
            _ => Failure::text(FAILED, format_args!("control socket {path}: {error}")),
        })
    })
}

fn converse(mut stream: &UnixStream, request: &Request) -> io::Result<Response> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = Vec::new();
    BufReader::new(stream)
        .take(MAX_ANSWER)
        .read_until(b'\n', &mut answer)?;
    if answer.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the daemon ended before it answered",
        ));
    }
    Ok(serde_json::from_slice(&answer)?)
}

/// What the daemon shows, or what it left when it is dead (said on standard error).
pub(crate) fn snapshot(global: &Global) -> Result<Snapshot, Failure> {
    match ask(global, &Request::Snapshot) {
        Ok(Response::Snapshot(snapshot)) => Ok(*snapshot),
        Ok(Response::Done { message } | Response::Refused { message }) => {
            Err(Failure::text(FAILED, message))
        }
        Ok(Response::Metrics { .. } | Response::Route(_)) => {
            Err(Failure::text(FAILED, "the daemon answered strangely"))
        }
        Err(NoAnswer::Failed(failure)) => Err(failure),
        Err(NoAnswer::Ended) => Err(ended()),
        Err(NoAnswer::Dead) => {
            let place = global.place();
            let snapshot = dataplane::read_pins(&place).map_err(|error| {
                Failure::text(
                    UNREACHABLE,
                    format_args!(
                        "no daemon answers at {} and its maps cannot be read: {error}",
                        socket(global).display()
                    ),
                )
            })?;
            output::note(&format!(
                "no daemon answers at {}; this is what its pinned maps hold",
                socket(global).display()
            ));
            Ok(snapshot)
        }
    }
}

/// What it means for the exit code that the maps could not be read.
pub(crate) fn dataplane(error: dataplane::DataplaneError) -> Failure {
    Failure::new(UNREACHABLE, error)
}

/// Asks for a change and prints what it did.
pub(crate) fn change(global: &Global, request: &Request) -> Outcome {
    match ask(global, request) {
        Ok(Response::Done { message }) => output::line(&message),
        Ok(Response::Refused { message }) => Err(Failure::text(FAILED, message)),
        Ok(Response::Snapshot(_) | Response::Metrics { .. } | Response::Route(_)) => {
            Err(Failure::text(FAILED, "the daemon answered strangely"))
        }
        Err(NoAnswer::Failed(failure)) => Err(failure),
        Err(NoAnswer::Ended) => Err(ended()),
        Err(NoAnswer::Dead) => Err(Failure::text(
            UNREACHABLE,
            format_args!(
                "no daemon answers at {}: nothing can be changed",
                socket(global).display()
            ),
        )),
    }
}
