//! The program as its users meet it: real processes, real ranks, simulated servers. One binary, a module a concern.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    unreachable_pub,
    reason = "tests"
)]

mod support;

mod aggregate;
mod architecture;
mod bench;
mod changed;
mod check;
mod collectives;
mod disk;
mod docs;
mod endings;
mod engine;
mod flaws;
mod folders;
mod images;
mod local;
mod look;
mod models;
mod oddities;
mod outputs;
mod ranks;
mod reduce;
mod report;
mod rows;
mod run;
mod scan;
mod serve;
mod servers;
mod snapshots;
mod structure;
mod swarm;
mod time;
mod validation;
mod whole;
