//! Frames: where they begin and end. No I/O, no memory.
//!
//! ```text
//! | length of the payload, 4 bytes, big-endian | payload |   | length | payload | ...
//! ```
//!
//! Whole frames that lie next to each other are their own reply: [`scan`] finds how far they go,
//! and what kind of beginning follows them.

/// Bytes of the length in front of every payload.
pub(crate) const HEADER_BYTES: usize = size_of::<u32>();

/// What [`scan`] found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Scan {
    /// Bytes of the whole frames at the front.
    pub(crate) whole_bytes: usize,
    /// What follows them.
    pub(crate) rest: Rest,
}

/// The bytes behind the last whole frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Rest {
    /// There are none.
    Nothing,
    /// A header or the beginning of one, without a byte of its payload.
    Header(Header),
    /// A header and the beginning of its payload, which has this many bytes in all.
    Payload(usize),
    /// A header that announces this many bytes, more than the limit.
    TooLong(usize),
}

/// What has arrived of a header: up to four bytes that need no block.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Header {
    bytes: [u8; HEADER_BYTES],
    len: usize,
}

impl Header {
    /// Takes the header from the front of `bytes`, as far as it is there.
    pub(crate) fn at_front_of(bytes: &[u8]) -> Self {
        let mut header = Self { bytes: [0; HEADER_BYTES], len: bytes.len().min(HEADER_BYTES) };
        header.bytes[..header.len].copy_from_slice(&bytes[..header.len]);
        header
    }

    /// Returns the bytes that have arrived.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// Returns whether nothing has arrived.
    fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the bytes of the payload, once the header is complete.
    pub(crate) fn payload_bytes(&self) -> Option<usize> {
        // A `usize` has at least 32 bits wherever this runs: the assertion below.
        (self.len == HEADER_BYTES).then(|| u32::from_be_bytes(self.bytes) as usize)
    }
}

const _: () = assert!(usize::BITS >= u32::BITS, "a payload length must fit an index");

/// Reads how long the payload is whose header lies at `at`.
#[inline]
pub(crate) fn payload_bytes_at(bytes: &[u8], at: usize) -> usize {
    let header = bytes[at..].first_chunk().expect("a whole frame has a header");
    u32::from_be_bytes(*header) as usize
}

/// Writes the header of a payload of `bytes`, which a header can announce.
pub(crate) fn header_of(bytes: usize) -> [u8; HEADER_BYTES] {
    u32::try_from(bytes).expect("the limit of a payload fits a header").to_be_bytes()
}

/// Finds the whole frames at the front of `bytes`, which begin with a frame.
///
/// Stops at a frame whose payload is longer than `max_payload_bytes`.
pub(crate) fn scan(bytes: &[u8], max_payload_bytes: usize) -> Scan {
    let mut whole_bytes = 0;
    loop {
        let rest = &bytes[whole_bytes..];
        let header = Header::at_front_of(rest);
        let rest = match header.payload_bytes() {
            None if header.is_empty() => Rest::Nothing,
            None => Rest::Header(header),
            Some(announced) if announced > max_payload_bytes => Rest::TooLong(announced),
            Some(announced) => {
                let arrived = rest.len() - HEADER_BYTES;
                if arrived >= announced {
                    whole_bytes += HEADER_BYTES + announced;
                    continue;
                }
                if arrived > 0 { Rest::Payload(announced) } else { Rest::Header(header) }
            }
        };
        return Scan { whole_bytes, rest };
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn frame(payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).expect("tests use short payloads");
        [&length.to_be_bytes(), payload].concat()
    }

    #[test]
    fn nothing_is_no_frame() {
        assert_eq!(scan(b"", 10), Scan { whole_bytes: 0, rest: Rest::Nothing });
    }

    #[test]
    fn a_frame_may_be_empty() {
        let bytes = [frame(b""), frame(b"")].concat();
        assert_eq!(scan(&bytes, 10), Scan { whole_bytes: 8, rest: Rest::Nothing });
    }

    #[test]
    fn a_header_without_payload_is_taken_out() {
        let bytes = [frame(b"abc"), frame(b"defgh")[..HEADER_BYTES].to_vec()].concat();
        let header = Header::at_front_of(&[0, 0, 0, 5]);
        assert_eq!(header.payload_bytes(), Some(5));
        assert_eq!(scan(&bytes, 10), Scan { whole_bytes: 7, rest: Rest::Header(header) });
    }

    #[test]
    fn a_part_of_a_header_has_no_length() {
        let Rest::Header(header) = scan(&[0, 0, 1], 10).rest else { panic!("not a header") };
        assert_eq!(header.as_bytes(), [0, 0, 1]);
        assert_eq!(header.payload_bytes(), None);
    }

    #[test]
    fn the_limit_counts_the_payload_alone() {
        assert_eq!(scan(&frame(&[7; 10]), 10).whole_bytes, 14);
        assert_eq!(scan(&frame(&[7; 11]), 10), Scan { whole_bytes: 0, rest: Rest::TooLong(11) });
    }

    #[test]
    fn a_length_of_four_gigabytes_is_too_long_before_its_payload_arrives() {
        assert_eq!(scan(&[0xFF; 4], 1 << 20).rest, Rest::TooLong(0xFFFF_FFFF));
    }

    #[test]
    fn frames_before_one_that_is_too_long_are_whole() {
        let bytes = [frame(b"ok"), frame(&[7; 11])].concat();
        assert_eq!(scan(&bytes, 10), Scan { whole_bytes: 6, rest: Rest::TooLong(11) });
    }

    proptest! {
        #[test]
        fn a_cut_anywhere_loses_no_frame(
            payloads in vec(vec(any::<u8>(), 0..20), 0..20),
            cut in any::<prop::sample::Index>(),
        ) {
            let frames: Vec<_> = payloads.iter().map(|payload| frame(payload)).collect();
            let bytes = frames.concat();
            let cut = cut.index(bytes.len() + 1);

            let mut ends = vec![0];
            ends.extend(frames.iter().scan(0, |end, frame| { *end += frame.len(); Some(*end) }));
            let last_whole = ends.iter().copied().filter(|end| *end <= cut).max().unwrap();
            let next = payloads.get(ends.iter().filter(|end| **end <= cut).count() - 1);

            let Scan { whole_bytes, rest } = scan(&bytes[..cut], 20);
            prop_assert_eq!(whole_bytes, last_whole);
            let begun = &bytes[last_whole..cut];
            prop_assert_eq!(rest, match begun.len() {
                0 => Rest::Nothing,
                1..=HEADER_BYTES => Rest::Header(Header::at_front_of(begun)),
                _ => Rest::Payload(next.expect("a frame has begun").len()),
            });
        }

        #[test]
        fn no_bytes_make_it_panic_or_exceed_them(
            bytes in vec(prop_oneof![3 => Just(0u8), 1 => any::<u8>()], 0..200),
            limit in 0usize..300,
        ) {
            let Scan { whole_bytes, rest } = scan(&bytes, limit);
            prop_assert!(whole_bytes <= bytes.len());
            match rest {
                Rest::Nothing => prop_assert_eq!(whole_bytes, bytes.len()),
                Rest::Header(header) => prop_assert_eq!(header.as_bytes(), &bytes[whole_bytes..]),
                Rest::Payload(announced) => prop_assert!(
                    announced <= limit && whole_bytes + HEADER_BYTES + announced > bytes.len()
                ),
                Rest::TooLong(announced) => prop_assert!(announced > limit),
            }
        }
    }
}
