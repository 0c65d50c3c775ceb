//! The binary: reads the environment, runs the command line and exits with its code.

use std::process::ExitCode;

use aurora_swarm::{
    Environment,
    internals::{abort_job_on_panic, run_command_line},
};

fn main() -> ExitCode {
    abort_job_on_panic();
    ExitCode::from(run_command_line(Environment::of_this_process()))
}
