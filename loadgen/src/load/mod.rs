//! What loads the server: the threads, their connections, and what they count.

mod connection;
pub(crate) mod interval;
mod link;
mod patience;
pub(crate) mod schedule;
pub(crate) mod tally;
pub(crate) mod worker;
