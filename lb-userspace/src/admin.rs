//! What sluice shows of itself, and what it can be told while it runs.
//!
//! The decisions are here, pure; carrying them out is `server`'s.

pub mod change;
pub mod limit;
pub mod manager;
pub mod metrics;
pub mod protect;
pub mod protocol;
