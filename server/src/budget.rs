//! Who may hold memory: permits, each worth what one connection can need while it works on frames.
//!
//! # The rule
//!
//! A connection waits for input while it holds nothing, then waits for a permit while it holds
//! nothing, then works: it takes a read block, answers the frames in it, and gives block and permit
//! back as soon as no part of a payload is left in memory. Up to four bytes of a header stay with
//! the connection and need neither.
//!
//! # Why a holder is never refused memory
//!
//! | Mode  | A permit is worth         | Permits         | Because a holder has at most                           |
//! |-------|---------------------------|-----------------|--------------------------------------------------------|
//! | fixed | 1 slot                    | slots           | 1 slot: a payload whose header is taken out fits it    |
//! | buddy | 1 largest block, if that  | total / largest | 1 block: the read block, which holds every payload     |
//! |       | is the read block too     |                 |                                                        |
//! | buddy | 2 largest blocks          | total / 2       | 2 blocks: the read block, and one for a frame that     |
//! |       |                           | largest blocks  | does not fit into it                                   |
//!
//! Fixed: with fewer slots taken than there are permits, one is free.
//!
//! Buddy: cut the arena into chunks of the largest block. No block crosses a chunk. Let `p` be the
//! permits and `w` what each is worth in blocks. Who asks holds at most `w - 1` blocks, all others
//! together at most `(p - 1) * w`; so at most `p * w - 1` chunks are touched, and there are at
//! least `p * w`. One chunk is wholly free at every instant of the request, wherever the others
//! lie. The arena merges whatever is free and refuses only what cannot be served at some instant,
//! so it serves the request.
//!
//! Blocks drop before the permit that covers them: they are declared after it.
//!
//! # Why nobody waits for ever
//!
//! ```text
//! nothing held  --waits for-->  a permit  --whose holder waits for-->  its own peer, for a time
//! ```
//!
//! A holder waits for no permit and for no memory, so no cycle of connections can form. It waits
//! only for its peer: to send the rest of a frame (frame timeout), or to take some of the reply
//! (write timeout). When the time is up the connection is closed, and block and permit come back.
//! Permits are handed out in the order of asking, and while none is left a holder reads no further
//! than the end of the frame it has begun: so everyone in line is served, also behind a peer that
//! never stops sending.

use std::{fmt, num::NonZeroUsize};

use arena::{AllocError, Buffer, BuildError};
use bytes::BufMut;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::{
    config::{ArenaKind, Config},
    frame::HEADER_BYTES,
    pool::{MemoryMetrics, Pool},
    size::Size,
};

/// Bytes of a read block, where the largest block is not smaller. One read of this size brings many
/// small frames.
const READ_BLOCK_BYTES: usize = 64 << 10;

/// The smallest read block. It must hold a header and a part of a payload.
pub(crate) const READ_BLOCK_BYTES_MIN: usize = 64;

const _: () = assert!(READ_BLOCK_BYTES_MIN > HEADER_BYTES);
const _: () =
    assert!(READ_BLOCK_BYTES >= READ_BLOCK_BYTES_MIN && READ_BLOCK_BYTES.is_power_of_two());

/// What connections may need, added up from the configuration alone.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Plan {
    /// What a block is called in this mode.
    name: &'static str,
    /// Slots, or blocks of the largest size that a frame can need.
    blocks: usize,
    block_bytes: usize,
    read_block_bytes: usize,
    /// Blocks that a holder of one permit has at most.
    blocks_per_permit: usize,
}

impl Plan {
    /// Adds up what `config` needs. Its sizes are positive.
    pub(crate) fn new(config: &Config) -> Self {
        match config.arena {
            ArenaKind::Fixed { slot_bytes } => Self {
                name: "slots",
                blocks: config.capacity_bytes / slot_bytes,
                block_bytes: slot_bytes,
                read_block_bytes: slot_bytes,
                blocks_per_permit: 1,
            },
            ArenaKind::Buddy { min_block_bytes } => {
                let largest = config.max_frame_bytes.next_power_of_two();
                let block_bytes = largest.max(min_block_bytes).max(READ_BLOCK_BYTES_MIN);
                let read_block_bytes = block_bytes.min(READ_BLOCK_BYTES).max(min_block_bytes);
                Self {
                    name: "blocks",
                    blocks: config.capacity_bytes / block_bytes,
                    block_bytes,
                    read_block_bytes,
                    blocks_per_permit: if block_bytes == read_block_bytes { 1 } else { 2 },
                }
            }
        }
    }

    /// Returns how many connections may hold memory at once. None can progress if it is zero.
    pub(crate) fn permits(&self) -> usize {
        self.blocks / self.blocks_per_permit
    }

    /// Returns what one of them can need.
    pub(crate) fn bytes_per_permit(&self) -> usize {
        self.blocks_per_permit.saturating_mul(self.block_bytes)
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} of {}; a connection at work holds up to {} of them, so {} work at once; \
             they read up to {} at a time",
            self.blocks,
            self.name,
            Size(self.block_bytes),
            self.blocks_per_permit,
            self.permits(),
            Size(self.read_block_bytes),
        )
    }
}

/// The memory of a server and the permits to hold it.
#[derive(Debug)]
pub(crate) struct Budget {
    plan: Plan,
    pool: Pool,
    permits: Semaphore,
}

impl Budget {
    pub(crate) fn new(config: &Config) -> Result<Self, BuildError> {
        let plan = Plan::new(config);
        Ok(Self { plan, pool: Pool::new(config)?, permits: Semaphore::new(plan.permits()) })
    }

