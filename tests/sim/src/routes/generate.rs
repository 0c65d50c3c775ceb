//! The generating routes: completions, chat and batch chat.
//!
//! It owns the way of a request from its body to its answer: checks, faults, the engine, the
//! writing. What is wrong with a request and what an answer says are decided elsewhere.

use super::{Answered, Vanish, is_json, json, read, refused, typed};
use crate::answer::{Answer, Params, answer as say, prompt_hash};
use crate::body::{Reply, StreamFault, Streaming};
use crate::cache::PrefixCache;
use crate::endpoint::{Endpoint, Phase, now};
use crate::oddity::{Bent, bend_reply, bend_request};
use crate::pace::{Listener, Order, Outcome, Progress, Ticking};
use crate::script::Fault;
use crate::seen::Tally;
use crate::wire::answers::{self, Letterhead};
use crate::wire::chunks::Chunks;
use crate::wire::fields::Shape;
use crate::wire::plan::{Work, plan};
use crate::wire::refusal::{ENGINE_DEAD, Refusal, SHUTTING_DOWN};
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::{HeaderMap, Request, Response};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, sleep_until};

/// The name of a shape's route in the counts.
#[must_use]
pub fn route_of(shape: Shape) -> &'static str {
    match shape {
        Shape::Completion => "/v1/completions",
        Shape::Chat => "/v1/chat/completions",
        Shape::ChatBatch => "/v1/chat/completions/batch",
    }
}

/// Answers a request on one of these routes.
pub async fn answer(
    endpoint: &Arc<Endpoint>,
    shape: Shape,
    request: Request<Incoming>,
) -> Answered {
    endpoint.tally.arrive();
    if !is_json(&request) {
        return Ok(refused(&Refusal::media_type()));
    }
    let (parts, body) = request.into_parts();
    let body = read(body).await?;
    let fault = endpoint.next_fault(&body);
    if let Some(response) = before_work(endpoint, fault.as_ref()).await? {
        return Ok(response);
    }
    let bent = match bend_request(&endpoint.profile.oddities, shape, &body) {
        Bent::On(bent) => bent,
        Bent::Refused(refusal) => return Ok(refused(&refusal)),
        Bent::Cut => return Err(Vanish),
    };
    match plan(shape, &endpoint.profile, bent.as_deref().unwrap_or(&body)) {
        Ok(work) => {
            let id = answer_id(endpoint, &work, &parts.headers);
            let asked = if bent.is_some() { body } else { Bytes::new() };
            if let Some(Fault::GatewayTimeout(limit)) = fault {
                let answer = generate(endpoint, work, &id, None, &asked);
                let answer = tokio::time::timeout(Duration::from_millis(limit), answer).await;
                let refusal = Refusal::new(504, "GatewayTimeout", "Gateway Time-out", None);
                return answer.unwrap_or_else(|_| Ok(refused(&refusal)));
            }
            generate(endpoint, work, &id, fault, &asked).await
        }
        Err(refusal) => Ok(refused(&refusal)),
    }
}

/// What needs no look at the request.
async fn before_work(
    endpoint: &Endpoint,
    fault: Option<&Fault>,
) -> Result<Option<Response<Reply>>, Vanish> {
    endpoint.die_if_due();
    match endpoint.phase() {
        Phase::Draining | Phase::Hanging => {
            return Ok(Some(refused(&Refusal::internal(SHUTTING_DOWN))));
        }
        Phase::Dying => return Ok(Some(refused(&Refusal::internal(ENGINE_DEAD)))),
        Phase::Gone => return Err(Vanish),
        Phase::Loading | Phase::Serving => {}
    }
    match fault {
        Some(Fault::Status(503)) => Ok(Some(refused(&Refusal::busy()))),
        Some(Fault::Status(status)) => {
            let message = "Internal server error";
            Ok(Some(refused(&Refusal::new(*status, "InternalServerError", message, None))))
        }
        Some(Fault::Hang) => std::future::pending().await,
        Some(Fault::Eof) => Err(Vanish),
        Some(Fault::ErrorUnder200) => {
            let refusal = Refusal::internal("The answer could not be made.");
            Ok(Some(json(200, refusal.body)))
        }
        Some(Fault::EngineDeath) => {
            endpoint.kill_engine();
            Ok(Some(refused(&Refusal::internal(ENGINE_DEAD))))
        }
        Some(Fault::Stall) => {
            endpoint.pace.stall();
            std::future::pending().await
        }
        _ => Ok(None),
    }
}

