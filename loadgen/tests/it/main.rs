//! Runs of the generator against servers that these tests write themselves, honest ones and others.

mod ab;
mod adversaries;
mod built;
mod command_line;
mod counts;
mod forms;
mod full_disks;
mod lies;
mod live;
mod losses;
mod metrics;
mod open_loop;
mod phases;
mod pinning;
mod saved_runs;
mod server_command;
mod servers;
mod shell;
mod tls;
mod tls_servers;
