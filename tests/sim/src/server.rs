//! Sockets: listening, taking connections, and ending them the way a real server does.
//!
//! It owns every connection of an endpoint and knows of requests only whether one is under way:
//! idle connections are closed after a while, all of them when the endpoint is gone.

use crate::body::Reply;
use crate::endpoint::{Endpoint, Phase};
use crate::profile::Death;
use crate::routes;
use crate::seen::Tally;
use crate::sync::lock;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

/// How long a dying server still takes connections.
const LAST_GASP: Duration = Duration::from_millis(200);

/// A port that is bound and does not listen yet: connections to it are refused.
pub struct Port {
    socket: TcpSocket,
    /// Where it is.
    pub address: SocketAddr,
}

impl Port {
    /// Binds a port of 127.0.0.1; 0 is any free one.
    pub fn bind(port: u16) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(SocketAddr::from(([127, 0, 0, 1], port)))?;
        let address = socket.local_addr()?;
        Ok(Self { socket, address })
    }
}

/// Serves an endpoint to the end of its life; `ready` is called when it listens, or at once if
/// it has some loading to do first.
pub async fn serve(endpoint: Arc<Endpoint>, port: Port, ready: impl FnOnce()) -> io::Result<()> {
    let engine = tokio::spawn({
        let pace = Arc::clone(&endpoint.pace);
        async move { pace.drive().await }
    });
    let loading = endpoint.profile.loading;
    let fuse = tokio::spawn(burn(Arc::clone(&endpoint)));
    let served = if loading.is_zero() {
        let listener = port.socket.listen(4096)?;
        endpoint.enter(Phase::Serving);
        ready();
        listen(&endpoint, listener).await
    } else {
        ready();
        let mut phases = endpoint.phases();
        tokio::select! {
            () = sleep(loading) => {
                let listener = port.socket.listen(4096)?;
                endpoint.enter(Phase::Serving);
                listen(&endpoint, listener).await
            }
            () = async { let _ = phases.wait_for(|phase| *phase == Phase::Gone).await.is_ok(); } => {
                Ok(())
            }
        }
    };
    engine.abort();
    fuse.abort();
    served
}

/// Kills the endpoint when its time has come.
async fn burn(endpoint: Arc<Endpoint>) {
    if let Some(Death::After(seconds)) = endpoint.profile.die {
        sleep(Duration::from_secs_f64(seconds.max(0.0))).await;
        endpoint.enter(Phase::Gone);
    }
}

async fn listen(endpoint: &Arc<Endpoint>, listener: TcpListener) -> io::Result<()> {
    let mut phases = endpoint.phases();
    let mut connections = JoinSet::new();
    let mut listener = Some(listener);
    let mut closing: Option<Instant> = None;
    loop {
        match endpoint.phase() {
            Phase::Gone => {
                // Whoever is connected is cut off by the end of the tasks.
                drop(listener.take());
                connections.shutdown().await;
                return Ok(());
            }
            Phase::Hanging | Phase::Dying if closing.is_none() => {
                closing = Some(Instant::now() + LAST_GASP);
            }
            Phase::Draining if endpoint.tally.in_flight.load(Ordering::Relaxed) == 0 => {
                endpoint.enter(Phase::Gone);
                continue;
            }
            Phase::Hanging if listener.is_none() && connections.is_empty() => {
                endpoint.enter(Phase::Gone);
                continue;
            }
            _ => {}
        }
        tokio::select! {
            taken = accept(listener.as_ref()) => {
                let stream = taken?;
                connections.spawn(converse(Arc::clone(endpoint), stream));
            }
            _ = phases.changed() => {}
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            () = at(closing.filter(|_| listener.is_some())) => {
                listener = None;
                if endpoint.phase() == Phase::Dying {
                    endpoint.enter(Phase::Gone);
                }
            }
            // A drain is over when nothing is under way, of which nobody tells.
            () = sleep(Duration::from_millis(20)), if endpoint.phase() == Phase::Draining => {}
        }
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

async fn accept(listener: Option<&TcpListener>) -> io::Result<TcpStream> {
    match listener {
        None => std::future::pending().await,
        Some(listener) => loop {
            match listener.accept().await {
                Ok((stream, _)) => return Ok(stream),
                // Out of files or a client that has gone already: the next one may do.
                Err(_) => sleep(Duration::from_millis(10)).await,
            }
        },
    }
}

/// Whether a connection has a request under way, and since when it has not.
struct Activity {
    under_way: AtomicUsize,
    idle_since: Mutex<Instant>,
}

struct Busy(Arc<Activity>);

impl Busy {
    fn with(activity: &Arc<Activity>) -> Self {
        activity.under_way.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(activity))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        *lock(&self.0.idle_since) = Instant::now();
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts an open connection.
struct Open<'e>(&'e Endpoint);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.tally.open_connections.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn converse(endpoint: Arc<Endpoint>, mut stream: TcpStream) {
    Tally::add(&endpoint.tally.connections, 1);
    Tally::add(&endpoint.tally.open_connections, 1);
    let _open = Open(&endpoint);
    // Answers are small and waited for; without this each could wait for an acknowledgement.
    let _ = stream.set_nodelay(true);
    if !speaks_http(&stream).await {
        let _ = stream.write_all(NOT_HTTP).await;
        return;
    }
    let activity = Arc::new(Activity {
        under_way: AtomicUsize::new(0),
        idle_since: Mutex::new(Instant::now()),
    });
    let service = service_fn(|request| {
        let busy = Busy::with(&activity);
        let endpoint = Arc::clone(&endpoint);
        async move {
            let response = routes::answer(endpoint, request).await?;
            Ok::<_, routes::Vanish>(response.map(|body: Reply| body.holding(Box::new(busy))))
        }
    });
    let connection = http1::Builder::new()
        .max_headers(400)
        .max_buf_size(16 << 20)
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let mut phases = endpoint.phases();
    let idle = endpoint.profile.keep_alive;
    let mut look = Instant::now() + idle;
    loop {
        tokio::select! {
            // Errors are the client's going, or a fault that was asked for.
            _ = connection.as_mut() => return,
            _ = phases.changed() => match *phases.borrow() {
                Phase::Gone => return,
                Phase::Hanging | Phase::Dying => connection.as_mut().graceful_shutdown(),
                _ => {}
            },
            () = sleep_until(look) => {
                let quiet = activity.under_way.load(Ordering::Relaxed) == 0;
                let due = *lock(&activity.idle_since) + idle;
                if quiet && due <= Instant::now() {
                    return;
                }
                look = due.max(Instant::now() + Duration::from_millis(50));
            }
        }
    }
}

const NOT_HTTP: &[u8] = b"HTTP/1.1 400 Bad Request\r\nserver: uvicorn\r\n\
content-type: text/plain; charset=utf-8\r\ncontent-length: 30\r\nconnection: close\r\n\r\n\
Invalid HTTP request received.";

/// Whether the first bytes can be the start of an HTTP/1 request line.
async fn speaks_http(stream: &TcpStream) -> bool {
    let mut first = [0; 24];
    let Ok(length) = stream.peek(&mut first).await else { return true };
    let first = &first[..length];
    let method = first.iter().take_while(|b| b.is_ascii_uppercase()).count();
    match first.get(method) {
        None => true,
        Some(b' ') => method > 0 && !first.starts_with(b"PRI * "),
        Some(_) => false,
    }
}
