//! Logs: the error log in httpd's line format, for both processes, and the access logs of the proxy.
//!
//! Control opens the files; nothing here knows a path.

pub mod access;
pub mod counters;
pub mod error_log;
