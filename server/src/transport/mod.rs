//! Frames between a stream and arena memory: [`ArenaFramed`], and its halves [`FrameReader`] and
//! [`FrameWriter`].
//!
//! An idle transport holds no arena memory: it waits until there is something to read, and only
//! then for a block to read it into. Frames are handed out as they lie in that block; a frame that
//! does not fit gets a block of its own, and is read straight into it.
//!
//! | Module   | What it knows                                                    |
//! |----------|------------------------------------------------------------------|
//! | `framed` | the three transports, and their builder                          |
//! | `halves` | how two tasks wait for one transport                              |
//! | `input`  | from bytes to frames: which block, when, and what is left over   |
//! | `output` | from replies to writes                                           |
//! | `watch`  | how long to wait                                                 |
//! | `ready`  | how to wait without memory                                       |

mod error;
mod framed;
mod halves;
mod input;
mod output;
mod ready;
mod watch;

#[cfg(feature = "tls")]
pub(crate) use self::ready::poll_read_now;
pub use self::{
    error::FrameError,
    framed::{ArenaFramed, FrameReader, FrameWriter, FramedBuilder},
    ready::{Probe, ReadReady},
    watch::Timeouts,
};
pub(crate) use self::{
    halves::{Half, Halves},
    input::{Batch, Filled, Input, Place},
    output::Output,
    ready::{Duplex, is_readable},
    watch::{Patience, Wait, Watch},
};
