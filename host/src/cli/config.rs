//! `hotshoe config`: look at the configuration.

use std::path::PathBuf;

use super::{Failure, Result};
use crate::config::file::{Config, TEMPLATE};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Check a configuration.
    Check {
        /// The file [default: ~/.config/hotshoe/config.toml if it is there].
        file: Option<PathBuf>,
    },
    /// Print the effective configuration.
    Show {
        /// The file [default: ~/.config/hotshoe/config.toml if it is there].
        file: Option<PathBuf>,
        /// Print every key with its meaning and its default instead.
        #[arg(long)]
        template: bool,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(args: Args) -> Result {
    match args.command {
        Command::Check { file } => {
            let (config, path) = Config::read(file.as_deref()).map_err(Failure::bad_input)?;
            config.missing().iter().for_each(|missing| tell!("warning: {missing}"));
            match path {
                Some(path) => say!("{} is sound", path.display()),
                None => say!("there is no configuration; every key has its default"),
            }
        }
        Command::Show { template: true, .. } => say!("{}", TEMPLATE.trim_end()),
        Command::Show { file, json, .. } => {
            let (config, _) = Config::read(file.as_deref()).map_err(Failure::bad_input)?;
            match json {
                true => say!("{:#}", serde_json::json!(config)),
                false => say!("{}", toml::to_string(&config).map_err(Failure::failed)?.trim_end()),
            }
        }
    }
    Ok(())
}
