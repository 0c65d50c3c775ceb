//! The selection of model, route and endpoints, made on rank 0 from the probe results of all ranks.
//!
//! Owns the selection and the messages about why it fails. Sends no requests itself: `readiness` has probed the endpoints
//! before. Load balancing between endpoints is in `dispatch::assignments` and in the engine's scheduler.

use tracing::{info, warn};

use super::{chat_template, run_plan::ModelSelection};
use crate::job::{JobError, PreconditionError};
use crate::{
    console,
    domain::{EndpointStatus, ProbeResult, Route, ServerInfo},
    input::InputSource,
    report::format::pluralize,
    settings::{ApiMode, Settings},
};

/// Facts about the run that restrict the selection.
pub(crate) struct SelectionInputs<'r> {
    pub(crate) source: &'r InputSource,
    /// Model that all rows name, if they agree on one.
    pub(crate) row_model: Option<&'r str>,
    /// Model of the existing answers.
    pub(crate) previous_model: Option<&'r str>,
    /// Route of texts in earlier sessions; all sessions of a run use the same one.
    pub(crate) previous_api: Option<&'r str>,
}

/// Selects model, route and chat template. Returns `None` if too few endpoints are ready, which is printed.
///
/// # Errors
/// The model is not served, differs from that of the existing answers, or the route does not fit the settings.
pub(crate) fn select_model_and_route(
    settings: &Settings,
    known: &SelectionInputs<'_>,
    found: &[Vec<EndpointStatus>],
) -> Result<Option<ModelSelection>, JobError> {
    let all: Vec<&EndpointStatus> = found.iter().flatten().collect();
    let ready: Vec<&ServerInfo> =
        all.iter().filter_map(|status| ready_server_info(status)).collect();
    let required = settings.min_endpoints.count_of(all.len() as u64);
    if ready.is_empty() || (ready.len() as u64) < required {
        console::print_unready_endpoints(&all, required);
        return Ok(None);
    }
    let requested = settings.model.as_deref().or(known.row_model);
    let model = resolve_model(requested, &ready).map_err(JobError::Model)?;
    let is_changed = check_model_change(settings, known.previous_model, &model)?;
    let serving: Vec<&ServerInfo> =
        ready.iter().copied().filter(|server| serves_model(server, &model)).collect();
    // Another model may have no chat template, so the route is selected again.
    let previous_api = known.previous_api.filter(|_| !is_changed);
    let text_route = select_text_route(settings.api, previous_api, &serving);
    let sends_texts =
        known.source.any_token_ids || (text_route == Route::Completions && known.source.any_text);
    if settings.system.is_some() && sends_texts {
        return Err(PreconditionError::SystemNeedsChat.into());
    }
    let chat_template = if text_route == Route::Chat || known.source.any_messages {
        chat_template::load_chat_template(settings, &serving, &model)?
    } else {
        None
    };
    let count_ready = |statuses: &Vec<EndpointStatus>| {
        let servers = statuses.iter().filter_map(ready_server_info);
        servers.filter(|server| serves_model(server, &model)).count() as u64
    };
    let ready_counts = found.iter().map(count_ready).collect();
    let selection = ModelSelection {
        text_route,
        context_len: settings.max_context.or_else(|| min_context_len(&serving, &model)),
        chat_template,
        ready_counts,
        endpoint_counts: found.iter().map(|statuses| statuses.len() as u64).collect(),
        model,
    };
    log_run_start(&selection, known.source.rows, serving.len(), found.len());
    Ok(Some(selection))
}

/// Returns whether the model differs from that of the existing answers, which `--accept-changes` must allow.
fn check_model_change(
    settings: &Settings,
    previous_model: Option<&str>,
    model: &str,
) -> Result<bool, JobError> {
    let Some(before) = previous_model.filter(|before| *before != model) else { return Ok(false) };
    if !settings.accept_changes {
        return Err(
            PreconditionError::ModelChanged { before: before.into(), model: model.into() }.into()
        );
    }
    info!(
        event = "model_change_accepted",
        "model change accepted: {before} to {model}; existing answers are kept"
    );
    Ok(true)
}

/// Returns the route of texts. `auto` keeps that of earlier sessions, else it uses chat if all servers have a template.
fn select_text_route(api: ApiMode, previous_api: Option<&str>, serving: &[&ServerInfo]) -> Route {
    match api {
        ApiMode::Completions => Route::Completions,
        ApiMode::Chat => Route::Chat,
        ApiMode::Auto if previous_api == Some("chat") => Route::Chat,
        ApiMode::Auto if previous_api == Some("completions") => Route::Completions,
        ApiMode::Auto if serving.iter().all(|server| server.chat_template) => Route::Chat,
        ApiMode::Auto => Route::Completions,
    }
}

fn log_run_start(selection: &ModelSelection, prompts: u64, servers: usize, ranks: usize) {
    let ModelSelection { model, context_len, .. } = selection;
    info!(
        event = "run_started",
        prompts,
        model,
        servers,
        ranks,
        api = selection.api_name(),
        context_tokens = context_len,
        "run started: {}, model {model}, {}, {}, {}, context {}",
        pluralize(prompts, "prompt"),
        pluralize(servers as u64, "server"),
        pluralize(ranks as u64, "rank"),
        selection.api_name(),
        context_len.map_or("unknown".into(), |tokens| tokens.to_string()),
    );
}

fn ready_server_info(status: &EndpointStatus) -> Option<&ServerInfo> {
    match &status.probe {
        ProbeResult::Ready(server) => Some(server),
        ProbeResult::NotReady(_) => None,
    }
}

fn serves_model(server: &ServerInfo, model: &str) -> bool {
    server.models.iter().any(|served| served.id == model)
}

fn resolve_model(requested: Option<&str>, ready: &[&ServerInfo]) -> Result<String, String> {
    let mut served: Vec<&str> = ready
        .iter()
        .flat_map(|server| server.models.iter().map(|model| model.id.as_str()))
        .collect();
    served.sort_unstable();
    served.dedup();
    match (requested, served.as_slice()) {
        (Some(model), served) if served.contains(&model) => Ok(model.to_owned()),
        (Some(model), served) => {
            Err(format!("model {model:?} is not served; served models: {}", served.join(", ")))
        }
        (None, [only]) => Ok((*only).to_owned()),
        (None, several) => Err(format!(
            "several models are served: {}\nhint: choose one with --model",
            several.join(", ")
        )),
    }
}

/// Returns the shortest context length that any endpoint reports for the model, in tokens.
fn min_context_len(serving: &[&ServerInfo], model: &str) -> Option<u64> {
    let models =
        serving.iter().flat_map(|server| &server.models).filter(|served| served.id == model);
    let lengths: Vec<u64> = models.filter_map(|served| served.max_model_len).collect();
    let (shortest, longest) = (lengths.iter().min().copied(), lengths.iter().max().copied());
    if let (Some(shortest), Some(longest)) = (shortest, longest)
        && shortest != longest
    {
        warn!(
            event = "context_lengths_differ",
            shortest,
            longest,
            "context lengths differ between servers, from {shortest} to {longest} tokens: the shortest is used"
        );
    }
    if shortest.is_none() {
        warn!(
            event = "context_length_unknown",
            "context length unknown: max_tokens not adjusted (--max-context N)"
        );
    }
    shortest
}
