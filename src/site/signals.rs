//! Termination signals: the only place that knows how they are caught.
//!
//! Owns the thread that waits for them. Without a listener a signal has its default effect; with one, the listener is
//! called instead. What a job does when it is asked to stop is decided in `job/dispatch`.

use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use signal_hook::{
    consts::{SIGINT, SIGTERM, SIGUSR1},
    iterator,
    low_level::emulate_default_handler,
};

/// Urgency of a requested shutdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ShutdownRequest {
    /// SIGTERM or SIGINT: stop within seconds.
    Now,
    /// SIGUSR1: stop soon, so there is time to drain.
    Soon,
}

type SignalListener = Box<dyn FnMut(ShutdownRequest) + Send>;

/// Handle to the thread that receives termination signals. Clones share the listener.
#[derive(Clone)]
pub(crate) struct SignalHandler(Arc<Mutex<Option<SignalListener>>>);

impl SignalHandler {
    /// Starts to catch the signals, for as long as the process lives.
    ///
    /// # Errors
    /// Fails if the handlers or the thread cannot be set up.
    pub(crate) fn install_handler() -> std::io::Result<Self> {
        let mut signals = iterator::Signals::new([SIGTERM, SIGINT, SIGUSR1])?;
        let handler = Self(Arc::default());
        let listener = Arc::clone(&handler.0);
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            // A thread and not a signal handler, so that the listener may lock and allocate.
            for signal in signals.forever() {
                let request =
                    if signal == SIGUSR1 { ShutdownRequest::Soon } else { ShutdownRequest::Now };
                match listener.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
                    Some(listener) => listener(request),
                    None => drop(emulate_default_handler(signal)), // ends the process
                }
            }
        })?;
        Ok(handler)
    }

    /// Sets the listener that is called for each signal; `None` restores the default effect.
    pub(crate) fn set_listener(&self, listener: Option<SignalListener>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = listener;
    }
}
