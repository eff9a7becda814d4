//! Text in httpd's syntax to a tree with spans. Knows the conditional sections and `Include`, which
//! act while reading (apache.md 1.1 to 1.3); knows no other directive.

pub(crate) mod conditions;
pub(crate) mod glob;
pub(crate) mod include;
pub(crate) mod lexer;
pub(crate) mod tree;
