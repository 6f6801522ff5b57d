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
//! A frame whose parts come from different requests must not pass as one. How that is told depends
//! on how frames are sent:
//!
//! | Frames              | Bodies repeat after                | So a foreign part is noticed if       |
//! |---------------------|------------------------------------|---------------------------------------|
//! | short, all the same | [`LACED_BODIES`] requests, but the | it reaches over a stamp: any part of  |
//! |                     | stamp comes again every            | twice [`STAMP_DISTANCE`], and any that|
//! |                     | [`STAMP_DISTANCE`] bytes, and last | reaches to the end                    |
//! | any other           | [`SLICED_BODIES`] requests         | it is longer than a byte or two       |
//!
//! Short frames stand ready in a row, and only their stamps are rewritten (see
//! [`template`]): there must be few bodies. Other frames are sent from where the
//! block lies, so stamps within them would have to be copied; but there each body can be another
//! slice. Both numbers are prime, so that memory which a server uses again after a round number of
//! requests never holds the right body by its age.

pub(crate) mod mismatch;
pub(crate) mod size;
pub(crate) mod template;

use rand_xoshiro::{
    Xoshiro256PlusPlus,
    rand_core::{Rng, SeedableRng},
};

use crate::payload::size::{SizeTable, Sizes};

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
/// How many different bodies frames with several stamps have.
pub(crate) const LACED_BODIES: usize = 127;
/// How far the stamps in them are apart.
pub(crate) const STAMP_DISTANCE: usize = 64;
/// The longest payload of such frames: with longer ones the row would not fit into a cache.
pub(crate) const LACED_PAYLOAD_BYTES_MAX: u32 = 4 * 1024;
/// How many different bodies other frames have. Each starts one byte behind the one before.
const SLICED_BODIES: usize = 65_521;
/// How far bodies of frames in a row start behind each other.
const LACED_BODY_STEP: usize = 16;
/// How many bodies connections are apart.
const BODIES_PER_CONNECTION: u64 = 48;
/// 2^64 divided by the golden ratio: what is multiplied by it differs in many bits from its
/// neighbours.
const STAMP_FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;
const STAMP_INVERSE: u64 = inverse(STAMP_FACTOR);

const _: () = assert!(STAMP_FACTOR.wrapping_mul(STAMP_INVERSE) == 1);
const _: () = assert!(CONNECTIONS_MAX.ilog2() + SEQUENCE_BITS == u64::BITS);
const _: () = assert!(LACED_BODIES * LACED_BODY_STEP < SLICED_BODIES);

/// All frames of a run.
#[derive(Debug)]
pub(crate) struct Payloads {
    block: Box<[u8]>,
    key: u64,
    connections: u32,
    sizes: SizeTable,
    /// How long every frame is, if all are as long.
    frame_bytes: Option<usize>,
    lacing: Option<Lacing>,
}

/// Where stamps are in a payload that has several.
#[derive(Debug)]
pub(crate) struct Lacing {
    /// All but the first one, in order; counted from the start of the frame.
    pub(crate) places: Box<[usize]>,
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

    #[inline]
    fn body_number(self, bodies: usize) -> usize {
        let count = self.sequence + u64::from(self.connection) * BODIES_PER_CONNECTION;
        usize::try_from(count % bodies as u64).expect("a number below one in memory")
    }
}

/// One frame, in pieces.
#[derive(Debug)]
pub(crate) enum Frame<'a> {
    Sliced { prefix: [u8; PREFIX_BYTES], prefix_bytes: usize, body: &'a [u8] },
    Laced(Vec<u8>),
}

impl Payloads {
    /// Draws the sizes and fills the block. Sizes and number of connections have been checked
    /// against the limits above.
    pub(crate) fn new(seed: u64, connections: u32, sizes: impl Into<Sizes>) -> Self {
        let sizes = SizeTable::new(&sizes.into(), seed);
        let largest = sizes.largest();
        assert!(connections <= CONNECTIONS_MAX && largest <= PAYLOAD_BYTES_MAX);
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
        let mut block = vec![0; SLICED_BODIES + largest as usize].into_boxed_slice();
        random.fill_bytes(&mut block);
        let fixed = sizes.fixed();
        Self {
            block,
            key: random.next_u64(),
            connections,
            sizes,
            frame_bytes: fixed.map(|payload_bytes| HEADER_BYTES + payload_bytes as usize),
            lacing: fixed.filter(|&bytes| bytes <= LACED_PAYLOAD_BYTES_MAX).map(Lacing::new),
        }
    }

    pub(crate) fn connections(&self) -> u32 {
        self.connections
    }

    /// How large payloads are on average.
    pub(crate) fn mean_payload_bytes(&self) -> f64 {
        self.sizes.mean()
    }

    #[inline]
    pub(crate) fn payload_bytes(&self, origin: Origin) -> u32 {
        self.sizes.size(origin.connection, origin.sequence)
    }

    #[inline]
    pub(crate) fn frame_bytes(&self, origin: Origin) -> usize {
        match self.frame_bytes {
            Some(bytes) => bytes,
            None => HEADER_BYTES + self.payload_bytes(origin) as usize,
        }
    }

    /// How long every frame is, if all are as long.
    #[inline]
    pub(crate) fn common_frame_bytes(&self) -> Option<usize> {
        self.frame_bytes
    }

    /// Where further stamps are. Present if the frames are short and all as long.
    pub(crate) fn lacing(&self) -> Option<&Lacing> {
        self.lacing.as_ref()
    }

