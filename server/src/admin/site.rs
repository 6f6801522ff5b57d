//! `Site`: which path shows what.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use hyper::{
    Method, Request, Response, StatusCode,
    header::{self, HeaderValue},
};
use serde_json::{Value, json};
use tokio::{
    select,
    sync::{Mutex as AsyncMutex, Semaphore, oneshot, watch},
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{
    events::{Content, event},
    exhaustion::{Exhaustion, Look},
    exposition,
    map::Map,
    samples::{self, COLUMNS, Row, Samples, milliseconds},
};
#[cfg(feature = "tls")]
use crate::tls::Tls;
use crate::{
    handler::Handler,
    roster::{Census, Doing, HELD_BYTES_STEPS},
    server::{Phase, Server},
    stats::Reject,
    throttle::{Throttle, WARN_EVERY},
};

const PAGE: &str = include_str!("page.html");

/// What in the page stands for the figures that it begins with.
const FIGURES: &str = "{{figures}}";

/// How often figures are taken, and told.
const TICK: Duration = Duration::from_secs(1);

/// How often it is looked in between how much memory is in use, which comes and goes with requests.
const LOOK: Duration = Duration::from_millis(100);

/// To look may take one part in so many of the time: a large arena is looked at less often.
const LOOK_SHARE: u32 = 500;

/// To draw the map may take one part in so many of the time: that of a large arena is drawn less
/// often.
const MAP_SHARE: u32 = 50;

/// Connections that are shown by name.
const OLDEST: usize = 12;

/// Says that the page has all it needs in itself: a browser refuses everything else.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                      connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";

/// The last map, and when there may be another.
#[derive(Debug, Default)]
struct Drawn {
    map: Value,
    due: Option<Instant>,
}

/// What all connections to it share.
#[derive(Debug)]
pub(super) struct Site<H> {
    server: Server<H>,
    exhaustion: Mutex<Exhaustion>,
    samples: Mutex<Samples>,
    map: AsyncMutex<Drawn>,
    /// The latest event.
    latest: watch::Sender<Bytes>,
    subscribers: Arc<Semaphore>,
    /// Cancelled when there are no more events.
    over: CancellationToken,
    #[cfg(feature = "tls")]
    tls: Option<Tls>,
}

impl<H: Handler> Site<H> {
    pub(super) fn new(
        server: Server<H>,
        wait_max: Duration,
        subscribers_max: usize,
        over: CancellationToken,
    ) -> Self {
        let exhaustion = Exhaustion::new(wait_max, closed_for_memory(&server));
        Self {
            server,
            exhaustion: Mutex::new(exhaustion),
            samples: Mutex::default(),
            map: AsyncMutex::default(),
            latest: watch::Sender::new(Bytes::new()),
            subscribers: Arc::new(Semaphore::new(subscribers_max)),
            over,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    #[cfg(feature = "tls")]
    pub(super) fn tls(self, tls: Option<Tls>) -> Self {
        Self { tls, ..self }
    }

    /// Takes figures every second, and tells them to those who look.
    pub(super) async fn watch(&self) {
        let (mut ticks, mut looks) = (interval(TICK), interval(LOOK));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut live_max, mut look_due) = (0, Instant::now());
        loop {
            let is_tick = select! {
                biased;
                _ = ticks.tick() => true,
                _ = looks.tick() => false,
            };
            let start = Instant::now();
            if !is_tick && start < look_due {
                continue;
            }
            let memory = self.server.memory_metrics();
            live_max = memory.bytes_live.max(live_max);
            look_due = start + start.elapsed() * LOOK_SHARE;
            if !is_tick {
                continue;
            }
            let row = samples::row(&self.server, &memory, live_max);
            self.samples().push(row);
            live_max = 0;
            // Whoever asks next must learn of it, though nobody may ask for long.
            self.exhausted();
            if self.latest.receiver_count() > 0 {
                let map = self.map().await;
                self.latest.send_replace(event("tick", &self.tick(row, &map)));
            }
        }
    }

    /// Answers one request.
    pub(super) async fn answer<B>(&self, request: Request<B>) -> Response<Content> {
        let mut response = match (request.method(), request.uri().path()) {
            (&Method::GET | &Method::HEAD, "/") => html(self.page().await),
            (&Method::GET | &Method::HEAD, "/metrics") => {
                let text = exposition::write(&self.server, self.valid_until());
                respond(StatusCode::OK, exposition::CONTENT_TYPE, Content::whole(text))
            }
            (&Method::GET | &Method::HEAD, "/healthz") => text(StatusCode::OK, "ok\n".to_owned()),
            (&Method::GET | &Method::HEAD, "/readyz") => match self.unready() {
                None => text(StatusCode::OK, "ready\n".to_owned()),
                Some(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
            },
            (&Method::GET | &Method::HEAD, "/events") => self.subscribe().await,
            (&Method::GET | &Method::HEAD, _) => text(
                StatusCode::NOT_FOUND,
                "there are: / /metrics /healthz /readyz /events\n".to_owned(),
            ),
            _ => {
                let why = "there is nothing to change here\n".to_owned();
                let mut refusal = text(StatusCode::METHOD_NOT_ALLOWED, why);
                let allowed = HeaderValue::from_static("GET, HEAD");
                refusal.headers_mut().insert(header::ALLOW, allowed);
                refusal
            }
        };
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
        response
    }

    /// Returns until when the certificate of the server is valid, if it has one.
    fn valid_until(&self) -> Option<SystemTime> {
        #[cfg(feature = "tls")]
        return self.tls.as_ref()?.valid_until();
        #[cfg(not(feature = "tls"))]
        None
    }

    /// Returns why no more connections should come, if they should not.
    fn unready(&self) -> Option<String> {
        match self.server.phase() {
            Phase::Built => return Some("starting: it does not accept yet".to_owned()),
            Phase::Draining => {
                let connections = self.server.connections();
                return Some(format!("draining: {connections} connections are left"));
            }
            Phase::Ended => return Some("ended".to_owned()),
            Phase::Serving => {}
        }
        self.exhausted()
    }

    /// Looks whether memory is short, and returns how that shows.
    fn exhausted(&self) -> Option<String> {
        let look = Look {
            longest_wait: self.server.roster().longest_wait(),
            memory_timeout: self.server.limits().memory_timeout,
            closed: closed_for_memory(&self.server),
        };
        let mut exhaustion = self.exhaustion.lock().unwrap_or_else(PoisonError::into_inner);
        exhaustion.observe(Instant::now(), look)
    }

    /// The page, and in it what it shows first.
    async fn page(&self) -> String {
        // No text of a figure may end the element that they are in.
        let figures = self.hello().await.to_string().replace('<', "\\u003c");
        PAGE.replacen(FIGURES, &figures, 1)
    }

    async fn subscribe(&self) -> Response<Content> {
        let Ok(place) = Arc::clone(&self.subscribers).try_acquire_owned() else {
            let why = "as many look already as may\n".to_owned();
            return text(StatusCode::SERVICE_UNAVAILABLE, why);
        };
        let mut latest = self.latest.subscribe();
        latest.mark_unchanged();
        let hello = event("hello", &self.hello().await);
        let events = Content::events(hello, latest, self.over.clone(), place);
        respond(StatusCode::OK, "text/event-stream", events)
    }

    /// What does not change, the past, and what is now.
    async fn hello(&self) -> Value {
        let map = self.map().await;
        let plan = self.server.memory().plan();
        let rows: Vec<Row> = self.samples().rows().copied().collect();
        let tick = rows.last().map(|row| self.tick(*row, &map));
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "mode": if plan.is_fixed() { "fixed" } else { "buddy" },
            "plan": plan.to_string(),
            "capacity_bytes": plan.capacity_bytes(),
            "unit_bytes": plan.unit_bytes(),
            "largest_block_bytes": plan.largest_block_bytes(),
            "frame_block_bytes": plan.frame_block_bytes(),
            "parts": plan.parts(),
            "started_ms": milliseconds(self.server.built()),
            "now_ms": milliseconds(SystemTime::now()),
            "columns": COLUMNS,
            "rows": rows,
            "tick": tick,
        })
    }

    /// What changes.
    fn tick(&self, row: Row, map: &Value) -> Value {
        let memory = self.server.memory_metrics();
        let metrics = self.server.metrics();
        let rejects = metrics.rejects.iter().filter(|(_, count)| *count > 0);
        let rejects: Vec<_> = rejects.map(|(reason, count)| (reason.name(), count)).collect();
        let waits = memory.waits.iter();
        let waiters: Vec<_> = waits.map(|queue| queue.waiters).collect();
        json!({
            "row": row,
            "unready": self.unready(),
            "draining": self.server.phase() == Phase::Draining,
            "connections_limit": self.server.limits().max_connections,
            "accepted": metrics.accepted,
            "live_max": memory.bytes_live_max,
            "spill_reserved": memory.spill_bytes_reserved,
            "splits": memory.splits,
            "coalesces": memory.coalesces,
            "allocations": memory.allocations_ok,
            "refusals": memory.allocations_failed,
            "resident": exposition::resident_bytes(),
            "waiters_by_queue": waiters,
            "rejects": rejects,
            "census": census(&self.server.roster().census(OLDEST)),
            "map": map,
        })
    }

    /// The map, a new one if it is due.
    async fn map(&self) -> Value {
        let mut drawn = self.map.lock().await;
        let start = Instant::now();
        if drawn.due.is_none_or(|due| due <= start) {
            // Without a new one, the page goes on with the last.
            if let Some(map) = self.draw_map().await {
                drawn.map = map;
            }
            drawn.due = Some(start + start.elapsed() * MAP_SHARE);
        }
        drawn.map.clone()
    }

    /// Draws on a thread of its own: a large arena takes a while. `None` if there is no thread, or
    /// if it panics.
    ///
    /// Not by `spawn_blocking`, which panics where the system refuses a thread.
    async fn draw_map(&self) -> Option<Value> {
        let memory = self.server.memory().clone();
        let (drawn, map) = oneshot::channel();
        let draw = move || {
            // Nobody receives it if the admin server ends meanwhile.
            let _ = drawn.send(Map::of(&memory.occupancy(), memory.plan()).to_json());
        };
        if let Err(error) = thread::Builder::new().name("map".to_owned()).spawn(draw) {
            static THROTTLE: Throttle = Throttle::new(WARN_EVERY);
            if THROTTLE.pass().is_some() {
                warn!("admin: the map is not drawn, because there is no thread for it: {error}");
            }
            return None;
        }
        map.await.ok()
    }

    fn samples(&self) -> MutexGuard<'_, Samples> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many connections were closed after they had waited for memory.
fn closed_for_memory<H: Handler>(server: &Server<H>) -> u64 {
    let mut rejects = server.metrics().rejects.into_iter();
    rejects.find(|(reason, _)| *reason == Reject::MemoryTimeout).map_or(0, |(_, count)| count)
}

fn census(census: &Census) -> Value {
    let by_doing = Doing::ALL.into_iter().zip(census.by_doing);
    let by_doing: Vec<_> =
        by_doing.map(|(doing, (count, bytes))| json!([doing.name(), count, bytes])).collect();
    let oldest = census.oldest.iter().map(|holder| {
        json!({
            "id": holder.name.id,
            "peer": holder.name.peer,
            "doing": holder.doing.name(),
            "bytes": holder.held_bytes,
            "ms": u64::try_from(holder.held_for.as_millis()).unwrap_or(u64::MAX),
        })
    });
    json!({
        "by_doing": by_doing,
        "held_steps": HELD_BYTES_STEPS,
        "by_held": census.by_held,
        "oldest": oldest.collect::<Vec<_>>(),
    })
}

fn html(page: String) -> Response<Content> {
    respond(StatusCode::OK, "text/html; charset=utf-8", Content::whole(page))
}

fn text(status: StatusCode, text: String) -> Response<Content> {
    respond(status, "text/plain; charset=utf-8", Content::whole(text))
}

fn respond(status: StatusCode, kind: &'static str, content: Content) -> Response<Content> {
    let mut response = Response::new(content);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
