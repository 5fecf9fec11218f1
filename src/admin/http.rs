//! Connections of the admin listener, within bounds, and who may speak on them.
//!
//! Invariant: a connection ends, whatever its client does, at most [`LIFE`] and [`GRACE`] after it was accepted, and before when
//! another needs its place ([`super::places`]), so nobody can hold one of the few there are. A request whose `Host` is a name that is
//! not ours is refused: a page of someone else that had its name point here would be let in by the browser otherwise.

use super::observer::Observer;
use super::places::Places;
use super::{Link, lock, routes};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::uri::Authority;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// How long a client may take for a request's head, or be silent between two.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may be used.
const LIFE: Duration = Duration::from_secs(60);
/// How long the answer under way may take after that.
const GRACE: Duration = Duration::from_secs(60);
/// Largest head of a request, bytes, and most lines of it.
const HEAD_SIZE_MAX: usize = 16 << 10;
/// See [`HEAD_SIZE_MAX`].
const HEAD_LINES_MAX: usize = 64;
/// How long accepting rests when the process has no files left.
const ACCEPT_RETRY: Duration = Duration::from_secs(1);

/// On every answer. The page has no inline script or style, and loads nothing from elsewhere.
const HEADERS: [(HeaderName, &str); 6] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// An answer.
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) kind: &'static str,
    pub(super) body: Bytes,
    /// What the status calls for.
    pub(super) header: Option<(HeaderName, &'static str)>,
}

impl Reply {
    pub(super) fn new(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Reply {
        Reply { status, kind, body: body.into(), header: None }
    }

    /// `{"error":"text"}`
    pub(super) fn error(status: StatusCode, text: &str) -> Reply {
        let body = serde_json::json!({ "error": text }).to_string();
        Reply::new(status, routes::JSON, body)
    }

    fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(self.body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.kind));
        for (name, value) in HEADERS.into_iter().chain(self.header) {
            headers.insert(name, HeaderValue::from_static(value));
        }
        response
    }
}

/// What connections share.
struct Server {
    link: Arc<Link>,
    observer: Observer,
    places: Places,
}

/// Serves until it is told to end.
pub(super) async fn serve(listeners: Vec<(SocketAddr, TcpListener)>, link: Arc<Link>) {
    let server =
        Rc::new(Server { observer: Observer::new(link.clone()), link: link.clone(), places: Places::default() });
    for (_, listener) in listeners {
        tokio::task::spawn_local(accept(listener, server.clone()));
    }
    link.end.notified().await;
}

async fn accept(listener: TcpListener, server: Rc<Server>) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("it does not block, and the runtime has I/O");
    loop {
        match listener.accept().await {
            Ok((socket, peer)) => {
                let place = server.places.take().await;
                let task = tokio::task::spawn_local(converse(socket, peer, place, server.clone()));
                server.places.serve(place, task.abort_handle());
            }
            // Of one that has gone already, or for lack of files: the data plane says so.
            Err(_) => sleep(ACCEPT_RETRY).await,
        }
    }
}

async fn converse(socket: TcpStream, peer: SocketAddr, place: u64, server: Rc<Server>) {
    let service = service_fn(|request| {
        let server = server.clone();
        async move {
            server.places.begin_answer(place);
            let reply = answer(&server, peer, &request).await;
            server.places.end_answer(place);
            Ok::<_, Infallible>(reply.into_response())
        }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(HEAD_SIZE_MAX)
            .max_headers(HEAD_LINES_MAX)
            .serve_connection(TokioIo::new(socket), service)
    );
    // What a client does wrong is its own affair.
    if timeout(LIFE, connection.as_mut()).await.is_err() {
        connection.as_mut().graceful_shutdown();
        let _ = timeout(GRACE, connection).await;
    }
    server.places.leave(place);
}

async fn answer(server: &Server, peer: SocketAddr, request: &Request<Incoming>) -> Reply {
    if let Err(refusal) = check_host(server, request) {
        return refusal;
    }
    if request.method() == Method::GET || request.method() == Method::HEAD {
        let has_token = lock(&server.link.access).token.is_some();
        return routes::read(&server.observer, request.uri(), request.headers(), has_token).await;
    }
    let action = match routes::action(request.method(), request.uri().path()) {
        Ok(action) => action,
        Err(refusal) => return refusal,
    };
    if let Err(refusal) = check_access(server, request.headers()) {
        return refusal;
    }
    routes::act(&server.observer, peer, action).await
}

/// An address cannot be made to point elsewhere, so any will do; a client without a `Host` is no browser.
fn check_host(server: &Server, request: &Request<Incoming>) -> Result<(), Reply> {
    let named = match (request.uri().authority(), request.headers().get(header::HOST)) {
        (Some(authority), _) => Some(authority.clone()),
        (None, None) => None,
        (None, Some(host)) => Some(
            Authority::try_from(host.as_bytes())
                .map_err(|_| Reply::error(StatusCode::BAD_REQUEST, "the Host header cannot be read"))?,
        ),
    };
    let Some(authority) = named else { return Ok(()) };
    let host = authority.host();
    let is_address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok();
    let is_ours = |name: &String| name.eq_ignore_ascii_case(host);
    if is_address || host.eq_ignore_ascii_case("localhost") || lock(&server.link.access).hosts.iter().any(is_ours) {
        return Ok(());
    }
    let text = "this host name is not known here: see --admin-host";
    Err(Reply::error(StatusCode::MISDIRECTED_REQUEST, text))
}

/// Whether an action may be done: with the token, and not from a page of someone else.
fn check_access(server: &Server, headers: &HeaderMap) -> Result<(), Reply> {
    let refuse = |status, text| Err(Reply::error(status, text));
    let header = |name| headers.get(name).map(HeaderValue::as_bytes);
    let access = lock(&server.link.access);
    let Some(token) = &access.token else {
        return refuse(StatusCode::FORBIDDEN, "actions are off: the server has no --admin-token-file");
    };
    let host = header(header::HOST).unwrap_or_default();
    let is_own = |origin: &[u8]| {
        let rest = origin.strip_prefix(b"http://").or(origin.strip_prefix(b"https://"));
        rest.is_some_and(|rest| rest.eq_ignore_ascii_case(host))
    };
    if header(header::ORIGIN).is_some_and(|origin| !is_own(origin)) {
        return refuse(StatusCode::FORBIDDEN, "a page of another origin may not do this");
    }
    if !header(header::AUTHORIZATION).is_some_and(|value| token.is_in(value)) {
        let mut reply = Reply::error(StatusCode::UNAUTHORIZED, "the token is missing or wrong");
        reply.header = Some((header::WWW_AUTHENTICATE, "Bearer"));
        return Err(reply);
    }
    let kind = header(header::CONTENT_TYPE).unwrap_or_default();
    let kind = kind.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    if !kind.eq_ignore_ascii_case(b"application/json") {
        return refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, "Content-Type must be application/json");
    }
    Ok(())
}
