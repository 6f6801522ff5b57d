//! The server as its peers meet it: real sockets, in this process and as the real program.

mod support;

mod closing;
mod frames;
mod idle;
mod limits;
mod real_binaries;
mod scarce;
mod stopping;
mod timeouts;
mod usage;