    #[inline]
    pub(crate) fn frame(&self, origin: Origin) -> Frame<'_> {
        let payload_bytes = self.payload_bytes(origin);
        let is_stamped = payload_bytes as usize >= STAMP_BYTES;
        let prefix_bytes = if is_stamped { PREFIX_BYTES } else { HEADER_BYTES };
        let prefix = self.prefix(payload_bytes, origin);
        let len = HEADER_BYTES + payload_bytes as usize - prefix_bytes;
        let Some(lacing) = &self.lacing else {
            let number = origin.body_number(SLICED_BODIES);
            return Frame::Sliced { prefix, prefix_bytes, body: &self.block[number..][..len] };
        };
        let start = self.body_number(origin) * LACED_BODY_STEP;
        let mut bytes = [&prefix[..prefix_bytes], &self.block[start..][..len]].concat();
        let (_, stamp) = prefix.split_at(HEADER_BYTES);
        lacing
            .places
            .iter()
            .for_each(|&place| bytes[place..][..STAMP_BYTES].copy_from_slice(stamp));
        Frame::Laced(bytes)
    }

    /// Which of the [`LACED_BODIES`] this frame has. The next frame of the connection has the next
    /// one.
    #[inline]
    pub(crate) fn body_number(&self, origin: Origin) -> usize {
        origin.body_number(LACED_BODIES)
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

    fn prefix(&self, payload_bytes: u32, origin: Origin) -> [u8; PREFIX_BYTES] {
        let mut prefix = [0; PREFIX_BYTES];
        let (header, stamp) = prefix.split_at_mut(HEADER_BYTES);
        header.copy_from_slice(&payload_bytes.to_be_bytes());
        stamp.copy_from_slice(&self.stamps(origin).next().expect("there is no last stamp"));
        prefix
    }
}

impl Lacing {
    fn new(payload_bytes: u32) -> Self {
        let frame_bytes = HEADER_BYTES + payload_bytes as usize;
        let Some(last) = frame_bytes.checked_sub(STAMP_BYTES).filter(|&last| last >= PREFIX_BYTES)
        else {
            return Self { places: Box::default() };
        };
        let regular = (HEADER_BYTES..).step_by(STAMP_DISTANCE).skip(1);
        let regular = regular.take_while(|&place| place + STAMP_BYTES <= last);
        Self { places: regular.chain([last]).collect() }
    }
}

impl Frame<'_> {
    /// The pieces from byte `start` of the frame on.
    pub(crate) fn tail(&self, start: usize) -> [&[u8]; 2] {
        match self {
            Self::Laced(bytes) => [&bytes[start..], &[]],
            Self::Sliced { prefix, prefix_bytes, body } => {
                let in_prefix = start.min(*prefix_bytes);
                [&prefix[in_prefix..*prefix_bytes], &body[start - in_prefix..]]
            }
        }
    }

    /// How many of `bytes` equal the frame from byte `start` on.
    pub(crate) fn common_bytes(&self, start: usize, bytes: &[u8]) -> usize {
        let [first, second] = self.tail(start);
        let in_first = common_prefix(first, bytes);
        if in_first < first.len() {
            return in_first;
        }
        in_first + common_prefix(second, &bytes[in_first..])
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
    fn every_part_as_long_as_twice_the_distance_tells_two_requests_with_one_body_apart() {
        let twin = Origin { sequence: ORIGIN.sequence + LACED_BODIES as u64, ..ORIGIN };
        for payload_bytes in [64, 100, 1_000, LACED_PAYLOAD_BYTES_MAX] {
            let payloads = Payloads::new(1, 4, payload_bytes);
            let (mut here, there) = (bytes_of(&payloads, ORIGIN), bytes_of(&payloads, twin));
            here[..PREFIX_BYTES].copy_from_slice(&there[..PREFIX_BYTES]);
            let parts = there[PREFIX_BYTES..].windows(2 * STAMP_DISTANCE);
            for (part, same) in parts.zip(here[PREFIX_BYTES..].windows(2 * STAMP_DISTANCE)) {
                assert_ne!(part, same);
            }
            assert_ne!(here.last_chunk::<STAMP_BYTES>(), there.last_chunk::<STAMP_BYTES>());
        }
    }

    #[test]
    fn sliced_frames_have_other_bodies_for_a_long_time() {
        let payloads = Payloads::new(1, 4, LACED_PAYLOAD_BYTES_MAX + 1);
        let here = bytes_of(&payloads, ORIGIN);
        for later in [1, 127, 128, 4_096, 65_520] {
            let sequence = ORIGIN.sequence + later;
            let there = bytes_of(&payloads, Origin { sequence, ..ORIGIN });
            let common = here.iter().zip(&there).filter(|(here, there)| here == there).count();
            assert!(common < here.len() / 32, "{common} bytes are the same {later} later");
        }
    }

    #[test]
    fn frames_of_a_distribution_have_the_lengths_that_they_say() {
        let payloads = Payloads::new(1, 4, "uniform:0..300".parse::<Sizes>().unwrap());
        for sequence in 0..1_000 {
            let origin = Origin { sequence, ..ORIGIN };
            let bytes = bytes_of(&payloads, origin);
            assert_eq!(bytes[..4], payloads.payload_bytes(origin).to_be_bytes());
            assert_eq!(bytes.len(), payloads.frame_bytes(origin));
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
