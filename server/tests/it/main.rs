//! The server as its peers meet it: real sockets, in this process and as the real program.

#[path = "../../../loadgen/tests/it/built.rs"]
mod built;
mod support;

mod admin;
mod bad_input;
mod closing;
mod configuration;
#[cfg(target_os = "linux")]
mod denied;
mod differential;
mod frames;
mod generator;
mod handlers;
mod idle;
mod limits;
mod listening;
mod manifests;
mod pauses;
mod progress;
mod real_binaries;
mod scarce;
mod service;
mod short_reads;
mod split;
mod stopping;
mod timeouts;
#[cfg(feature = "tls")]
mod tls;
mod usage;
