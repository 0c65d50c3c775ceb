//! One GET at a time, for figures of a simulator on this machine; it speaks no other HTTP.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// The body of an answer with status 200.
pub fn get(url: &str, path: &str) -> io::Result<String> {
    let host = url.strip_prefix("http://").unwrap_or(url).trim_end_matches('/');
    let mut stream = TcpStream::connect(host)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    body(&text).map(str::to_owned).ok_or_else(|| io::Error::other(format!("{url}{path}: {text}")))
}

fn body(answer: &str) -> Option<&str> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.starts_with("HTTP/1.1 200").then_some(body)
}

/// The sum of a metric over its labels, out of a Prometheus text; none where there is none.
pub fn metric(text: &str, name: &str) -> Option<f64> {
    let values = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let rest = match rest.strip_prefix('{') {
            Some(labels) => labels.rsplit_once('}')?.1,
            None => rest,
        };
        rest.strip_prefix(' ')?.trim().parse::<f64>().ok()
    });
    values.reduce(|a, b| a + b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_summed_over_its_labels_and_not_mistaken_for_a_longer_name() {
        let text = "# HELP vllm:hits_total x\nvllm:hits_total{engine=\"0\"} 3.0\n\
                    vllm:hits_total{engine=\"1\"} 4.5\nvllm:hits_total_more 9.0\nup 1\n";
        assert_eq!(metric(text, "vllm:hits_total"), Some(7.5));
        assert_eq!(metric(text, "up"), Some(1.0));
        assert_eq!(metric(text, "vllm:hits"), None);
    }

    #[test]
    fn only_a_200_has_a_body_for_us() {
        assert_eq!(body("HTTP/1.1 200 OK\r\na: b\r\n\r\ntext"), Some("text"));
        assert_eq!(body("HTTP/1.1 500 Oh\r\n\r\ntext"), None);
        assert_eq!(body("nonsense"), None);
    }
}
