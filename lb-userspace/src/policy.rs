//! What operators say of requests beside where they go: fields edited, variables set, access
//! allowed. Pure: a request is asked through [`Facts`](crate::expr::Facts).
//!
//! The engines of mod_headers ([`fields`]), mod_setenvif and mod_env ([`environment`]) and
//! mod_authz_core with mod_authz_host ([`access`]).

pub mod access;
pub mod environment;
pub mod fields;
pub mod interned;
