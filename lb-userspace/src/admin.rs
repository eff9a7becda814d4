//! What sluice shows of itself, and what it can be told while it runs.

pub mod protocol;
