//! The arena seen from outside: one binary, a module for each subject.

mod numbers;
mod support;

mod auto_traits;
mod compat;
mod errors;
mod exhaustion;
mod lifecycle;
mod metrics;
mod placement;
mod properties;
mod reserve;
mod stress;
mod tidy;
mod waiting;
