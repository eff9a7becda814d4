//! sluice, the library behind the `sluice` command.
//!
//! `cli -> server -> {proxy, balancer, health, dataplane, admin, telemetry} -> config::spec`, and
//! `proxy -> balancer`. `balancer` and `config` use no tokio, hyper or aya. Nothing uses `server`
//! but `cli`.

#![deny(unsafe_code)]

pub mod admin;
pub mod balancer;
pub mod config;
pub mod dataplane;
pub mod expr;
pub mod health;
mod names;
pub mod pattern;
pub mod policy;
pub mod proxy;
pub mod rewrite;
pub mod server;
pub mod telemetry;

pub mod cli;
