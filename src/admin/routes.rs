//! What the admin listener has, by path. Reading changes nothing.

use super::api::{self, ListQuery};
use super::http::Reply;
use super::metrics::Format;
use super::observer::{Observer, Unknown};
use super::{Phase, hgrm, metrics};
use crate::ids::QueueId;
use crate::log;
use crate::shard::Action;
use hyper::header::{self, HeaderMap};
use hyper::{Method, StatusCode, Uri};
use std::net::SocketAddr;

pub(super) const JSON: &str = "application/json; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";

/// The dashboard.
const ASSETS: [(&str, &str, &str); 9] = [
    ("/", HTML, include_str!("page.html")),
    ("/page.css", STYLE, include_str!("page.css")),
    ("/page.js", SCRIPT, include_str!("page.js")),
    ("/model.js", SCRIPT, include_str!("model.js")),
    ("/dom.js", SCRIPT, include_str!("dom.js")),
    ("/charts.js", SCRIPT, include_str!("charts.js")),
    ("/queues.js", SCRIPT, include_str!("queues.js")),
    ("/tables.js", SCRIPT, include_str!("tables.js")),
    ("/actions.js", SCRIPT, include_str!("actions.js")),
];

const QUEUES: &str = "/api/v1/queues/";
const CHECKPOINT: &str = "/api/v1/checkpoint";

/// Answers a GET with these headers. `has_token` is whether actions are possible.
pub(super) async fn read(observer: &Observer, uri: &Uri, headers: &HeaderMap, has_token: bool) -> Reply {
    let path = uri.path();
    if let Some((_, kind, text)) = ASSETS.into_iter().find(|(at, ..)| *at == path) {
        return Reply::new(StatusCode::OK, kind, text);
    }
    let query = uri.query().unwrap_or_default();
    let answer = match path {
        "/healthz" => return health(observer).await,
        "/readyz" => return readiness(observer).await,
        "/metrics" => observe_metrics(observer, Format::asked_by(headers)).await,
        "/debug/hgrm" => histogram(observer, query).await,
        "/api/v1/overview" => observer.seen().await.map(|seen| json(&api::overview(&seen, has_token))),
        "/api/v1/shards" => observer.seen().await.map(|seen| json(&api::shards(&seen))),
        "/api/v1/settings" => observer.seen().await.map(|seen| json(&api::settings(&seen.running.settings))),
        "/api/v1/latency" => observer.latencies().await.map(|latencies| json(&api::latencies(&latencies))),
        "/api/v1/queues" => match ListQuery::parse(query) {
            Ok(query) => observer.queues().await.map(|queues| json(&api::queues(&queues, &query))),
            Err(error) => Ok(Reply::error(StatusCode::BAD_REQUEST, &error)),
        },
        path if path == CHECKPOINT || path.starts_with(QUEUES) => Ok(not_allowed("POST, DELETE")),
        _ => Ok(nothing_here()),
    };
    answer.unwrap_or_else(|unknown| unavailable(&unknown))
}

fn json(value: &impl serde::Serialize) -> Reply {
    let body = serde_json::to_vec(value).expect("answers have string keys and finite numbers");
    Reply::new(StatusCode::OK, JSON, body)
}

fn unavailable(unknown: &Unknown) -> Reply {
    Reply::error(StatusCode::SERVICE_UNAVAILABLE, &unknown.text())
}

fn nothing_here() -> Reply {
    Reply::error(StatusCode::NOT_FOUND, "there is nothing here; docs/ADMIN.md has the routes")
}

fn not_allowed(allowed: &'static str) -> Reply {
    let mut reply = Reply::error(StatusCode::METHOD_NOT_ALLOWED, "this method is not for this path");
    reply.header = Some((header::ALLOW, allowed));
    reply
}

// --- health ---

fn said(is_well: bool, text: &str) -> Reply {
    let status = if is_well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Reply::new(status, TEXT, format!("{text}\n"))
}

/// Whether the process is alive: no shard hangs. While it starts or stops, it is.
async fn health(observer: &Observer) -> Reply {
    match observer.phase() {
        Phase::Starting => said(true, "starting"),
        Phase::Stopping(_) => said(true, "stopping"),
        Phase::Running(_) => match observer.seen().await {
            Ok(_) => said(true, "ok"),
            Err(unknown) => said(false, &unknown.text()),
        },
    }
}

