//! What is sent: every byte of every frame is a pure function of (seed, connection, sequence).
//!
//! So a reply is checked by comparing it with the frame that must come next, and no copy of what
//! was sent is kept.
//!
//! ```text
//!             4 bytes      8 bytes                       the rest
//!          +----------+--------------+-------------------------------------------+
//! frame    |  length  |    stamp     |  a slice of the block, at an offset that  |
//!          |  (BE)    |              |  connection and sequence choose           |
//!          +----------+--------------+-------------------------------------------+
//!                      \_________________________ payload ______________________/
//! ```
//!
//! The stamp is the request's name, `connection << 44 | sequence`, multiplied by an odd number and
//! masked with a key from the seed. That is undone as easily, but a stamp with a wrong bit names a
//! request that was never sent, and so do zeros and bytes of other runs. A payload of fewer than 8
//! bytes has no room for it: there the slice starts at once.
//!
//! Bodies repeat after [`BODIES`] requests: that many frames can be kept ready, and only their
//! stamps are rewritten (see [`template`](crate::template)). The number is prime, so that memory
//! which a server uses again after a round number of requests never holds the right body by its
//! age.

use rand_xoshiro::{
    Xoshiro256PlusPlus,
    rand_core::{Rng, SeedableRng},
};

/// The length in front of each payload.
pub(crate) const HEADER_BYTES: usize = 4;
/// What tells from which connection and request a payload is.
pub(crate) const STAMP_BYTES: usize = 8;
/// The longest start of a frame that is not a slice of the block.
pub(crate) const PREFIX_BYTES: usize = HEADER_BYTES + STAMP_BYTES;

/// How many connections a stamp can tell apart.
pub(crate) const CONNECTIONS_MAX: u32 = 1 << 20;
/// The largest payload: the block is one slice of memory that all threads read.
pub(crate) const PAYLOAD_BYTES_MAX: u32 = 1 << 30;

const SEQUENCE_BITS: u32 = 44;
const SEQUENCE_MASK: u64 = (1 << SEQUENCE_BITS) - 1;
/// How many different bodies there are.
pub(crate) const BODIES: usize = 127;
/// How far each body starts behind the one before, in the block.
const BODY_STEP: usize = 16;
/// How many bodies connections are apart.
const BODIES_PER_CONNECTION: u64 = 48;
/// 2^64 divided by the golden ratio: what is multiplied by it differs in many bits from its
/// neighbours.
const STAMP_FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;
const STAMP_INVERSE: u64 = inverse(STAMP_FACTOR);

const _: () = assert!(STAMP_FACTOR.wrapping_mul(STAMP_INVERSE) == 1);
const _: () = assert!(CONNECTIONS_MAX.ilog2() + SEQUENCE_BITS == u64::BITS);
const _: () = assert!(PAYLOAD_BYTES_MAX as u64 <= u32::MAX as u64);

/// All frames of a run.
#[derive(Debug)]
pub(crate) struct Payloads {
    block: Box<[u8]>,
    key: u64,
    connections: u32,
    payload_bytes: u32,
    header: [u8; HEADER_BYTES],
    prefix_bytes: usize,
}

/// Where a frame comes from, as its stamp says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Origin {
    pub(crate) connection: u32,
    pub(crate) sequence: u64,
}

impl Origin {
    /// Both in one number, which no other request of the run has.
    #[inline]
    fn name(self) -> u64 {
        u64::from(self.connection) << SEQUENCE_BITS | self.sequence & SEQUENCE_MASK
    }
}

/// One frame in its two pieces.
#[derive(Debug)]
pub(crate) struct Frame<'a> {
    prefix: [u8; PREFIX_BYTES],
    prefix_bytes: usize,
    body: &'a [u8],
}

impl Payloads {
    /// Fills the block. `payload_bytes` and `connections` have been checked against the limits
    /// above.
    pub(crate) fn new(seed: u64, connections: u32, payload_bytes: u32) -> Self {
        assert!(connections <= CONNECTIONS_MAX && payload_bytes <= PAYLOAD_BYTES_MAX);
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
        let mut block = vec![0; BODIES * BODY_STEP + payload_bytes as usize].into_boxed_slice();
        random.fill_bytes(&mut block);
        let is_stamped = payload_bytes as usize >= STAMP_BYTES;
        Self {
            block,
            key: random.next_u64(),
            connections,
            payload_bytes,
            header: payload_bytes.to_be_bytes(),
            prefix_bytes: if is_stamped { PREFIX_BYTES } else { HEADER_BYTES },
        }
    }

