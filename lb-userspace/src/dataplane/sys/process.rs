//! Becoming another program, and holding signals back meanwhile.

use std::{ffi::CString, io, ptr};

/// Signals that mean something to control.
const SIGNALS: [libc::c_int; 5] = [
    libc::SIGTERM,
    libc::SIGINT,
    libc::SIGHUP,
    libc::SIGUSR1,
    libc::SIGWINCH,
];

/// Holds the signals of this thread back (they wait, also across [`exec`]), or lets them come again.
/// Not for a process with further threads that take them.
pub(crate) fn hold_signals(hold: bool) -> io::Result<()> {
    // SAFETY: an all-zero set is a value; sigemptyset makes it a defined one.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is ours.
    unsafe { libc::sigemptyset(&raw mut set) };
    for signal in SIGNALS {
        // SAFETY: as above; the number is a signal's.
        unsafe { libc::sigaddset(&raw mut set, signal) };
    }
    let how = if hold {
        libc::SIG_BLOCK
    } else {
        libc::SIG_UNBLOCK
    };
    // SAFETY: the set outlives the call; the old one is not asked for.
    match unsafe { libc::pthread_sigmask(how, &raw const set, ptr::null_mut()) } {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}

/// execve(2): this process becomes `program`, and keeps what the standard library's way there would
/// reset, the signals held back. Returns only when it failed.
pub(crate) fn exec(program: &CString, arguments: &[CString], environment: &[CString]) -> io::Error {
    let pointers = |texts: &[CString]| -> Vec<*const libc::c_char> {
        let texts = texts.iter().map(|text| text.as_ptr());
        texts.chain([ptr::null()]).collect()
    };
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    // SAFETY: terminated strings and arrays that end with a null pointer, alive until the call
    // returns; where it succeeds nothing of this program is left.
    unsafe { libc::execve(program.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    io::Error::last_os_error()
}
