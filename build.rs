//! Tells the build where MPI is, so that the binary finds its libmpi by itself (MPI's own compiler wrapper would add the
//! same rpath), and tests start ranks with the launcher of the MPI that was linked. The benchmarks are built with it too.
#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    reason = "a build script speaks to cargo, and cargo to it, this way"
)]

fn main() {
    for variable in ["MPICC", "MPI_PKG_CONFIG", "CRAY_MPICH_DIR", "AURORA_MPIEXEC"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    let mpicc = std::env::var("MPICC").unwrap_or_else(|_| "mpicc".into());
    let launcher =
        std::env::var("AURORA_MPIEXEC").unwrap_or_else(|_| mpicc.replace("mpicc", "mpiexec"));
    println!("cargo:rustc-env=BUILD_MPIEXEC={launcher}");
    #[cfg(feature = "mpi")]
    rpath();
}

#[cfg(feature = "mpi")]
fn rpath() {
    // A probe that fails has already failed in mpi-sys, with the better message.
    let Ok(library) = build_probe_mpi::probe() else { return };
    for dir in library.lib_paths {
        if !dir.starts_with("/usr/lib") && !dir.starts_with("/lib") {
            println!("cargo:rustc-link-arg=-Wl,-rpath,{}", dir.display());
        }
    }
}
