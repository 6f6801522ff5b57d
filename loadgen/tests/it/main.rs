//! Runs of the generator against servers that these tests write themselves, honest ones and others.

mod adversaries;
mod command_line;
mod counts;
mod lies;
mod losses;
mod open_loop;
mod server_command;
mod servers;
