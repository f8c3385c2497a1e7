//! Makes from the contract in `wit` what translates it into messages of processes:
//! the host's side of them, the side of plugins in Rust and in Python, and the
//! document for all other languages.
//!
//! `cargo run -p codegen` writes the files; a test fails if one of them is not what
//! the contract says.

mod contract;
mod host;
mod openrpc;
mod python;
mod rust;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use contract::Contract;

fn main() -> Result<()> {
    for (path, text) in files()? {
        let path = root().join(path);
        std::fs::write(&path, text).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("the workspace is two folders up")
}

/// Returns each file, below the root, with its text.
fn files() -> Result<Vec<(PathBuf, String)>> {
    let contract = Contract::read(&root().join("wit/v0.1"))?;
    let mut files = vec![
        (PathBuf::from("host/src/plugin/wire/v0_1.rs"), formatted(&host::translation(&contract))?),
        (PathBuf::from("plugin-api/src/sys/messages.rs"), formatted(&rust::bindings(&contract))?),
        (PathBuf::from("docs/plugin.openrpc.json"), openrpc::document(&contract)),
    ];
    let package = Path::new("plugin-api/python/src/hotshoe");
    let modules = python::modules(&contract).into_iter();
    files.extend(modules.map(|(name, text)| (package.join(format!("{name}.py")), text)));
    Ok(files)
}

/// Lays out Rust as everything else of the workspace is.
fn formatted(code: &str) -> Result<String> {
    #[expect(clippy::disallowed_methods, reason = "no plugin runs here")]
    let mut rustfmt = Command::new("rustfmt");
    rustfmt.args(["--edition", "2024", "--config-path"]).arg(root().join("rustfmt.toml"));
    let mut child = rustfmt.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("rustfmt")?;
    child.stdin.take().context("rustfmt takes no input")?.write_all(code.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "rustfmt refuses:\n{code}");
    Ok(String::from_utf8(output.stdout)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_committed_is_what_the_contract_says() {
        for (path, text) in files().unwrap() {
            let found = std::fs::read_to_string(root().join(&path)).unwrap_or_default();
            assert!(
                found == text,
                "{} is not what the contract says: run `cargo run -p codegen`",
                path.display()
            );
        }
    }
}
