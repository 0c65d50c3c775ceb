//! Choice of this process's [`Comm`], and the exit that needs no orderly end.

use super::{Comm, CommError, LauncherInfo, SoloComm};

/// Collective, once per process. Starts MPI if a launcher started this process, and otherwise returns a communicator
/// of one rank.
///
/// A lone process does not start MPI: it has no peers, and some libraries take more than a second to find that out.
///
/// # Errors
/// Returns [`CommError::MpiStart`] if MPI does not start, and [`CommError::LauncherMismatch`] if it is not the MPI of
/// the launcher.
pub fn start_comm(launcher: &LauncherInfo) -> Result<Box<dyn Comm>, CommError> {
    if !launcher.is_present() {
        return Ok(Box::new(SoloComm::new()));
    }
    start_mpi(launcher)
}

#[cfg(feature = "mpi")]
fn start_mpi(launcher: &LauncherInfo) -> Result<Box<dyn Comm>, CommError> {
    Ok(Box::new(super::mpi::MpiComm::start_mpi(launcher)?))
}

#[cfg(not(feature = "mpi"))]
fn start_mpi(launcher: &LauncherInfo) -> Result<Box<dyn Comm>, CommError> {
    launcher
        .check_world_size(1, "no MPI (built without the feature `mpi`)")
        .map_err(CommError::LauncherMismatch)?;
    Ok(Box::new(SoloComm::new()))
}

/// Local. Ends all ranks if MPI is running, and otherwise this process.
#[expect(
    clippy::disallowed_methods,
    reason = "called by the panic hook, which cannot return to main"
)]
pub(super) fn abort_all_ranks(code: u8) -> ! {
    #[cfg(feature = "mpi")]
    super::mpi::abort_if_running(code);
    std::process::exit(i32::from(code))
}
