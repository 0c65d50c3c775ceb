//! A simulator of a vLLM server, for tests, rehearsals and benchmarks.
//!
//! It speaks HTTP and nothing else: it knows no type of the programs it is used against. Its
//! answers are a pure function of the prompt, its time is a cost model of continuous batching,
//! and its manners, the bad ones too, are those recorded from a real server.
//!
//! ```
//! use vllm_sim::{Profile, Simulator};
//!
//! let simulator = Simulator::start(Profile::instant())?;
//! assert!(simulator.url().starts_with("http://127.0.0.1:"));
//! assert_eq!(simulator.seen().requests, 0);
//! # Ok::<(), std::io::Error>(())
//! ```

pub mod answer;
pub mod body;
pub mod cache;
pub mod cost;
pub mod endpoint;
pub mod engine;
pub mod grammar;
pub mod metrics;
pub mod oddity;
pub mod pace;
pub mod profile;
pub mod routes;
pub mod script;
pub mod seen;
pub mod server;
pub mod simulator;
pub mod sync;
pub mod template;
pub mod tokens;
pub mod wire;

pub use answer::{Answer, AnswerPolicy, Finish, Lengths, Params, Structure, answer, prompt_hash};
pub use cost::CostModel;
pub use endpoint::{Endpoint, Phase};
pub use grammar::Constraint;
pub use oddity::Oddity;
pub use profile::{Death, Flavor, OnTerm, Profile};
pub use script::{Fault, Rule, Script};
pub use seen::Seen;
pub use simulator::{Fleet, Simulator};
pub use template::{Rendering, Turn, render};
pub use wire::images::image_text;
