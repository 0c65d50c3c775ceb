//! `/metrics`: the Prometheus text that clients steer by.
//!
//! It owns names, labels and help lines as recorded; the numbers come from the engine and the
//! counters. Histograms are left out: nobody steers by them.

use crate::endpoint::Endpoint;
use crate::seen::REASONS;
use std::fmt::Write;
use std::sync::atomic::Ordering;

/// The text of an endpoint's metrics.
#[must_use]
pub fn text(endpoint: &Endpoint) -> String {
    let gauges = endpoint.pace.gauges();
    let seen = endpoint.tally.seen();
    let model = endpoint.profile.models.first().map_or("", String::as_str);
    let mut page = Page { text: String::with_capacity(4096), model };
    let blocks = (endpoint.profile.cache_blocks * endpoint.profile.block_size).max(1);
    let usage = gauges.memory_usage.unwrap_or(gauges.held_tokens as f64 / blocks as f64).min(1.0);
    let instant = endpoint.profile.instant;
    // Without the engine in between the answers themselves are all there is to count.
    let (prompt, generation) = if instant {
        (seen.prompt_tokens, seen.completion_tokens)
    } else {
        (gauges.counters.prompt_tokens, gauges.counters.generation_tokens)
    };
    page.gauge(
        "num_requests_running",
        "Number of requests in model execution batches.",
        gauges.running as f64,
    );
    page.gauge(
        "num_requests_waiting",
        "Number of requests waiting to be processed.",
        gauges.waiting as f64,
    );
    page.gauge("kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.", usage);
    page.counter(
        "num_preemptions_total",
        "Cumulative number of preemption from the engine.",
        gauges.counters.preemptions,
    );
    page.counter(
        "prefix_cache_queries_total",
        "Prefix cache queries, in terms of number of queried tokens.",
        gauges.counters.cache_queries,
    );
    page.counter(
        "prefix_cache_hits_total",
        "Prefix cache hits, in terms of number of cached tokens.",
        gauges.counters.cache_hits,
    );
    page.counter("prompt_tokens_total", "Number of prefill tokens processed.", prompt);
    page.counter("generation_tokens_total", "Number of generation tokens processed.", generation);
    page.head("request_success_total", "Count of successfully processed requests.", "counter");
    for (reason, count) in REASONS.iter().zip(&endpoint.tally.reasons) {
        let count = count.load(Ordering::Relaxed) as f64;
        let labels = format!("engine=\"0\",finished_reason=\"{reason}\",model_name=\"{model}\"");
        page.line("request_success_total", &labels, count);
    }
    page.head(
        "admission_rejections_total",
        "Number of admission attempts rejected by a queue limit, by reason.",
        "counter",
    );
    for (reason, count) in [("max_num_queued_reqs", seen.rejected), ("max_num_queued_tokens", 0)] {
        let labels = format!("model_name=\"{model}\",reason=\"{reason}\"");
        page.line("admission_rejections_total", &labels, count as f64);
    }
    page.text
}

struct Page<'a> {
    text: String,
    model: &'a str,
}

impl Page<'_> {
    fn head(&mut self, name: &str, help: &str, kind: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "# HELP vllm:{name} {help}\n# TYPE vllm:{name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &str, value: f64) {
        let _ = writeln!(self.text, "vllm:{name}{{{labels}}} {value:?}");
    }

    fn one(&mut self, name: &str, help: &str, kind: &str, value: f64) {
        self.head(name, help, kind);
        let labels = format!("engine=\"0\",model_name=\"{}\"", self.model);
        self.line(name, &labels, value);
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.one(name, help, "gauge", value);
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.one(name, help, "counter", value as f64);
    }
}
