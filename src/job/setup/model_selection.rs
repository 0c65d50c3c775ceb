//! The selection of models, route and endpoints, made on rank 0 from the probe results of all ranks.
//!
//! Owns the choice of the job's own model, the rule that every model that a prompt names must be served, the selection and the messages about why it fails. Sends no requests itself: `readiness` has probed the endpoints
//! before. Load balancing between endpoints is in `dispatch::assignments` and in the engine's scheduler.

use std::collections::BTreeSet;

use tracing::{info, warn};

use super::{chat_template, run_plan::ModelSelection};
use crate::job::{JobError, PreconditionError};
use crate::{
    console,
    domain::{EndpointStatus, JobModel, JobModels, ModelSet, ReadinessCounts, Route, ServerInfo},
    input::InputSource,
    report::format::{pluralize, shorten_list},
    settings::{ApiMode, Settings, nearest_name},
};

/// Facts about the run that restrict the selection.
pub(crate) struct SelectionInputs<'r> {
    pub(crate) source: &'r InputSource,
    /// The models that prompts without an outcome name.
    pub(crate) row_models: Vec<NeededModel>,
    /// Whether prompts without an outcome name no model.
    pub(crate) any_unnamed: bool,
    /// Model of the existing answers.
    pub(crate) previous_model: Option<&'r str>,
    /// Route of texts in earlier sessions; all sessions of a run use the same one.
    pub(crate) previous_api: Option<&'r str>,
}

/// A model that prompts need.
pub(crate) struct NeededModel {
    pub(crate) name: String,
    /// The place of the first row that names it, and the number of all such rows.
    pub(crate) place: String,
}

/// Selects models, route and chat template. Returns `None` if too few endpoints are ready, which is printed.
///
/// # Errors
/// A model is not served, the job's own differs from that of the existing answers, or the route does not fit the
/// settings.
pub(crate) fn select_model_and_route(
    settings: &Settings,
    known: &SelectionInputs<'_>,
    found: &[Vec<EndpointStatus>],
) -> Result<Option<ModelSelection>, JobError> {
    let counts = ReadinessCounts::of_statuses(found.iter().flatten(), None);
    if !check_readiness(&counts, settings.min_endpoints.count_of(counts.all))? {
        return Ok(None);
    }
    let ready: Vec<&ServerInfo> =
        found.iter().flatten().filter_map(|status| status.probe.ready_info()).collect();
    let unready = counts.all - counts.ready;
    check_row_models(known, &ready, unready).map_err(JobError::Model)?;
    let (model, is_own_usable) =
        choose_job_model(settings, known, &ready).map_err(JobError::Model)?;
    let is_changed = check_model_change(settings, known.previous_model, &model)?;
    let models = list_job_models(settings, known.source, &ready, &model);
    let numbered = JobModels::new(models.clone());
    let serving: Vec<&ServerInfo> =
        ready.iter().copied().filter(|server| !numbered.served_by(server).is_empty()).collect();
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
    let served_sets = |statuses: &Vec<EndpointStatus>| -> Vec<ModelSet> {
        let servers = statuses.iter().filter_map(|status| status.probe.ready_info());
        servers.map(|server| numbered.served_by(server)).filter(|set| !set.is_empty()).collect()
    };
    let by_rank: Vec<Vec<ModelSet>> = found.iter().map(served_sets).collect();
    let union =
        |sets: &Vec<ModelSet>| sets.iter().fold(ModelSet::default(), |all, it| all.union(it));
    let selection = ModelSelection {
        text_route,
        context_len: numbered.max_model_len(0),
        chat_template,
        served_sets: by_rank
            .iter()
            .flatten()
            .copied()
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect(),
        rank_models: by_rank.iter().map(union).collect(),
        ready_counts: by_rank.iter().map(|sets| sets.len() as u64).collect(),
        endpoint_counts: found.iter().map(|statuses| statuses.len() as u64).collect(),
        models,
        model,
        is_own_usable,
    };
    log_run_start(&selection, known.source.rows, (serving.len() as u64, counts.all), found.len());
    Ok(Some(selection))
}

/// Returns whether `required` endpoints are ready, and otherwise prints why the others are not. Rank 0 only.
///
/// # Errors
/// Fails if none of those that are not ready can ever be used: then the settings are to be changed.
pub(crate) fn check_readiness(counts: &ReadinessCounts, required: u64) -> Result<bool, JobError> {
    let required = required.max(1);
    if counts.ready >= required {
        return Ok(true);
    }
    if counts.are_all_unusable() {
        return Err(PreconditionError::EndpointsUnusable(console::describe_unready(
            counts, required,
        ))
        .into());
    }
    console::print_unready_endpoints(counts, required);
    Ok(false)
}

/// Chooses the job's own model: `--model`, or the model that rows name, or the one that is served. Also returns whether
/// prompts may use it that name none.
fn choose_job_model(
    settings: &Settings,
    known: &SelectionInputs<'_>,
    ready: &[&ServerInfo],
) -> Result<(String, bool), String> {
    let named = &known.source.models;
    let chosen = match (&settings.model, named.as_slice()) {
        (Some(model), _) => resolve_model(Some(model), ready),
        (None, []) => resolve_model(None, ready),
        (None, [only]) if known.any_unnamed => resolve_model(Some(only), ready),
        (None, [only]) => Ok(only.clone()),
        (None, _) if settings.reduce_template.is_some() => Err(format!(
            "rows name several models ({}), and none is chosen for the summaries\nhint: choose it with --model",
            shorten_list(named)
        )),
        (None, _) if known.any_unnamed => resolve_model(None, ready)
            .map_err(|reason| format!("some rows name no model, and {reason}")),
        // No prompt needs the job's own model, so it stays that of earlier sessions.
        (None, [first, ..]) => {
            return Ok((known.previous_model.unwrap_or(first).to_owned(), false));
        }
    };
    Ok((chosen?, true))
}