    pub(crate) fn plan(&self) -> Plan {
        self.plan
    }

    pub(crate) fn metrics(&self) -> MemoryMetrics {
        self.pool.metrics()
    }

    /// Takes a permit if one is left and nobody is in line for it.
    pub(crate) fn try_acquire(&self) -> Option<Permit<'_>> {
        let permit = self.permits.try_acquire().ok()?;
        Some(Permit { budget: self, _permit: permit })
    }

    /// Waits in line for a permit.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives up the place in line.
    pub(crate) async fn acquire(&self) -> Permit<'_> {
        let permit = self.permits.acquire().await.expect("the semaphore is never closed");
        Permit { budget: self, _permit: permit }
    }

    /// Returns whether no permit is left, so that others may be in line.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.permits.available_permits() == 0
    }
}

/// The right of one connection to hold a read block and a block for one frame.
#[derive(Debug)]
pub(crate) struct Permit<'b> {
    budget: &'b Budget,
    _permit: SemaphorePermit<'b>,
}

impl Permit<'_> {
    /// Takes a block to read into.
    pub(crate) fn read_block(&self) -> Result<Buffer, AllocError> {
        self.allocate(self.budget.plan.read_block_bytes)
    }

    /// Takes a block for a payload of this many bytes.
    pub(crate) fn payload_block(&self, payload_bytes: usize) -> Result<Buffer, AllocError> {
        self.allocate(payload_bytes)
    }

    /// Returns whether a frame with this payload fits into a read block, with its header.
    pub(crate) fn reads_in_one_block(&self, payload_bytes: usize) -> bool {
        payload_bytes <= self.budget.plan.read_block_bytes - HEADER_BYTES
    }

    /// Makes room for a payload of which `begun` has the first bytes: in the same block if it fits
    /// there, or in one of its own, to which they are copied.
    pub(crate) fn with_room_for(
        &self,
        payload_bytes: usize,
        begun: Buffer,
    ) -> Result<Buffer, AllocError> {
        if payload_bytes <= begun.capacity() {
            return Ok(begun);
        }
        let mut block = self.payload_block(payload_bytes)?;
        block.put_slice(&begun);
        Ok(block)
    }

    fn allocate(&self, bytes: usize) -> Result<Buffer, AllocError> {
        let bytes = NonZeroUsize::new(bytes).unwrap_or(NonZeroUsize::MIN);
        self.budget.pool.allocate(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buddy(capacity_bytes: usize, max_frame_bytes: usize) -> Config {
        Config { capacity_bytes, max_frame_bytes, ..Config::buddy() }
    }

    fn fixed(capacity_bytes: usize, slot_bytes: usize) -> Config {
        let arena = ArenaKind::Fixed { slot_bytes };
        Config { arena, capacity_bytes, max_frame_bytes: slot_bytes, ..Config::fixed() }
    }

    #[test]
    fn every_slot_is_a_permit() {
        assert_eq!(Plan::new(&fixed(64 << 10, 64 << 10)).permits(), 1);
        assert_eq!(Plan::new(&fixed(1 << 20, 3 << 10)).permits(), 341);
    }

    #[test]
    fn a_frame_that_needs_its_own_block_costs_two_of_the_largest() {
        assert_eq!(Plan::new(&buddy(2 << 20, 1 << 20)).permits(), 1);
        assert_eq!(Plan::new(&buddy(64 << 20, 1 << 20)).permits(), 32);
        assert_eq!(Plan::new(&buddy(1 << 20, 1 << 20)).permits(), 0);
    }

    #[test]
    fn a_frame_that_fits_the_read_block_costs_one() {
        assert_eq!(Plan::new(&buddy(64 << 10, 64 << 10)).permits(), 1);
        assert_eq!(Plan::new(&buddy(1 << 20, 1)).permits(), 4096);
    }

    /// The worst case of the argument in the module's documentation.
    #[test]
    fn holders_that_take_all_they_may_are_never_refused() -> Result<(), Box<dyn std::error::Error>>
    {
        for config in [buddy(8 << 20, 1 << 20), buddy(8 << 20, 100_000), fixed(1 << 20, 64 << 10)] {
            let budget = Budget::new(&config)?;
            let mut held = Vec::new();
            while let Some(permit) = budget.try_acquire() {
                let read = permit.read_block()?;
                let own = (budget.plan.blocks_per_permit > 1)
                    .then(|| permit.payload_block(config.max_frame_bytes))
                    .transpose()?;
                held.push((own, read, permit));
            }
            assert_eq!(held.len(), budget.plan.permits());
            assert!(budget.is_exhausted());

            drop(held);
            assert_eq!(budget.metrics().bytes_live, 0);
        }
        Ok(())
    }

    #[test]
    fn a_payload_moves_only_if_its_block_is_too_small() -> Result<(), Box<dyn std::error::Error>> {
        let budget = Budget::new(&buddy(2 << 20, 1 << 20))?;
        let permit = budget.try_acquire().expect("nobody holds the permit");

        let mut begun = permit.read_block()?;
        begun.put_slice(b"begun");
        let same = permit.with_room_for(READ_BLOCK_BYTES, begun)?;
        assert_eq!(budget.metrics().allocations_ok, 1);

        let moved = permit.with_room_for(READ_BLOCK_BYTES + 1, same)?;
        assert_eq!(&moved[..], b"begun");
        assert_eq!(budget.metrics().bytes_live, 2 * READ_BLOCK_BYTES);
        Ok(())
    }
}