fn answer_id(endpoint: &Endpoint, work: &Work, headers: &HeaderMap) -> String {
    let kind = if work.shape == Shape::Completion { "cmpl" } else { "chatcmpl" };
    let header = headers.get("x-request-id").and_then(|h| h.to_str().ok());
    match header.or(work.request_id.as_deref()) {
        Some(wanted) => format!("{kind}-{wanted}"),
        None => format!("{kind}-{}", endpoint.answer_id()),
    }
}

/// Counts a request's prompts as under way until it is dropped.
struct Presence<'e> {
    endpoint: &'e Endpoint,
    prompts: u64,
    answered: bool,
}

impl<'e> Presence<'e> {
    fn of(endpoint: &'e Endpoint, prompts: u64) -> Self {
        endpoint.tally.begin(prompts);
        Self { endpoint, prompts, answered: false }
    }
}

impl Drop for Presence<'_> {
    fn drop(&mut self) {
        if !self.answered {
            Tally::add(&self.endpoint.tally.aborted, self.prompts);
            self.endpoint.tally.reason("abort", self.prompts);
        }
        self.endpoint.tally.end(self.prompts);
    }
}

async fn generate(
    endpoint: &Arc<Endpoint>,
    work: Work,
    id: &str,
    fault: Option<Fault>,
    asked: &[u8],
) -> Answered {
    let answers = answers_to(endpoint, &work);
    let streams = work.stream.is_some() && work.shape != Shape::ChatBatch;
    if streams {
        return stream(endpoint, work, answers, id, fault).await;
    }
    let mut presence = Presence::of(endpoint, work.prompts.len() as u64);
    let (listener, done) = Listener::whole(answers.len());
    let ended = match enter(endpoint, &work, &answers, &listener).await {
        Ok(ticking) => wait(ticking, done).await,
        Err(refusal) => Err(refusal),
    };
    presence.answered = true;
    if let Err(refusal) = ended {
        endpoint.tally.reason("error", u64::from(refusal.status == 500) * presence.prompts);
        return Ok(refused(&refusal));
    }
    if fault == Some(Fault::StreamError) {
        return Ok(refused(&Refusal::internal(ENGINE_DEAD)));
    }
    if let Some(Fault::SlowFirstByte(late)) = fault {
        sleep(Duration::from_millis(late)).await;
    }
    let written = answers::write(&work, &answers, &letterhead(endpoint, id), fault.as_ref());
    let bytes = Bytes::from(bend_reply(&endpoint.profile.oddities, asked, written));
    if fault == Some(Fault::CutBody) {
        return Ok(typed(200, "application/json", Reply::cut(&bytes)));
    }
    count(endpoint, &work, &answers);
    Ok(json(200, bytes))
}

fn letterhead<'a>(endpoint: &'a Endpoint, id: &'a str) -> Letterhead<'a> {
    let (profile, fingerprint) = (&endpoint.profile, endpoint.fingerprint.as_str());
    Letterhead { id, created: now(), profile, fingerprint }
}

fn answers_to(endpoint: &Endpoint, work: &Work) -> Vec<Answer> {
    let policy = &endpoint.profile.policy;
    let mut answers = Vec::with_capacity(work.prompts.len() * work.n);
    for prompt in &work.prompts {
        if work.n == 1 {
            answers.push(say(policy, prompt, &work.params));
            continue;
        }
        for sample in 0..work.n as u32 {
            let params = Params { sample, ..work.params.clone() };
            answers.push(say(policy, prompt, &params));
        }
    }
    answers
}