    pub(crate) fn connections(&self) -> u32 {
        self.connections
    }

    pub(crate) fn payload_bytes(&self) -> u32 {
        self.payload_bytes
    }

    pub(crate) fn frame_bytes(&self) -> usize {
        HEADER_BYTES + self.payload_bytes as usize
    }

    pub(crate) fn is_stamped(&self) -> bool {
        self.prefix_bytes == PREFIX_BYTES
    }

    #[inline]
    pub(crate) fn frame(&self, origin: Origin) -> Frame<'_> {
        Frame {
            prefix: self.prefix(origin),
            prefix_bytes: self.prefix_bytes,
            body: self.body(origin, self.frame_bytes() - self.prefix_bytes),
        }
    }

    /// Which of the [`BODIES`] this frame has. The next frame of the connection has the next one.
    #[inline]
    pub(crate) fn body_number(&self, origin: Origin) -> usize {
        let count = origin.sequence + u64::from(origin.connection) * BODIES_PER_CONNECTION;
        usize::try_from(count % BODIES as u64).expect("there are few bodies")
    }

    /// The stamps of this request and of those that follow it on the connection. Multiplying by a
    /// constant distributes over counting, so each costs one addition.
    #[inline]
    pub(crate) fn stamps(&self, first: Origin) -> impl Iterator<Item = [u8; STAMP_BYTES]> + use<> {
        let key = self.key;
        let mut multiple = first.name().wrapping_mul(STAMP_FACTOR);
        std::iter::from_fn(move || {
            let stamp = multiple ^ key;
            multiple = multiple.wrapping_add(STAMP_FACTOR);
            Some(stamp.to_le_bytes())
        })
    }

    /// Who says, by its stamp, to have sent this payload. It need not be true.
    pub(crate) fn origin_of(&self, stamp: [u8; STAMP_BYTES]) -> Origin {
        let name = (u64::from_le_bytes(stamp) ^ self.key).wrapping_mul(STAMP_INVERSE);
        let connection = u32::try_from(name >> SEQUENCE_BITS).expect("20 bits fit");
        Origin { connection, sequence: name & SEQUENCE_MASK }
    }

    /// The first `len` bytes that follow the prefix of this frame.
    #[inline]
    pub(crate) fn body(&self, origin: Origin, len: usize) -> &[u8] {
        &self.block[self.body_number(origin) * BODY_STEP..][..len]
    }

    fn prefix(&self, origin: Origin) -> [u8; PREFIX_BYTES] {
        let mut prefix = [0; PREFIX_BYTES];
        let (header, stamp) = prefix.split_at_mut(HEADER_BYTES);
        header.copy_from_slice(&self.header);
        stamp.copy_from_slice(&self.stamps(origin).next().expect("there is no last stamp"));
        prefix
    }
}

impl Frame<'_> {
    /// The two pieces from byte `start` of the frame on.
    pub(crate) fn tail(&self, start: usize) -> [&[u8]; 2] {
        let in_prefix = start.min(self.prefix_bytes);
        [&self.prefix[in_prefix..self.prefix_bytes], &self.body[start - in_prefix..]]
    }

    /// How many of `bytes` equal the frame from byte `start` on.
    pub(crate) fn common_bytes(&self, start: usize, bytes: &[u8]) -> usize {
        let [prefix, body] = self.tail(start);
        let in_prefix = common_prefix(prefix, bytes);
        if in_prefix < prefix.len() {
            return in_prefix;
        }
        in_prefix + common_prefix(body, &bytes[in_prefix..])
    }
}

/// How many bytes at the start of both are equal.
pub(crate) fn common_prefix(left: &[u8], right: &[u8]) -> usize {
    let shorter = left.len().min(right.len());
    if left[..shorter] == right[..shorter] {
        return shorter;
    }
    left.iter().zip(right).take_while(|(left, right)| left == right).count()
}

