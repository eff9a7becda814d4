//! Snippets of configuration and what becomes of them.
