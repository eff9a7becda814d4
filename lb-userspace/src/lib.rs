//! sluice.
