//! Check that this process was started by the launcher of the MPI it was built with. Pure: variables in, an error
//! text out.
//!
//! A binary of one MPI under another's `mpiexec` starts as N jobs of one rank, each of which takes itself for the
//! whole job: N ranks would answer every prompt N times and write the same file. Launchers put the job's size and the
//! process's rank into the environment, and MPI's own values have to agree with them.

/// The job's size as the launcher's environment variables state it. A field is `None` where no variable does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LauncherInfo {
    /// The number of ranks started, and the variable that says so.
    rank_count: Option<(usize, &'static str)>,
    /// A lower bound of the number of ranks, and the variable it follows from.
    min_rank_count: Option<(usize, &'static str)>,
    /// Open MPI's launcher set its variables.
    open_mpi: bool,
}

/// Variables that hold the number of ranks.
const SIZE_VARIABLES: [&str; 2] = ["PMI_SIZE", "OMPI_COMM_WORLD_SIZE"];
/// Variables that hold this process's rank, which is below the number of ranks.
const RANK_VARIABLES: [&str; 4] = ["PMI_RANK", "OMPI_COMM_WORLD_RANK", "PALS_RANKID", "PMIX_RANK"];
/// The number of ranks on this node (PALS), a lower bound of the job's.
const LOCAL_SIZE_VARIABLE: &str = "PALS_LOCAL_SIZE";

impl LauncherInfo {
    /// Reads the variables through `lookup`. A value that is not a number is ignored.
    #[must_use]
    pub fn from_variables(lookup: impl Fn(&str) -> Option<String>) -> Self {
        let number = |name: &str| lookup(name)?.trim().parse::<usize>().ok();
        let size = SIZE_VARIABLES.iter().find_map(|&name| Some((number(name)?, name)));
        let ranks =
            RANK_VARIABLES.iter().filter_map(|&name| Some((number(name)?.checked_add(1)?, name)));
        let local = number(LOCAL_SIZE_VARIABLE).map(|size| (size, LOCAL_SIZE_VARIABLE));
        let min_rank_count = ranks.chain(local).max_by_key(|&(bound, _)| bound);
        Self {
            rank_count: size,
            min_rank_count,
            open_mpi: lookup("OMPI_COMM_WORLD_SIZE").is_some(),
        }
    }

    /// Returns true if a launcher started this process.
    #[must_use]
    pub fn is_present(&self) -> bool {
        self.rank_count.is_some() || self.min_rank_count.is_some()
    }

    /// Checks, before MPI starts, that the library can work under this launcher.
    ///
    /// # Errors
    /// Returns a sentence for the user if Open MPI's launcher started a program of another MPI: such a library ends the
    /// process during its start-up, with a message about its own internals.
    pub fn check_library(&self, library: &str) -> Result<(), String> {
        if !self.open_mpi || is_open_mpi(library) {
            return Ok(());
        }
        Err(mismatch_message(library, "the process was started by the launcher of Open MPI"))
    }

    /// Checks, after MPI has started, that its world is the job that was launched.
    ///
    /// # Errors
    /// Returns a sentence for the user if it is not.
    pub fn check_world_size(&self, world: usize, library: &str) -> Result<(), String> {
        let ranks = if world == 1 { "one rank" } else { "fewer ranks" };
        match (self.rank_count, self.min_rank_count) {
            (Some((size, name)), _) if size != world => Err(mismatch_message(
                library,
                &format!("the launcher started {size} ranks ({name}) but MPI sees {world}"),
            )),
            (None, Some((bound, name))) if bound > world => Err(mismatch_message(
                library,
                &format!(
                    "the launcher started at least {bound} ranks ({name}) but MPI sees {ranks}"
                ),
            )),
            _ => Ok(()),
        }
    }
}

fn is_open_mpi(library: &str) -> bool {
    library.contains("Open MPI")
}

fn mismatch_message(library: &str, what: &str) -> String {
    format!(
        "this mpiexec does not belong to the MPI that aurora-swarm was built with ({library}): {what}\n\
         hint: use the mpiexec of that MPI, or rebuild aurora-swarm with the MPI whose mpiexec you use \
         (scripts/setup.sh, then cargo build)"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launcher_info(variables: &[(&str, &str)]) -> LauncherInfo {
        LauncherInfo::from_variables(|name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn without_launcher_variables_nothing_is_rejected() {
        assert!(!launcher_info(&[]).is_present());
        assert_eq!(launcher_info(&[]).check_world_size(1, "MPICH 4.3.2"), Ok(()));
    }

    #[test]
    fn singletons_under_a_foreign_launcher_are_rejected() {
        let hydra = launcher_info(&[("PMI_SIZE", "4"), ("PMI_RANK", "0")]);
        assert!(
            hydra.check_world_size(1, "Open MPI v5.0.11").is_err_and(|it| it.contains("4 ranks"))
        );
        assert_eq!(hydra.check_world_size(4, "MPICH 4.3.2"), Ok(()));
        let pals = launcher_info(&[("PALS_RANKID", "7"), ("PALS_LOCAL_SIZE", "4")]);
        assert!(pals.check_world_size(1, "MPICH").is_err_and(|it| it.contains("PALS_RANKID")));
        assert_eq!(pals.check_world_size(8, "MPICH"), Ok(()));
    }

    #[test]
    fn an_mpich_program_under_open_mpi_is_rejected_before_mpi_starts() {
        let orte = launcher_info(&[("OMPI_COMM_WORLD_SIZE", "2"), ("OMPI_COMM_WORLD_RANK", "0")]);
        assert!(orte.check_library("MPICH Version: 4.3.2").is_err());
        assert_eq!(orte.check_library("Open MPI v5.0.11"), Ok(()));
    }

    #[test]
    fn variables_that_are_not_numbers_are_ignored() {
        assert!(!launcher_info(&[("PMI_SIZE", "many"), ("PMIX_RANK", "")]).is_present());
    }
}