/// Whether clients that put and get should come here.
async fn readiness(observer: &Observer) -> Reply {
    match observer.phase() {
        Phase::Starting => said(false, "starting"),
        Phase::Stopping(_) => said(false, "stopping"),
        Phase::Running(_) => match observer.seen().await {
            Ok(seen) if seen.shards.iter().any(|state| state.refuses_puts) => {
                said(false, "puts are refused: free space is short, see --min-free")
            }
            Ok(_) => said(true, "ok"),
            Err(unknown) => said(false, &unknown.text()),
        },
    }
}

// --- metrics ---

async fn observe_metrics(observer: &Observer, format: Format) -> Result<Reply, Unknown> {
    let seen = observer.last_seen().await?;
    // With a shard that is silent there is no sum of these; the rest says which one it is.
    let (latencies, queues) = match seen.silent[..] {
        [] => (observer.latencies().await.ok(), observer.queues().await.ok()),
        _ => (None, None),
    };
    let text = metrics::text(format, &seen, latencies.as_deref(), queues.as_deref());
    Ok(Reply::new(StatusCode::OK, format.kind(), text))
}

async fn histogram(observer: &Observer, query: &str) -> Result<Reply, Unknown> {
    match hgrm::parse(query) {
        Err(error) => Ok(Reply::error(StatusCode::BAD_REQUEST, &error)),
        Ok((metric, window)) => {
            let latencies = observer.latencies().await?;
            Ok(Reply::new(StatusCode::OK, TEXT, hgrm::text(latencies.of(metric, window))))
        }
    }
}

// --- actions ---

/// What a request asks to be done.
pub(super) fn action(method: &Method, path: &str) -> Result<Action, Reply> {
    let queue =
        |id: &str| id.parse().map(QueueId).map_err(|_| Reply::error(StatusCode::NOT_FOUND, "an id is a number"));
    if path == CHECKPOINT {
        return if *method == Method::POST { Ok(Action::Checkpoint) } else { Err(not_allowed("POST")) };
    }
    let Some(rest) = path.strip_prefix(QUEUES) else {
        let is_known = matches!(path, "/healthz" | "/readyz" | "/metrics" | "/debug/hgrm")
            || path.starts_with("/api/v1/")
            || ASSETS.iter().any(|(at, ..)| *at == path);
        return Err(if is_known { not_allowed("GET, HEAD") } else { nothing_here() });
    };
    match rest.strip_suffix("/purge") {
        Some(id) if *method == Method::POST => queue(id).map(Action::Purge),
        Some(_) => Err(not_allowed("POST")),
        None if *method == Method::DELETE => queue(rest).map(Action::Delete),
        None => Err(not_allowed("DELETE")),
    }
}

/// Does it, and says so in the log.
pub(super) async fn act(observer: &Observer, peer: SocketAddr, action: Action) -> Reply {
    let name = match action {
        Action::Checkpoint => String::new(),
        Action::Purge(id) | Action::Delete(id) => match observer.queues().await {
            Ok(queues) => {
                let queue = queues.iter().find(|(_, queue)| queue.queue == id);
                queue.map(|(_, queue)| log::shown(&queue.name).to_string()).unwrap_or_default()
            }
            Err(unknown) => return unavailable(&unknown),
        },
    };
    let result = observer.act(action).await;
    let what = match action {
        Action::Purge(QueueId(id)) => format!("purge of queue {name} ({id})"),
        Action::Delete(QueueId(id)) => format!("deletion of queue {name} ({id})"),
        Action::Checkpoint => "a checkpoint".into(),
    };
    match result {
        Ok(true) => {
            tracing::info!(target: log::ALWAYS, "admin: {what} was asked for by {peer}: done");
            Reply::new(StatusCode::OK, JSON, r#"{"ok":true}"#)
        }
        Ok(false) => Reply::error(StatusCode::NOT_FOUND, "there is no such queue"),
        Err(unknown) => {
            let text = format!("{}; it may still be done", unknown.text());
            tracing::warn!("admin: {what} was asked for by {peer}: {text}");
            Reply::error(StatusCode::SERVICE_UNAVAILABLE, &text)
        }
    }
}
