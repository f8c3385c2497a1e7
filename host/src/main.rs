//! The `hotshoe` program.

use std::process::ExitCode;

use hotshoe::cli::bench::{fake, ipc};
use hotshoe::releases::compile;

fn main() -> ExitCode {
    // Before there is a second thread: a guard forks.
    let mut arguments = std::env::args_os().skip(1);
    let first = arguments.next().unwrap_or_default();
    if first == hotshoe::process::guard::COMMAND {
        hotshoe::process::guard::run(&arguments.collect::<Vec<_>>());
    }
    if first == fake::ARGUMENT && std::env::var_os("HOTSHOE_FD").is_some() {
        return fake::run().map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS);
    }
    if first == ipc::ARGUMENT && std::env::var_os("HOTSHOE_FD").is_some() {
        ipc::plugin();
    }
    if first == compile::ARGUMENT {
        return compile::run(&arguments.collect::<Vec<_>>());
    }
    if first == ipc::ECHO {
        return ipc::echo().map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS);
    }
    hotshoe::cli::main()
}
