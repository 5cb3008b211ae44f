//! One binary: the agent, its supervisors and network driver, and the client commands.

use std::process::ExitCode;

fn main() -> ExitCode {
    stampede::cli::main()
}
