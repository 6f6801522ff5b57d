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
    /// The whole frames at the front, and their bytes.
    pub(crate) whole_frames: usize,
    pub(crate) whole_bytes: usize,
    /// What follows them.
    pub(crate) rest: Rest,
}

/// The bytes behind the last whole frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Rest {
    /// There are none.
    Nothing,
    /// A part of a header.
    Header,
    /// A header and perhaps the beginning of its payload, which has this many bytes in all.
    Payload(usize),
    /// A header that announces this many bytes, more than the limit.
    TooLong(usize),
}

const _: () = assert!(usize::BITS >= u32::BITS, "a payload length must fit an index");

/// Reads how long the payload is whose header is at the front, if all of it is there.
pub(crate) fn announced_bytes(bytes: &[u8]) -> Option<usize> {
    bytes.first_chunk().map(|header| u32::from_be_bytes(*header) as usize)
}

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
    let (mut whole_frames, mut whole_bytes) = (0, 0);
    loop {
        let begun = &bytes[whole_bytes..];
        let Some((header, payload)) = begun.split_first_chunk() else {
            let rest = if begun.is_empty() { Rest::Nothing } else { Rest::Header };
            return Scan { whole_frames, whole_bytes, rest };
        };
        let announced = u32::from_be_bytes(*header) as usize;
        if announced > max_payload_bytes {
            return Scan { whole_frames, whole_bytes, rest: Rest::TooLong(announced) };
        }
        if announced > payload.len() {
            return Scan { whole_frames, whole_bytes, rest: Rest::Payload(announced) };
        }
        whole_frames += 1;
        whole_bytes += HEADER_BYTES + announced;
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
        assert_eq!(scan(b"", 10), Scan { whole_frames: 0, whole_bytes: 0, rest: Rest::Nothing });
    }

    #[test]
    fn a_frame_may_be_empty() {
        let bytes = [frame(b""), frame(b"")].concat();
        assert_eq!(scan(&bytes, 10), Scan { whole_frames: 2, whole_bytes: 8, rest: Rest::Nothing });
    }

    #[test]
    fn a_header_announces_its_payload() {
        let bytes = [frame(b"abc"), frame(b"defgh")[..HEADER_BYTES].to_vec()].concat();
        assert_eq!(announced_bytes(&bytes), Some(3));
        assert_eq!(
            scan(&bytes, 10),
            Scan { whole_frames: 1, whole_bytes: 7, rest: Rest::Payload(5) }
        );
    }

    #[test]
    fn a_part_of_a_header_has_no_length() {
        assert_eq!(scan(&[0, 0, 1], 10).rest, Rest::Header);
        assert_eq!(announced_bytes(&[0, 0, 1]), None);
    }

    #[test]
    fn the_limit_counts_the_payload_alone() {
        assert_eq!(scan(&frame(&[7; 10]), 10).whole_bytes, 14);
        assert_eq!(
            scan(&frame(&[7; 11]), 10),
            Scan { whole_frames: 0, whole_bytes: 0, rest: Rest::TooLong(11) }
        );
    }

    #[test]
    fn a_length_of_four_gigabytes_is_too_long_before_its_payload_arrives() {
        assert_eq!(scan(&[0xFF; 4], 1 << 20).rest, Rest::TooLong(0xFFFF_FFFF));
    }

    #[test]
    fn frames_before_one_that_is_too_long_are_whole() {
        let bytes = [frame(b"ok"), frame(&[7; 11])].concat();
        assert_eq!(
            scan(&bytes, 10),
            Scan { whole_frames: 1, whole_bytes: 6, rest: Rest::TooLong(11) }
        );
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

            let Scan { whole_frames, whole_bytes, rest } = scan(&bytes[..cut], 20);
            prop_assert_eq!(whole_bytes, last_whole);
            prop_assert_eq!(whole_frames, ends.iter().filter(|end| **end <= cut).count() - 1);
            let begun = &bytes[last_whole..cut];
            prop_assert_eq!(rest, match begun.len() {
                0 => Rest::Nothing,
                1..HEADER_BYTES => Rest::Header,
                _ => Rest::Payload(next.expect("a frame has begun").len()),
            });
        }

        #[test]
        fn no_bytes_make_it_panic_or_exceed_them(
            bytes in vec(prop_oneof![3 => Just(0u8), 1 => any::<u8>()], 0..200),
            limit in 0usize..300,
        ) {
            let Scan { whole_bytes, rest, .. } = scan(&bytes, limit);
            prop_assert!(whole_bytes <= bytes.len());
            match rest {
                Rest::Nothing => prop_assert_eq!(whole_bytes, bytes.len()),
                Rest::Header => {
                    let begun_bytes = bytes.len() - whole_bytes;
                    prop_assert!((1..HEADER_BYTES).contains(&begun_bytes));
                }
                Rest::Payload(announced) => prop_assert!(
                    announced <= limit && whole_bytes + HEADER_BYTES + announced > bytes.len()
                ),
                Rest::TooLong(announced) => prop_assert!(announced > limit),
            }
        }
    }
}