/// Checks that every model that prompts name is served by some endpoint.
fn check_row_models(
    known: &SelectionInputs<'_>,
    ready: &[&ServerInfo],
    unready: u64,
) -> Result<(), String> {
    let served = served_names(ready);
    let is_unserved = |needed: &&NeededModel| !served.contains(&needed.name.as_str());
    let unserved: Vec<&NeededModel> = known.row_models.iter().filter(is_unserved).collect();
    let Some(first) = unserved.first() else { return Ok(()) };
    let list: Vec<String> =
        unserved.iter().map(|it| format!("{:?} ({})", it.name, it.place)).collect();
    let plural = if unserved.len() == 1 { "model" } else { "models" };
    let nearest = nearest_name(&first.name, served.iter().map(|&name| name.to_owned()));
    let hint = match (nearest, unready) {
        (Some(name), 0) => format!("did you mean {name:?}? "),
        (_, 0) => String::new(),
        (_, 1) => "1 endpoint is not ready yet: --min-endpoints waits for it. ".into(),
        (_, _) => {
            format!("{unready} endpoints are not ready yet: --min-endpoints waits for them. ")
        }
    };
    Err(format!(
        "rows name the {plural} {}, which no endpoint serves; served models: {}\nhint: {hint}--ignore-row-model \
         asks the job's model for all rows",
        shorten_list(&list),
        shorten_list(&served)
    ))
}

/// Lists the job's own model and those that rows name, with their context lengths.
fn list_job_models(
    settings: &Settings,
    source: &InputSource,
    ready: &[&ServerInfo],
    own: &str,
) -> Vec<JobModel> {
    let others = source.models.iter().map(String::as_str).filter(|name| *name != own);
    let names = std::iter::once(own).chain(others);
    let with_context = |name: &str| JobModel {
        name: name.to_owned(),
        max_model_len: settings.max_context.or_else(|| min_context_len(ready, name)),
    };
    names.map(with_context).collect()
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
        ApiMode::Auto if serving.iter().all(|server| server.chat_template != Some(false)) => {
            Route::Chat
        }
        ApiMode::Auto => Route::Completions,
    }
}

fn log_run_start(
    selection: &ModelSelection,
    prompts: u64,
    (servers, endpoints): (u64, u64),
    ranks: usize,
) {
    let ModelSelection { models, context_len, .. } = selection;
    let names: Vec<String> = models.iter().map(|model| model.name.clone()).collect();
    let plural = if names.len() == 1 { "model" } else { "models" };
    let model = shorten_list(&names);
    info!(
        event = "run_started",
        prompts,
        model,
        servers,
        ranks,
        api = selection.api_name(),
        context_tokens = context_len,
        "run started: {}, {plural} {model}, {}, {}, {}, context {}",
        pluralize(prompts, "prompt"),
        match servers {
            all if all == endpoints => pluralize(all, "server"),
            some => format!("{some} of {}", pluralize(endpoints, "server")),
        },
        pluralize(ranks as u64, "rank"),
        selection.api_name(),
        context_len.map_or("unknown".into(), |tokens| tokens.to_string()),
    );
}

fn served_names<'s>(ready: &[&'s ServerInfo]) -> Vec<&'s str> {
    let names = |server: &&'s ServerInfo| {
        let server: &'s ServerInfo = server;
        server.models.iter().map(|model| model.id.as_str())
    };
    let mut served: Vec<&str> = ready.iter().flat_map(names).collect();
    served.sort_unstable();
    served.dedup();
    served
}

fn resolve_model(requested: Option<&str>, ready: &[&ServerInfo]) -> Result<String, String> {
    let served = served_names(ready);
    match (requested, served.as_slice()) {
        (Some(model), served) if served.contains(&model) => Ok(model.to_owned()),
        (Some(model), served) => {
            let nearest = nearest_name(model, served.iter().map(|&name| name.to_owned()));
            let hint =
                nearest.map_or(String::new(), |name| format!("\nhint: did you mean {name}?"));
            Err(format!(
                "model {model:?} is not served; served models: {}{hint}",
                shorten_list(served)
            ))
        }
        (None, [only]) => Ok((*only).to_owned()),
        (None, several) => Err(format!(
            "several models are served: {}\nhint: choose one with --model",
            shorten_list(several)
        )),
    }
}

/// Returns the shortest context length that any endpoint reports for the model, in tokens.
fn min_context_len(ready: &[&ServerInfo], model: &str) -> Option<u64> {
    let lengths: Vec<u64> = ready.iter().filter_map(|server| server.max_model_len(model)).collect();
    let (shortest, longest) = (lengths.iter().min().copied(), lengths.iter().max().copied());
    if let (Some(shortest), Some(longest)) = (shortest, longest)
        && shortest != longest
    {
        warn!(
            event = "context_lengths_differ",
            model,
            shortest,
            longest,
            "context lengths of {model} differ between servers, from {shortest} to {longest} tokens: the shortest is used"
        );
    }
    if shortest.is_none() {
        warn!(
            event = "context_length_unknown",
            model, "context length of {model} unknown: max_tokens not adjusted (--max-context N)"
        );
    }
    shortest
}
