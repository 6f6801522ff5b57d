//! Waiting for memory: who is next, and why nobody sleeps beside memory that could serve him.
//!
//! # Hand-off
//!
//! Waiters stand in one queue, first come, first served. What the first of them asks for is the
//! *front* of the arena's line (see `claim::line`): whoever frees a block that suffices puts it
//! there by one exchange, instead of into the map. So it is not free for anybody else in between,
//! and a request that does not wait cannot overtake. A large request at the head keeps its place:
//! what is freed meanwhile is not given to smaller ones behind it.
//!
//! Then the front is *delivered*: under the queue's lock, the block goes to the first waiter, and
//! what the next one asks for becomes the front. Who finds the lock taken leaves that to its
//! holder, which looks again after it has let go of the lock. So no drop waits for the lock.
//!
//! # Why no wake-up is lost
//!
//! ```text
//! waiter                                   whoever makes memory free
//! 1  joins the queue, sets the front,      a  sets the free bits, in the map or in its cache
//!    shuts the caches                      b  barrier::light
//! 2  barrier::heavy                        c  if the line is in use: empties its cache, searches
//! 3  empties the caches, searches             for those in the line
//! ```
//!
//! This is Dekker's pattern: c sees 1, or 3 sees a. A search may miss what is published meanwhile,
//! or what is out of sight during a move; but whoever publishes or moves comes to c afterwards, and
//! whoever comes to c last sees all of it. Caches stay shut while somebody waits, so later releases
//! go to the map, where a is a `SeqCst` read-modify-write; so when the next waiter becomes the
//! front, no barrier is needed.
//!
//! Models: `models::wait`.
//!
//! # What it costs
//!
//! With no waiters, a release pays the one load that it needs anyway (see `life`). A release that
//! does not serve the front costs what it costs in the map, whatever the size of the arena. Waiting
//! allocates nothing: the nodes of the queue lie in the futures. Wakers are cloned, woken and
//! dropped outside the lock, so they may do what they like.

mod future;
mod queue;
mod wakers;

pub use self::queue::WaitMetrics;
pub(crate) use self::{
    future::{Claim, Waiter},
    queue::{List, Node, Queue, Standing},
    wakers::Wakers,
};
