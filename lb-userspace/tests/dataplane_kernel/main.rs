//! The dataplane on a real kernel: adoption, repair, foreign pins, hooks, packets.
//!
//! Every test runs in a mount and a network namespace of its own, with its own bpffs and veth pair:
//! it starts this very binary once more under `unshare`, and nothing of the host is touched. Without
//! root or a tool it says so and passes, but fails where `CI` is set.

#[macro_use]
mod lab;
mod adopt;
mod foreign;
mod hooks;
mod many;
mod offloads;
mod traffic;
