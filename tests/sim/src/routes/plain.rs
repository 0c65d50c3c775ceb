//! The plain GETs: health, version, models, metrics, load, the list of routes, what was seen.

use super::{Answered, Vanish, empty, json, served_paths, whole};
use crate::endpoint::{Endpoint, Phase};
use crate::metrics;
use crate::profile::Flavor;
use serde_json::{Map, Value, json as value};
use std::sync::atomic::Ordering;

/// Answers a GET of a known path.
pub fn get(endpoint: &Endpoint, path: &str) -> Answered {
    Ok(match path {
        "/health" | "/ping" => match endpoint.phase() {
            Phase::Dying => empty(503),
            Phase::Hanging | Phase::Gone => return Err(Vanish),
            Phase::Loading | Phase::Serving | Phase::Draining => empty(200),
        },
        "/version" => json(200, value!({"version": endpoint.profile.version}).to_string()),
        "/v1/models" => json(200, models(endpoint).to_string()),
        "/load" => {
            let load = endpoint.tally.in_flight.load(Ordering::Relaxed);
            json(200, value!({ "server_load": load }).to_string())
        }
        "/openapi.json" => json(200, routes(endpoint).to_string()),
        "/sim/seen" => json(200, serde_json::to_string(&endpoint.tally.seen()).unwrap_or_default()),
        _ => {
            let text = metrics::text(endpoint).into();
            whole(200, "text/plain; version=1.0.0; charset=utf-8", text)
        }
    })
}

fn models(endpoint: &Endpoint) -> Value {
    let profile = &endpoint.profile;
    let created = endpoint.started();
    let all: Vec<Value> = profile
        .models
        .iter()
        .map(|name| match profile.flavor {
            Flavor::Bare => {
                value!({"id": name, "object": "model", "created": created, "owned_by": "library"})
            }
            _ => value!({
                "id": name, "object": "model", "created": created, "owned_by": "vllm",
                "root": profile.root, "parent": null,
                "max_model_len": profile.policy.max_model_len,
                "permission": [permission(endpoint, created)],
            }),
        })
        .collect();
    value!({"object": "list", "data": all})
}

fn permission(endpoint: &Endpoint, created: u64) -> Value {
    value!({
        "id": format!("modelperm-{}", endpoint.answer_id()), "object": "model_permission",
        "created": created, "allow_create_engine": false, "allow_sampling": true,
        "allow_logprobs": true, "allow_search_indices": false, "allow_view": true,
        "allow_fine_tuning": false, "organization": "*", "group": null, "is_blocking": false,
    })
}

fn routes(endpoint: &Endpoint) -> Value {
    let paths = served_paths(endpoint)
        .map(|(path, method)| (path.to_owned(), value!({ method.to_lowercase(): {} })));
    value!({
        "openapi": "3.1.0",
        "info": {"title": "FastAPI", "version": "0.1.0"},
        "paths": Value::Object(paths.collect::<Map<_, _>>()),
    })
}
