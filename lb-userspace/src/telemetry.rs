//! Logs: the error log in httpd's line format, for both processes.
//!
//! Access logs are written by the proxy itself ([`access`] once it is there); which files there
//! are is decided by control, which opens them.

pub mod error_log;
