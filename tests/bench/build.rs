//! Tells the build where MPI is, as the product's own build script does: programs find their libmpi by themselves, and
//! ranks are started with the launcher of the MPI that was linked.

fn main() {
    for variable in ["MPICC", "MPI_PKG_CONFIG", "CRAY_MPICH_DIR", "AURORA_MPIEXEC"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    println!("cargo:rerun-if-changed=build.rs");
    let mpicc = std::env::var("MPICC").unwrap_or_else(|_| "mpicc".into());
    let launcher =
        std::env::var("AURORA_MPIEXEC").unwrap_or_else(|_| mpicc.replace("mpicc", "mpiexec"));
    println!("cargo:rustc-env=BUILD_MPIEXEC={launcher}");
    // A probe that fails has already failed in mpi-sys, with the better message.
    let Ok(library) = build_probe_mpi::probe() else { return };
    for folder in library.lib_paths {
        if !folder.starts_with("/usr/lib") && !folder.starts_with("/lib") {
            println!("cargo:rustc-link-arg=-Wl,-rpath,{}", folder.display());
        }
    }
}