/// The number whose product with `odd` is 1, by Newton's iteration: each round doubles the bits
/// that are right.
const fn inverse(odd: u64) -> u64 {
    let mut inverse = odd;
    let mut right_bits = 3;
    while right_bits < u64::BITS {
        inverse = inverse.wrapping_mul(2_u64.wrapping_sub(odd.wrapping_mul(inverse)));
        right_bits *= 2;
    }
    inverse
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORIGIN: Origin = Origin { connection: 3, sequence: 77 };

    fn bytes_of(payloads: &Payloads, origin: Origin) -> Vec<u8> {
        payloads.frame(origin).tail(0).concat()
    }

    #[test]
    fn a_frame_is_its_length_and_that_many_bytes() {
        for payload_bytes in [0, 1, 7, 8, 9, 64, 65_536] {
            let payloads = Payloads::new(1, 4, payload_bytes);
            let bytes = bytes_of(&payloads, ORIGIN);
            assert_eq!(bytes[..4], payload_bytes.to_be_bytes());
            assert_eq!(bytes.len(), 4 + payload_bytes as usize);
        }
    }

    #[test]
    fn every_single_bit_counts() {
        let payloads = Payloads::new(1, 4, 64);
        let bytes = bytes_of(&payloads, ORIGIN);
        for bit in 0..bytes.len() * 8 {
            let mut wrong = bytes.clone();
            wrong[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(payloads.frame(ORIGIN).common_bytes(0, &wrong), bit / 8);
        }
    }

    #[test]
    fn a_stamp_tells_connection_and_sequence() {
        let payloads = Payloads::new(1, 4, 64);
        for origin in [ORIGIN, Origin { connection: CONNECTIONS_MAX - 1, sequence: SEQUENCE_MASK }]
        {
            let bytes = bytes_of(&payloads, origin);
            assert_eq!(payloads.origin_of(bytes[4..12].try_into().unwrap()), origin);
        }
    }

    #[test]
    fn stamps_that_follow_are_those_of_the_next_requests() {
        let payloads = Payloads::new(1, 4, 64);
        for (stamp, sequence) in payloads.stamps(ORIGIN).zip(77..500) {
            assert_eq!(payloads.origin_of(stamp), Origin { sequence, ..ORIGIN });
        }
    }

    #[test]
    fn a_stamp_with_one_wrong_bit_names_a_request_that_was_never_sent() {
        for seed in 0..50 {
            let payloads = Payloads::new(seed, 1_000, 64);
            let stamp = payloads.stamps(ORIGIN).next().unwrap();
            for bit in 0..64 {
                let mut wrong = stamp;
                wrong[bit / 8] ^= 1 << (bit % 8);
                let Origin { connection, sequence } = payloads.origin_of(wrong);
                assert!(connection >= 1_000 || sequence > 1 << 32, "seed {seed}, bit {bit}");
            }
        }
    }

    #[test]
    fn one_seed_gives_one_run() {
        let [one, same, other] =
            [7, 7, 8].map(|seed| bytes_of(&Payloads::new(seed, 4, 64), ORIGIN));
        assert_eq!(one, same);
        assert_ne!(one, other);
    }

    #[test]
    fn neighbours_differ_in_stamp_and_body() {
        let payloads = Payloads::new(1, 4, 64);
        let here = bytes_of(&payloads, ORIGIN);
        for origin in [Origin { sequence: 78, ..ORIGIN }, Origin { connection: 2, ..ORIGIN }] {
            let there = bytes_of(&payloads, origin);
            assert_ne!(here[4..12], there[4..12]);
            assert_ne!(here[12..], there[12..]);
        }
    }

    #[test]
    fn a_comparison_may_start_anywhere() {
        let payloads = Payloads::new(1, 4, 64);
        let bytes = bytes_of(&payloads, ORIGIN);
        for start in 0..=bytes.len() {
            let frame = payloads.frame(ORIGIN);
            assert_eq!(frame.common_bytes(start, &bytes[start..]), bytes.len() - start);
            assert_eq!(frame.tail(start).concat(), bytes[start..]);
        }
    }
}
