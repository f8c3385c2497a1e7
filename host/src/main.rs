//! The `hotshoe` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Before there is a second thread: a guard forks.
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == hotshoe::blender::guard::COMMAND) {
        let command: Vec<_> = arguments.skip_while(|argument| argument == "--").collect();
        hotshoe::blender::guard::run(&command);
    }
    hotshoe::cli::main()
}
