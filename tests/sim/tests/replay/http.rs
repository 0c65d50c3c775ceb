//! A bare HTTP client over a socket: it sends what it is told and shows what came back.

use serde_json::Value;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// How long an answer may take before a test gives up on it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A response taken apart.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> Option<Value> {
        serde_json::from_slice(&self.body).ok()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// The bytes of a request; a body gets its length.
pub(crate) fn request(
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<&[u8]>,
) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:8001\r\n");
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    if let Some(body) = body {
        text += &format!("Content-Length: {}\r\n", body.len());
    }
    let mut bytes = (text + "\r\n").into_bytes();
    bytes.extend_from_slice(body.unwrap_or_default());
    bytes
}

/// A JSON POST, by default the last one of its connection.
pub(crate) fn post(path: &str, body: &Value, close: bool) -> Vec<u8> {
    let connection = if close { "close" } else { "keep-alive" };
    let headers = [("Content-Type", "application/json"), ("Connection", connection)];
    request("POST", path, &headers, Some(body.to_string().as_bytes()))
}

pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the simulator listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out can be set");
    stream
}

/// Everything until the end of the connection, and how it ended.
pub(crate) fn drain(stream: &mut TcpStream, patience: Duration) -> (Vec<u8>, &'static str) {
    let (start, mut got, mut buffer) = (Instant::now(), Vec::new(), [0; 65536]);
    loop {
        let left = patience.saturating_sub(start.elapsed()).max(Duration::from_millis(1));
        stream.set_read_timeout(Some(left)).expect("a time-out can be set");
        match stream.read(&mut buffer) {
            Ok(0) => return (got, "EOF"),
            Ok(n) => got.extend_from_slice(&buffer[..n]),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return (got, "TimeoutError");
            }
            Err(_) => return (got, "reset"),
        }
    }
}

/// One request on a connection of its own.
pub(crate) fn exchange(address: SocketAddr, bytes: &[u8]) -> Result<Response, String> {
    let mut stream = connect(address);
    stream.write_all(bytes).map_err(|e| format!("could not send: {e}"))?;
    let (got, ended) = drain(&mut stream, PATIENCE);
    parse(&got).map(|(response, _)| response).ok_or_else(|| {
        format!(
            "no answer, {ended} after {:?}",
            String::from_utf8_lossy(&got[..got.len().min(200)])
        )
    })
}

/// The first response in some bytes, and what comes after it.
pub(crate) fn parse(bytes: &[u8]) -> Option<(Response, &[u8])> {
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&bytes[..end]).ok()?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let rest = &bytes[end + 4..];
    let mut response = Response { status, headers, body: Vec::new() };
    if response.header("transfer-encoding") == Some("chunked") {
        let (body, rest) = chunked(rest)?;
        response.body = body;
        return Some((response, rest));
    }
    let length = response.header("content-length").map_or(Some(rest.len()), |l| l.parse().ok())?;
    let length = length.min(rest.len());
    response.body = rest[..length].to_vec();
    Some((response, &rest[length..]))
}

fn chunked(mut rest: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut body = Vec::new();
    loop {
        let Some(line) = rest.windows(2).position(|w| w == b"\r\n") else {
            // Cut off in the middle: what came is what there is.
            return Some((body, rest));
        };
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..line]).ok()?, 16).ok()?;
        let start = line + 2;
        if size == 0 {
            return Some((body, rest.get(start + 2..).unwrap_or_default()));
        }
        body.extend_from_slice(rest.get(start..start + size)?);
        rest = rest.get(start + size + 2..)?;
    }
}
