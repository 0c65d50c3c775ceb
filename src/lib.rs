//! `aurora-swarm` answers a large set of prompts with the vLLM servers of an HPC job.
//!
//! # The line
//!
//! ```text
//! input file → prompts → ledger ⇒ leases ⇒ batches → endpoint → outcomes → shard file ⇒ gather → answers.jsonl
//!                       (rank 0)    MPI      (every rank, its own node)               MPI   ⇒ reduce → report
//! ```
//!
//! # The layers
//!
//! One way only; a test reads the `use` lines.
//!
//! ```text
//! {cli, swarm} → job → {engine → endpoint, comm, ledger, reduce → input, chat_template, shards, aggregate, serve,
//!              report → {bench, metrics, output}, site} → settings → domain
//! ```
//!
//! Two worlds: MPI is synchronous and lives on the main thread ([`comm`]), HTTP is asynchronous and lives in a tokio
//! runtime ([`engine`], [`endpoint`]). They meet in [`job`]: `engine` never sees `comm`, `comm` never sees `endpoint`.
//!
//! # For other programs
//!
//! [`swarm`] is the library's face: what the commands do, as calls. The other modules are public for it and for tests.
//!
//! # The owners
//!
//! | what | who |
//! |---|---|
//! | mpi | `comm/mpi.rs` |
//! | bincode | `comm/codec.rs` |
//! | reqwest | `endpoint/http.rs` |
//! | tasks and the runtime | `engine` |
//! | the environment | `settings/environment.rs` |
//! | stdout and stderr | `report` |
//! | clap | `cli` |
//! | chat templates | `chat_template` |
//! | Parquet and Arrow | `parquet` |
//! | shard files | `shards` |
//! | what answers come to together | `aggregate` |
//! | what answers measure | `metrics` |
//! | servers' processes | `serve` |
//! | figures out of measurements | `bench` |
//! | plots | `report/plot.rs` |
//! | the gathered file, the manifest, the heartbeat | `output` |

pub mod chat_template;
pub mod cli;
pub mod report;

pub mod swarm;

pub mod job;

pub mod ledger;

pub mod engine;

pub mod serve;

pub mod endpoint;

pub mod comm;

pub mod site;

pub mod aggregate;

pub mod metrics;

pub mod output;

pub mod parquet;

pub mod shards;

pub mod console;

pub mod bench;

pub mod reduce;

pub mod input;

pub mod settings;

pub mod domain;
