//! placeholder
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {}
pub(crate) fn run(_: &std::path::Path, _: &Arguments) -> anyhow::Result<()> {
    Ok(())
}
