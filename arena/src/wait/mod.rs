//! Waiting for memory: who is next, and why nobody sleeps beside memory that could serve him.
//!
//! # Hand-off
//!
//! Waiters stand in one queue, first come, first served. Whoever makes memory free while somebody
//! waits *serves* the queue: it claims a block for the first waiter and hands it over, as long as
//! there is memory. So nothing happens between a wake-up and a retry, because there is no retry. A
//! large request at the head keeps its place: what is freed meanwhile is not given to smaller ones
//! behind it.
//!
//! # Why no wake-up is lost
//!
//! ```text
//! waiter                                   whoever makes memory free
//! 1  joins the queue, marks it waited for  a  sets the free bits, in the map or in its cache
//! 2  barrier::heavy                        b  barrier::light
//! 3  serves the queue                      c  if the queue is waited for, serves it
//! ```
//!
//! This is Dekker's pattern: c sees 1, or 3 sees a. Serving searches under the queue's lock, once.
//! It may miss what is published meanwhile, or what is out of sight during a move; but whoever
//! publishes or moves comes to c afterwards, and whoever comes to c last sees all of it. Memory is
//! published by releases, by tails that are given back and by claims that had to go beyond their
//! thread's cache, since those move units; each of them ends with c.
//!
//! Without the kernel's barrier, a is a `SeqCst` read-modify-write and the others are `SeqCst` as
//! well, with a fence at 2.
//!
//! Models: `models::wait`.
//!
//! # What it costs
//!
//! With no waiters, a release pays the one load that it needs anyway (see `life`). With waiters,
//! releases take a short lock. Waiting allocates nothing: the nodes of the queue lie in the
//! futures. Wakers are woken and dropped outside the lock, so they may do what they like.

mod future;
mod queue;
mod wakers;

pub use self::queue::WaitMetrics;
pub(crate) use self::{
    future::{Claim, Waiter},
    queue::{Node, Queue, Standing},
    wakers::Wakers,
};
