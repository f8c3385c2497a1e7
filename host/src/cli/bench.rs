//! `hotshoe bench`
use super::Result;
use crate::config::DataDir;
#[derive(Debug, clap::Args)]
pub(super) struct Args {}
pub(super) async fn run(_args: Args, _data: &DataDir) -> Result {
    Ok(())
}
