//! What the XDP program and userspace must agree on, and what both run.
//!
//! Layouts of every shared map, frame parsing, hashing, rate windows and verdicts. Nothing here
//! does I/O, reads a clock or draws a random number: time, seeds and lookups are arguments, so the
//! same code runs in host tests, under Miri, under a fuzzer and inside the kernel.
//!
//! `#[inline(always)]` on the packet path is not for speed alone: a function left outlined with a
//! data-carrying enum in its signature gives BTF that the kernel refuses.

#![cfg_attr(not(test), no_std)]
#![deny(unsafe_code)]

// The frames and tables of the integration tests, which name this crate from outside.
#[cfg(test)]
extern crate self as lb_common;
#[cfg(test)]
#[expect(
    unreachable_pub,
    unused_imports,
    reason = "the file is a module of another crate too"
)]
#[path = "../../tests/src/model.rs"]
mod model;
#[cfg(test)]
#[expect(
    unreachable_pub,
    dead_code,
    reason = "the file is a module of another crate too"
)]
#[path = "../../tests/src/packet.rs"]
mod packet;

pub mod abi;
pub mod addr;
pub mod answer;
pub mod capture;
pub mod checksum;
pub mod deny;
pub mod detour;
pub mod flow;
pub mod flow_table;
pub mod forward;
pub mod fragment;
pub mod frame;
pub mod guard;
pub mod hurry;
pub mod journey;
pub mod limit;
pub mod maglev;
pub mod member;
pub mod meta;
pub mod nat;
pub mod parse;
pub mod quic;
pub mod ring;
pub mod send;
pub mod service;
pub mod settings;
pub mod steer;
pub mod track;
#[cfg(feature = "user")]
mod user;
pub mod verdict;
pub mod window;
