//! stub
use std::path::Path;
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {}
pub(super) fn run(_root: &Path, _arguments: &Arguments) -> anyhow::Result<()> { Ok(()) }
