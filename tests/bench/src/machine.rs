//! Where the figures come from: cores, processor, memory, kernel, load. Read from /proc, never
//! guessed; what is not there is left out.

use crate::scenario::Bench;
use serde_json::{Value, json};
use std::fs::read_to_string;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

/// The load average of the last minute.
pub fn load() -> f64 {
    let text = read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(f64::NAN)
}

/// The machine and the product.
pub fn facts(bench: &Bench) -> Value {
    let version = Command::new(bench.programs.join("aurora-swarm")).arg("--version").output();
    let version = version.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned());
    let began = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    json!({
        "began": began,
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "processor": field("/proc/cpuinfo", "model name"),
        "memory": field("/proc/meminfo", "MemTotal"),
        "kernel": read_to_string("/proc/sys/kernel/osrelease").ok().map(|t| t.trim().to_owned()),
        "load_before": load(),
        "product": version.ok(),
    })
}

fn field(file: &str, name: &str) -> Option<String> {
    value_of(&read_to_string(file).ok()?, name)
}

fn value_of(text: &str, name: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_of_proc_is_read() {
        let text = "processor\t: 0\nmodel name\t: A fast one\n";
        assert_eq!(value_of(text, "model name").as_deref(), Some("A fast one"));
        assert_eq!(value_of(text, "flags"), None);
        assert!(load() >= 0.0);
    }
}
