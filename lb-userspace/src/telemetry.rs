//! Logs: the error log in httpd's line format, for both processes, and the access logs of the proxy.
//!
//! Control opens the files; nothing here knows a path but that of the system log.

pub mod access;
pub mod counters;
pub mod error_format;
pub mod error_log;
pub mod sink;
pub mod syslog;
mod writer;

mod fuzz;

pub use fuzz::fuzz_formats;
pub(crate) use writer::settle;
