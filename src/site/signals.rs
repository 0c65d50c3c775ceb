//! Signals that ask this process to end: the only place that knows how they are caught.
//!
//! Owns the thread that waits for them. While nobody listens they do what they always do; whoever listens is told instead.

use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use signal_hook::{
    consts::{SIGINT, SIGTERM, SIGUSR1},
    iterator,
    low_level::emulate_default_handler,
};

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ShutdownRequest {
    /// SIGTERM or SIGINT: end within seconds.
    Now,
    /// SIGUSR1: end soon.
    Soon,
}

type SignalListener = Box<dyn FnMut(ShutdownRequest) + Send>;

/// Signals, caught.
#[derive(Clone)]
pub struct SignalHandler(Arc<Mutex<Option<SignalListener>>>);

impl SignalHandler {
    /// Catches them from now on, for as long as the process lives.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn install_handler() -> std::io::Result<Self> {
        let mut signals = iterator::Signals::new([SIGTERM, SIGINT, SIGUSR1])?;
        let caught = Self(Arc::default());
        let listener = Arc::clone(&caught.0);
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            for signal in signals.forever() {
                let ask =
                    if signal == SIGUSR1 { ShutdownRequest::Soon } else { ShutdownRequest::Now };
                match listener.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
                    Some(listener) => listener(ask),
                    None => drop(emulate_default_handler(signal)), // it ends the process
                }
            }
        })?;
        Ok(caught)
    }

    /// Whoever is told from now on, if anybody.
    pub fn tell(&self, listener: Option<SignalListener>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = listener;
    }
}