/// Hands the sequences to the engine, all of them or none.
async fn enter(
    endpoint: &Endpoint,
    work: &Work,
    answers: &[Answer],
    listener: &Listener,
) -> Result<Option<Ticking>, Refusal> {
    let profile = &endpoint.profile;
    let api = Duration::from_nanos((profile.cost.api_us(work.prompts.len()) * 1e3) as u64);
    if profile.instant {
        if !api.is_zero() {
            sleep_until(endpoint.pace.api_only(api)).await;
        }
        return Ok(None);
    }
    let orders: Vec<Order> = answers
        .iter()
        .enumerate()
        .map(|(at, answer)| {
            let prompt = &work.prompts[at / work.n];
            let block = if profile.cache_blocks == 0 { 0 } else { profile.block_size };
            let chain = PrefixCache::salted(block, prompt, work.cache_salt.as_deref());
            (prompt.len(), chain, answer.token_ids.len())
        })
        .collect();
    let ticking = endpoint.pace.submit(orders, listener, api, profile.max_queued);
    ticking.map(Some).ok_or_else(|| {
        Tally::add(&endpoint.tally.rejected, 1);
        Refusal::busy()
    })
}

async fn wait(ticking: Option<Ticking>, done: oneshot::Receiver<Outcome>) -> Result<(), Refusal> {
    let Some(mut ticking) = ticking else { return Ok(()) };
    let outcome = done.await;
    ticking.ended();
    match outcome {
        Ok(Outcome::Done) => Ok(()),
        Ok(Outcome::EngineDead) | Err(_) => Err(Refusal::internal(ENGINE_DEAD)),
    }
}

fn count(endpoint: &Endpoint, work: &Work, answers: &[Answer]) {
    for answer in answers {
        endpoint.tally.reason(answer.finish.reason(), 1);
    }
    let prompt = work.prompts.iter().map(Vec::len).sum();
    let completion = answers.iter().map(|a| a.token_ids.len()).sum();
    let hashes = work.prompts.iter().map(|prompt| prompt_hash(prompt));
    endpoint.served(route_of(work.shape), hashes, (prompt, completion));
}

async fn stream(
    endpoint: &Arc<Endpoint>,
    work: Work,
    answers: Vec<Answer>,
    id: &str,
    fault: Option<Fault>,
) -> Answered {
    let (listener, progress) = Listener::stream();
    let ticking = match enter(endpoint, &work, &answers, &listener).await {
        Ok(ticking) => ticking,
        Err(refusal) => return Ok(refused(&refusal)),
    };
    let count = answers.len();
    let hashes: Vec<u64> = work.prompts.iter().map(|prompt| prompt_hash(prompt)).collect();
    endpoint.tally.begin(hashes.len() as u64);
    let chunks = Chunks::new(work, answers, &letterhead(endpoint, id));
    let progress = if ticking.is_some() { progress } else { at_once(count) };
    let broken = match fault {
        Some(Fault::StreamError) => Some(StreamFault::Error),
        Some(Fault::CutBody) => Some(StreamFault::Cut),
        _ => None,
    };
    let streaming = Streaming::new(Arc::clone(endpoint), chunks, progress, ticking, broken, hashes);
    if let Some(Fault::SlowFirstByte(late)) = fault {
        sleep(Duration::from_millis(late)).await;
    }
    Ok(typed(200, "text/event-stream; charset=utf-8", Reply::stream(streaming)))
}

/// The progress of a stream that does not wait for the engine.
fn at_once(count: usize) -> mpsc::UnboundedReceiver<Progress> {
    let (sender, receiver) = mpsc::unbounded_channel();
    for index in 0..count {
        // The receiver is right here.
        let _ = sender.send(Progress::Finished(index));
    }
    receiver
}
