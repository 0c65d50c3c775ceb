//! Parse, dispatch, exit; nothing else.

use std::process::ExitCode;

use aurora_swarm::{cli, comm, settings::Environment};

fn main() -> ExitCode {
    comm::abort_job_on_panic();
    ExitCode::from(cli::run(Environment::of_this_process()))
}
