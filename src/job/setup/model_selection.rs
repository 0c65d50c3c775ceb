//! Which model, which route and which endpoints: chosen on rank 0 from what all ranks have found.
//!
//! Owns that choice and the sentences about why it cannot be made. Asks nobody: what endpoints say was found before.

use tracing::{info, warn};

use super::{chat_template, run_plan::ModelSelection};
use crate::job::JobError;
use crate::{
    console,
    domain::{EndpointStatus, ProbeResult, Route, ServerInfo},
    input::InputSource,
    settings::{ApiMode, Settings},
};

/// What is known of the run.
pub(crate) struct SelectionInputs<'r> {
    pub(crate) source: &'r InputSource,
    /// A model that all rows name.
    pub(crate) row_model: Option<&'r str>,
    /// The model of answers that are there.
    pub(crate) previous_model: Option<&'r str>,
    /// The route that texts took so far: all starts of a run ask alike.
    pub(crate) previous_api: Option<&'r str>,
}

/// `None` where too few are ready, which is said.
pub(crate) fn select_model_and_route(
    settings: &Settings,
    known: &SelectionInputs<'_>,
    found: &[Vec<EndpointStatus>],
) -> Result<Option<ModelSelection>, JobError> {
    let all: Vec<&EndpointStatus> = found.iter().flatten().collect();
    let ready: Vec<&ServerInfo> = all.iter().filter_map(|it| ready_server_info(it)).collect();
    let least = settings.min_endpoints.of(all.len() as u64);
    if ready.is_empty() || (ready.len() as u64) < least {
        console::print_unready_endpoints(&all, least);
        return Ok(None);
    }
    let wanted = settings.model.as_deref().or(known.row_model);
    let model = resolve_model(wanted, &ready).map_err(JobError::Model)?;
    let changed = known.previous_model.filter(|before| *before != model);
    if let Some(before) = changed {
        if !settings.accept_changes {
            return Err(JobError::PreconditionFailed(format!(
                "this run's answers are of the model {before}, and {model} is to be asked now: serve {before} again, go on \
                 with --accept-changes (answers that are there stay), or begin anew with --overwrite"
            )));
        }
        info!("accepted: the model was {before} and is {model}; answers that are there stay");
    }
    // Another model may have no chat template: the route is found anew.
    let api = known.previous_api.filter(|_| changed.is_none());
    let serving: Vec<&ServerInfo> =
        ready.iter().copied().filter(|it| serves_model(it, &model)).collect();
    let text_route = match settings.api {
        ApiMode::Completions => Route::Completions,
        ApiMode::Chat => Route::Chat,
        ApiMode::Auto if api == Some("chat") => Route::Chat,
        ApiMode::Auto if api == Some("completions") => Route::Completions,
        ApiMode::Auto if serving.iter().all(|it| it.chat_template) => Route::Chat,
        ApiMode::Auto => Route::Completions,
    };
    if text_route == Route::Completions && settings.system.is_some() && known.source.any_text {
        return Err(JobError::PreconditionFailed(
                "--system is the first message of conversations, and these prompts go out as raw texts: use --api chat, \
                 or put it into --template"
                    .into(),
            ));
    }
    let chat_template = if text_route == Route::Chat || known.source.any_messages {
        chat_template::load_chat_template(settings, &serving, &model)?
    } else {
        None
    };
    let context = settings.max_context.or_else(|| min_context_len(&serving, &model));
    let weight = |urls: &Vec<EndpointStatus>| {
        urls.iter()
            .filter(|it| ready_server_info(it).is_some_and(|facts| serves_model(facts, &model)))
            .count() as u64
    };
    let weights: Vec<u64> = found.iter().map(weight).collect();
    let endpoints = found.iter().map(|urls| urls.len() as u64).collect();
    let choice = ModelSelection {
        model,
        text_route,
        context_len: context,
        chat_template,
        ready_counts: weights,
        endpoint_counts: endpoints,
    };
    info!(
        api = choice.api_name(),
        model = choice.model,
        context = context.map_or("unknown".into(), |it: u64| it.to_string()),
        endpoints = serving.len(),
        ranks = found.len(),
        prompts = known.source.rows,
        "the work begins"
    );
    Ok(Some(choice))
}

fn ready_server_info(surveyed: &EndpointStatus) -> Option<&ServerInfo> {
    match &surveyed.probe {
        ProbeResult::Ready(facts) => Some(facts),
        ProbeResult::NotReady(_) => None,
    }
}

fn serves_model(facts: &ServerInfo, model: &str) -> bool {
    facts.models.iter().any(|it| it.id == model)
}

fn resolve_model(wanted: Option<&str>, ready: &[&ServerInfo]) -> Result<String, String> {
    let mut served: Vec<&str> =
        ready.iter().flat_map(|facts| facts.models.iter().map(|model| model.id.as_str())).collect();
    served.sort_unstable();
    served.dedup();
    match (wanted, served.as_slice()) {
        (Some(model), served) if served.contains(&model) => Ok(model.to_owned()),
        (Some(model), served) => Err(format!(
            "the model {model:?} is not served; the endpoints serve: {}",
            served.join(", ")
        )),
        (None, [only]) => Ok((*only).to_owned()),
        (None, several) => Err(format!(
            "the endpoints serve several models ({}): name one with --model",
            several.join(", ")
        )),
    }
}

/// The shortest context of those that say; endpoints that differ are worth a warning.
fn min_context_len(serving: &[&ServerInfo], model: &str) -> Option<u64> {
    let models = serving.iter().flat_map(|facts| &facts.models).filter(|it| it.id == model);
    let lengths: Vec<u64> = models.filter_map(|it| it.max_model_len).collect();
    let (least, most) = (lengths.iter().min().copied(), lengths.iter().max().copied());
    if least != most {
        warn!(?least, ?most, "the endpoints have different context lengths: the shortest is used");
    }
    if least.is_none() {
        warn!(
            "no endpoint says how long its context is: answers are not fitted to it (--max-context)"
        );
    }
    least
}
