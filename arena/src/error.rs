//! What can go wrong, and what to do about it.

/// Why an arena could not give out memory.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum AllocError {
    /// Every slot, or every block that is large enough, is in use. Worth trying again: memory
    /// returns when a buffer, or the last reference to what was frozen from it, drops.
    #[error(
        "the arena is full: no free slot or block is large enough now; try again when a buffer has been dropped"
    )]
    ArenaFull,
    /// The arena will never have a block this large. Do not try again.
    #[error("the request is larger than the largest block of the arena, so it can never be served")]
    RequestTooLarge,
    /// No memory became free within the time that the caller gave.
    #[error("no memory became free in time")]
    TimedOut,
}

/// Why an arena could not be built.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BuildError {
    /// The arena would have more bytes than an address range, or more units than an index, can
    /// count.
    #[error(
        "the arena is too large: slot count times slot capacity (rounded up to the alignment) must not exceed \
         isize::MAX bytes, and there must be at most 2^31 slots or minimum blocks"
    )]
    SizeOverflow,
    /// The alignment is not a power of two.
    #[error("the alignment must be a power of two")]
    InvalidAlignment,
    /// The sizes of a buddy arena do not fit together.
    #[error(
        "the total size must be a power-of-two multiple of the minimum block size, which must \
         itself be a power of two and a multiple of the alignment"
    )]
    InvalidGeometry,
    /// The reserve leaves too little for ordinary requests.
    #[error(
        "the reserve is too large: it must leave at least one slot of a fixed arena, and, rounded up to a \
         power-of-two multiple of the minimum block size, at least half of a buddy arena"
    )]
    ReserveTooLarge,
    /// The system has no memory for the region or for its tables.
    #[error("there is not enough memory for the arena: make it smaller")]
    OutOfMemory,
}

/// A write was larger than what is left of the buffer. Nothing was written.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("buffer full: {requested} bytes do not fit into the {remaining} bytes that remain")]
pub struct BufferFullError {
    /// Bytes that can still be written.
    pub remaining: usize,
    /// Bytes that the write wanted to add.
    pub requested: usize,
}
