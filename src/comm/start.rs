//! Which [`Comm`] this process gets, and the one door out that needs no orderly end.

use super::{Comm, CommError, LauncherInfo, SoloComm};

/// Collective, once in a process's life. MPI where a launcher started this process, else one rank without MPI.
///
/// A lone process does not start MPI: there would be nobody to talk to, and some libraries take more than a second to
/// find that out.
///
/// # Errors
/// Where MPI does not start, or is not the MPI of the launcher.
pub fn start(launcher: &LauncherInfo) -> Result<Box<dyn Comm>, CommError> {
    if !launcher.is_present() {
        return Ok(Box::new(SoloComm::new()));
    }
    start_mpi(launcher)
}

#[cfg(feature = "mpi")]
fn start_mpi(launcher: &LauncherInfo) -> Result<Box<dyn Comm>, CommError> {
    Ok(Box::new(super::mpi::MpiComm::start(launcher)?))
}

#[cfg(not(feature = "mpi"))]
fn start_mpi(launcher: &Launcher) -> Result<Box<dyn Comm>, CommError> {
    launcher.agrees_with(1, "no MPI (the mpi feature is off)").map_err(CommError::Launcher)?;
    Ok(Box::new(Solo::new()))
}

/// Local. Ends all ranks where there are any, else this process.
#[expect(
    clippy::disallowed_methods,
    reason = "called by the panic hook, which has no way back to main"
)]
pub(super) fn abort_all_ranks(code: u8) -> ! {
    #[cfg(feature = "mpi")]
    super::mpi::abort_if_running(code);
    std::process::exit(i32::from(code))
}
