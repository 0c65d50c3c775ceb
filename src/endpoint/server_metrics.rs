//! The load a server reports: four metrics of its `/metrics` page.
//!
//! The concurrency limit is derived from them in `engine/endpoint_state/concurrency.rs`.

use std::time::Duration;

use super::{HttpClient, http::ResponseBounds};
use crate::domain::Url;

/// Bounds of the request for `/metrics`: a server that takes longer has other problems.
const METRICS_BOUNDS: ResponseBounds =
    ResponseBounds { time: Duration::from_secs(2), bytes: 8 << 20 };

/// Load of a server, summed over its engines.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct ServerLoad {
    /// Sequences that are being processed.
    pub running: f64,
    /// Sequences that wait for a slot.
    pub waiting: f64,
    /// Sequences preempted for lack of KV-cache memory since the server started.
    pub preemptions: f64,
    /// Share of the KV cache in use, from 0 to 1, of the fullest engine; `None` where the server does not report it.
    pub cache_usage: Option<f64>,
}

/// Fetches the load once; `None` if the server has no metrics or does not answer in time.
pub(crate) async fn fetch_server_load(client: &HttpClient, url: &Url) -> Option<ServerLoad> {
    let answer = client
        .get(url, "/metrics", METRICS_BOUNDS)
        .await
        .ok()
        .filter(|response| response.status == 200)?;
    parse_metrics(&String::from_utf8_lossy(&answer.body))
}

/// Parses the Prometheus text that vLLM writes, with one line per engine and metric.
fn parse_metrics(page: &str) -> Option<ServerLoad> {
    let (mut load, mut any) = (ServerLoad::default(), false);
    for line in page.lines() {
        let Some(rest) = line.strip_prefix("vllm:") else { continue };
        let Some((name, value)) = rest.rsplit_once(' ') else { continue };
        let name = name.split('{').next().unwrap_or(name);
        if matches!(name, "kv_cache_usage_perc" | "gpu_cache_usage_perc") {
            let usage = value.parse::<f64>().ok().filter(|usage| (0.0..=1.0).contains(usage));
            load.cache_usage = [load.cache_usage, usage].into_iter().flatten().reduce(f64::max);
            continue;
        }
        let sum = match name {
            "num_requests_running" => &mut load.running,
            "num_requests_waiting" => &mut load.waiting,
            "num_preemptions_total" => &mut load.preemptions,
            _ => continue,
        };
        // An unreadable value would make the sum wrong: then there is no load at all.
        *sum += value.parse::<f64>().ok().filter(|number| number.is_finite())?;
        // A page without this metric is not vLLM's.
        any |= name == "num_requests_running";
    }
    any.then_some(load)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_all_engines_are_summed() {
        let page = "# HELP vllm:num_requests_running Number\n\
            vllm:num_requests_running{engine=\"0\",model_name=\"a b\"} 3.0\n\
            vllm:num_requests_running{engine=\"1\",model_name=\"a b\"} 4.0\n\
            vllm:num_requests_waiting{engine=\"0\"} 5.0\n\
            vllm:num_requests_waiting_by_reason{engine=\"0\"} 50.0\n\
            vllm:kv_cache_usage_perc{engine=\"0\"} 0.25\n\
            vllm:kv_cache_usage_perc{engine=\"1\"} 0.75\n\
            vllm:num_preemptions_total 2\n";
        assert_eq!(
            parse_metrics(page),
            Some(ServerLoad {
                running: 7.0,
                waiting: 5.0,
                preemptions: 2.0,
                cache_usage: Some(0.75)
            })
        );
        assert_eq!(
            parse_metrics("vllm:num_requests_running{} 1\nvllm:gpu_cache_usage_perc{} NaN")
                .and_then(|load| load.cache_usage),
            None
        );
        assert_eq!(parse_metrics("python_gc_objects_collected_total 1.0\n"), None);
        assert_eq!(parse_metrics("vllm:num_requests_running{} NaN"), None);
        assert_eq!(parse_metrics(""), None);
    }
}
