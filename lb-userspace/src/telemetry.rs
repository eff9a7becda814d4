//! telemetry.

pub mod access;
