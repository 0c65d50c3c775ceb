//! A build without plots: says so.

use crate::bench::SweepReport;

/// There are none.
///
/// # Errors
/// Always.
pub fn sweep_plots(_: &SweepReport) -> Result<Vec<(&'static str, Vec<u8>)>, String> {
    Err("the program was built without the feature `plot`".into())
}
