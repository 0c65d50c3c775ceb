//! Response bodies: whole, streamed, or cut off on purpose.
//!
//! It owns the bytes on their way out and the guards that must live as long as they do: a client
//! that goes drops the body, and with it the sequences behind it.

use crate::endpoint::Endpoint;
use crate::pace::{Progress, Ticking};
use crate::seen::Tally;
use crate::wire::chunks::Chunks;
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::mpsc;
use tokio::time::{Duration, Sleep, sleep};

/// Why a body stops in its middle.
#[derive(Debug)]
pub struct CutOff;

impl std::fmt::Display for CutOff {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the body was cut off as the script says")
    }
}

impl std::error::Error for CutOff {}

impl From<Infallible> for CutOff {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

/// The body of a response.
pub struct Reply {
    kind: Kind,
    /// Kept until the last byte is out; says that the connection is not idle.
    _busy: Option<Box<dyn Send + Sync>>,
}

enum Kind {
    Whole(Option<Bytes>),
    Cut { part: Option<Bytes>, claimed: u64, wait: Pin<Box<Sleep>> },
    Stream(Box<Streaming>),
}

impl Reply {
    /// These bytes.
    #[must_use]
    pub fn whole(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self { kind: Kind::Whole((!bytes.is_empty()).then_some(bytes)), _busy: None }
    }

    /// The first half of these bytes under the length of all of them.
    #[must_use]
    pub fn cut(bytes: &Bytes) -> Self {
        let part = bytes.slice(..bytes.len() / 2);
        // The half has to be on its way before the connection is torn down.
        let wait = Box::pin(sleep(Duration::from_millis(20)));
        let claimed = bytes.len() as u64;
        Self { kind: Kind::Cut { part: Some(part), claimed, wait }, _busy: None }
    }

    /// A stream.
    #[must_use]
    pub fn stream(streaming: Streaming) -> Self {
        Self { kind: Kind::Stream(Box::new(streaming)), _busy: None }
    }

    /// Keeps something alive until the body is out.
    #[must_use]
    pub fn holding(self, guard: Box<dyn Send + Sync>) -> Self {
        Self { _busy: Some(guard), ..self }
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = CutOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutOff>>> {
        match &mut self.kind {
            Kind::Whole(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Kind::Cut { part, wait, .. } => match part.take() {
                Some(part) => Poll::Ready(Some(Ok(Frame::data(part)))),
                None => wait.as_mut().poll(context).map(|()| Some(Err(CutOff))),
            },
            Kind::Stream(stream) => stream.poll(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.kind, Kind::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Kind::Cut { claimed, .. } => SizeHint::with_exact(*claimed),
            Kind::Stream(_) => SizeHint::default(),
        }
    }
}

/// How a stream is to go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamFault {
    /// An error under status 200, after the first piece.
    Error,
    /// The connection ends in the middle.
    Cut,
}

/// A stream of chunks that follows the engine.
pub struct Streaming {
    endpoint: Arc<Endpoint>,
    chunks: Chunks,
    progress: mpsc::UnboundedReceiver<Progress>,
    ready: VecDeque<Bytes>,
    fault: Option<StreamFault>,
    ticking: Option<Ticking>,
    prompts: u64,
    hashes: Vec<u64>,
    ended: bool,
    cut: Option<Pin<Box<Sleep>>>,
}

impl Streaming {
    /// A stream that has sent nothing; `hashes` are its prompts', for the counts.
    #[must_use]
    pub fn new(
        endpoint: Arc<Endpoint>,
        chunks: Chunks,
        progress: mpsc::UnboundedReceiver<Progress>,
        ticking: Option<Ticking>,
        fault: Option<StreamFault>,
        hashes: Vec<u64>,
    ) -> Self {
        let opening = chunks.opening();
        let ready = if opening.is_empty() { None } else { Some(Bytes::from(opening)) };
        let prompts = hashes.len() as u64;
        Self {
            endpoint,
            chunks,
            progress,
            ready: ready.into_iter().collect(),
            fault,
            ticking,
            prompts,
            hashes,
            ended: false,
            cut: None,
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, CutOff>>> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            if let Some(wait) = &mut self.cut {
                return wait.as_mut().poll(context).map(|()| Some(Err(CutOff)));
            }
            if self.ended {
                return Poll::Ready(None);
            }
            match self.progress.poll_recv(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(progress)) => self.take(progress),
                Poll::Ready(None) => self.ended = true,
            }
        }
    }

    fn take(&mut self, progress: Progress) {
        let bytes = match progress {
            Progress::Tokens(index, tokens) => self.chunks.up_to(index, tokens),
            Progress::Finished(index) => self.chunks.rest(index),
            Progress::Broken => return self.break_off(),
        };
        match self.fault {
            Some(StreamFault::Error) => return self.break_off(),
            Some(StreamFault::Cut) => {
                self.ready.push_back(bytes.into());
                self.cut = Some(Box::pin(sleep(Duration::from_millis(20))));
                return;
            }
            None if !bytes.is_empty() => self.ready.push_back(bytes.into()),
            None => {}
        }
        if self.chunks.is_done() {
            self.finish();
        }
    }

    fn break_off(&mut self) {
        self.ready.push_back(Chunks::broken().into());
        self.endpoint.tally.reason("error", self.prompts);
        self.ended = true;
    }

    fn finish(&mut self) {
        self.ready.push_back(self.chunks.closing().into());
        self.ended = true;
        if let Some(ticking) = &mut self.ticking {
            ticking.ended();
        }
        let (work, answers) = self.chunks.parts();
        for answer in answers {
            self.endpoint.tally.reason(answer.finish.reason(), 1);
        }
        let prompt = work.prompts.iter().map(Vec::len).sum();
        let completion = answers.iter().map(|a| a.token_ids.len()).sum();
        let route = crate::routes::generate::route_of(work.shape);
        self.endpoint.served(route, self.hashes.drain(..), (prompt, completion));
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        if !self.ended {
            Tally::add(&self.endpoint.tally.aborted, self.prompts);
            self.endpoint.tally.reason("abort", self.prompts);
        }
        self.endpoint.tally.end(self.prompts);
    }
}
