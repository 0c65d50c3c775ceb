//! `bench`: measures servers with the engine that `run` uses.
//!
//! Commands are `sweep.rs`, `compare.rs` and `models.rs`; `measure.rs` has the set-up they share and the measurement:
//! all ranks start together, each sends to its own endpoints, rank 0 merges. Nothing is written except the report
//! (`output_files.rs`). Unlike in a run, ranks meet in collectives between measurements, since each of these ends in
//! bounded time. Statistics and reports are values in [`crate::bench`], tables are printed in `console/bench.rs`.

mod cancel;
mod compare;
mod engine_session;
mod measure;
mod models;
mod output_files;
mod prompt_source;
mod sweep;

pub(crate) use compare::bench_compare;
pub(crate) use measure::BenchOptions;
pub(crate) use models::bench_models;
pub(crate) use sweep::bench_sweep;
