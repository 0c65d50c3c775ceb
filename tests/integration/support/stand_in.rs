//! A server that answers as a test says: the shapes of servers that the simulator does not play.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use serde_json::{Value, json};

/// A request that a stand-in has received.
pub struct Heard {
    /// Method and path, such as `GET /v1/models`.
    pub what: String,
    /// The JSON body; null without one.
    pub body: Value,
    /// How many requests of this method and path there were, with this one.
    pub number: u64,
}

/// A response of a stand-in.
pub struct Said {
    status: u16,
    body: String,
    location: Option<String>,
}

/// A server of this process, until the process ends.
pub struct StandIn {
    address: SocketAddr,
    seen: Arc<Mutex<BTreeMap<String, u64>>>,
}

/// A JSON response.
pub fn said(status: u16, body: &Value) -> Said {
    Said { status, body: body.to_string(), location: None }
}

/// An error in OpenAI's shape.
pub fn refused(status: u16, message: &str) -> Said {
    said(status, &json!({"error": {"message": message, "type": "x"}}))
}

/// A redirect.
pub fn moved(location: &str) -> Said {
    Said { status: 307, body: String::new(), location: Some(location.into()) }
}

/// The list of these models.
pub fn models(names: &[&str]) -> Said {
    let entry = |name: &&str| json!({"id": name, "object": "model"});
    said(200, &json!({"object": "list", "data": names.iter().map(entry).collect::<Vec<_>>()}))
}

/// What a server without special routes says: one model, an answer to each conversation and text, and 404 elsewhere. The
/// answer says by which route it came.
pub fn plain(heard: &Heard) -> Said {
    let reply = |choice: Value| {
        let model = &heard.body["model"];
        said(200, &json!({"id": "x", "created": 1, "model": model, "choices": [choice]}))
    };
    match heard.what.as_str() {
        "GET /v1/models" => models(&["tiny"]),
        "POST /v1/chat/completions" if heard.body.get("messages").is_some() => {
            let message = json!({"role": "assistant", "content": "by chat"});
            reply(json!({"index": 0, "finish_reason": "stop", "message": message}))
        }
        "POST /v1/completions" if heard.body["prompt"].is_array() => {
            refused(400, "'prompt' must be a string")
        }
        "POST /v1/completions" if heard.body.get("prompt").is_some() => {
            reply(json!({"index": 0, "finish_reason": "stop", "text": "raw"}))
        }
        "POST /v1/chat/completions" | "POST /v1/completions" => refused(400, "field required"),
        _ => said(404, &json!({"detail": "Not Found"})),
    }
}

impl StandIn {
    /// Starts a server that answers by this function.
    pub fn start(answer: impl Fn(&Heard) -> Said + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port on loopback");
        let address = listener.local_addr().expect("an address");
        let seen: Arc<Mutex<BTreeMap<String, u64>>> = Arc::default();
        let (answer, counts) = (Arc::new(answer), seen.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answer, counts) = (answer.clone(), counts.clone());
                thread::spawn(move || serve(&stream, &*answer, &counts));
            }
        });
        Self { address, seen }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Requests of this method and path so far.
    pub fn seen(&self, what: &str) -> u64 {
        self.seen.lock().unwrap().get(what).copied().unwrap_or(0)
    }
}

fn serve(
    stream: &TcpStream,
    answer: &impl Fn(&Heard) -> Said,
    counts: &Mutex<BTreeMap<String, u64>>,
) -> Option<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let what = line.rsplit_once(' ')?.0.to_owned();
        let mut length = 0;
        loop {
            let mut header = String::new();
            reader.read_line(&mut header).ok()?;
            let header = header.trim().to_ascii_lowercase();
            if header.is_empty() {
                break;
            }
            if let Some(text) = header.strip_prefix("content-length:") {
                length = text.trim().parse().ok()?;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        let number = {
            let mut counts = counts.lock().unwrap();
            let count = counts.entry(what.clone()).or_default();
            *count += 1;
            *count
        };
        let body = serde_json::from_slice(&body).unwrap_or_default();
        let Said { status, body, location } = answer(&Heard { what, body, number });
        let location = location.map_or(String::new(), |to| format!("Location: {to}\r\n"));
        let head = format!(
            "HTTP/1.1 {status} Said\r\nContent-Type: application/json\r\n{location}Content-Length: {}\r\n\r\n",
            body.len()
        );
        (&*stream).write_all((head + &body).as_bytes()).ok()?;
    }
}
