//! What a wrong reply is: the classes, and how one is told from the other.
//!
//! The evidence is where the reply first differs from the frame that was due, and what arrived from
//! there on. The stamp decides, if it names a request that can have been sent: one that is damaged
//! names another with near certainty. Where the start of a frame is right and a later stamp in it
//! is another request's, the frame is torn, and counts as what its foreign part is.
//!
//! | Class           | The bytes are                                                                       |
//! |-----------------|-------------------------------------------------------------------------------------|
//! | other connection| a frame that belongs to another connection of this run                              |
//! | stale           | an earlier frame of this connection                                                 |
//! | early           | a later frame of this connection: the one before it was lost or overtaken           |
//! | truncated       | the frame that was due, but shorter, or cut off by the next one                     |
//! | flipped         | the frame that was due, with wrong bytes in it                                      |
//! | unsolicited     | more than was ever asked for                                                        |
//! | unclassified    | anything else, and everything where payloads have fewer than 8 bytes                |

use serde::Serialize;

use crate::payload::{HEADER_BYTES, Origin, PREFIX_BYTES, Payloads, STAMP_BYTES};

/// How much body is enough to tell a damaged stamp from the bytes of no known frame.
const TELLING_BYTES: usize = 64;
/// How many wrong bits a stamp has at most to count as damaged.
const DAMAGED_BITS_MAX: u32 = 8;
/// How far ahead of the request that is due, or of all that others sent, a sequence can be.
const LEAD_MAX: u64 = 1 << 32;
/// How much of a wrong reply is kept.
pub(crate) const EVIDENCE_BYTES_MAX: usize = 4096;

/// What a wrong reply is.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mismatch {
    /// A frame of another connection.
    OtherConnection,
    /// An earlier frame of the same connection.
    Stale,
    /// A later frame of the same connection: one was lost or overtaken.
    Early,
    /// The right frame, cut short.
    Truncated,
    /// The right frame, with wrong bytes in it.
    Flipped,
    /// More bytes than were asked for.
    Unsolicited,
    /// Bytes of no known frame, or too few to tell.
    Unclassified,
}

impl Mismatch {
    /// Every class, in the order in which reports show them.
    pub const ALL: [Self; 7] = [
        Self::OtherConnection,
        Self::Stale,
        Self::Early,
        Self::Truncated,
        Self::Flipped,
        Self::Unsolicited,
        Self::Unclassified,
    ];

    /// The name for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::OtherConnection => "another connection's",
            Self::Stale => "stale",
            Self::Early => "early",
            Self::Truncated => "truncated",
            Self::Flipped => "flipped",
            Self::Unsolicited => "unsolicited",
            Self::Unclassified => "unclassified",
        }
    }
}

/// A reply that differs from the frame that was due.
#[derive(Debug)]
pub(crate) struct Evidence {
    /// The frame that was due.
    pub(crate) due: Origin,
    /// How many of its bytes came back right.
    pub(crate) matched: usize,
    /// What came instead of the next one, and after that.
    pub(crate) odd: Vec<u8>,
}

impl Evidence {
    /// Adds bytes that arrived after those that are known.
    pub(crate) fn extend(&mut self, bytes: &[u8]) {
        let room = EVIDENCE_BYTES_MAX.saturating_sub(self.odd.len());
        self.odd.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    /// Whether more bytes could change the judgement.
    pub(crate) fn is_sufficient(&self, payloads: &Payloads) -> bool {
        let frame_bytes = payloads.frame_bytes(self.due);
        let known = self.matched + self.odd.len();
        if self.matched >= PREFIX_BYTES || !self.is_stamped(payloads) {
            let stamp_ends_at = self.next_stamp(payloads).map_or(0, |place| place + STAMP_BYTES);
            return known >= frame_bytes.min(self.matched + PREFIX_BYTES).max(stamp_ends_at);
        }
        let Some(length) = self.start(payloads).first_chunk().copied().map(u32::from_be_bytes)
        else {
            return false;
        };
        let payload = (length as usize).min(frame_bytes - HEADER_BYTES);
        known >= (HEADER_BYTES + payload).min(PREFIX_BYTES + TELLING_BYTES)
    }

    /// Judges by what is known.
    pub(crate) fn classify(&self, payloads: &Payloads) -> Mismatch {
        if !self.is_stamped(payloads) {
            return Mismatch::Unclassified;
        }
        if self.is_cut_off(payloads) {
            return Mismatch::Truncated;
        }
        if self.matched >= PREFIX_BYTES {
            let foreign = self.foreign_part(payloads);
            return foreign.map_or(Mismatch::Flipped, |origin| self.class_of(origin));
        }
        let start = self.start(payloads);
        let Some((header, payload)) = start.split_first_chunk::<HEADER_BYTES>() else {
            return Mismatch::Unclassified;
        };
        let length = u32::from_be_bytes(*header);
        let payload_bytes = payloads.payload_bytes(self.due);
        let is_short = length < payload_bytes;
        // What follows a frame is not its own.
        let payload_bytes = length.min(payload_bytes) as usize;
        let payload = &payload[..payload.len().min(payload_bytes)];
        let Some((stamp, body)) = payload.split_first_chunk() else {
            let due = payloads.frame(self.due);
            let is_right = due.common_bytes(HEADER_BYTES, payload) == payload.len();
            let is_truncated = is_short && is_right && !payload.is_empty();
            return if is_truncated { Mismatch::Truncated } else { Mismatch::Unclassified };
        };
        let origin = payloads.origin_of(*stamp);
        if origin == self.due {
            return if is_short { Mismatch::Truncated } else { Mismatch::Flipped };
        }
        if self.can_have_been_sent(origin, payloads) {
            return self.class_of(origin);
        }
        let due_stamp = payloads.stamps(self.due).next().expect("there is no last stamp");
        let wrong_bits = u64::from_ne_bytes(due_stamp) ^ u64::from_ne_bytes(*stamp);
        let due = payloads.frame(self.due);
        let has_due_body = !body.is_empty() && due.common_bytes(PREFIX_BYTES, body) == body.len();
        match has_due_body || wrong_bits.count_ones() <= DAMAGED_BITS_MAX {
            true => Mismatch::Flipped,
            false => Mismatch::Unclassified,
        }
    }

    /// What a frame of this other request is.
    fn class_of(&self, origin: Origin) -> Mismatch {
        match origin.connection == self.due.connection {
            false => Mismatch::OtherConnection,
            true if origin.sequence < self.due.sequence => Mismatch::Stale,
            true => Mismatch::Early,
        }
    }

    fn is_stamped(&self, payloads: &Payloads) -> bool {
        payloads.payload_bytes(self.due) as usize >= STAMP_BYTES
    }

    /// Where the first stamp is that ends after the first wrong byte, but for the one in front.
    fn next_stamp(&self, payloads: &Payloads) -> Option<usize> {
        let places = &payloads.lacing()?.places;
        places.iter().copied().find(|place| place + STAMP_BYTES > self.matched)
    }

    /// Whose bytes the frame goes on with after a right start, if they are another request's.
    fn foreign_part(&self, payloads: &Payloads) -> Option<Origin> {
        let place = self.next_stamp(payloads)?;
        let mut known = payloads.frame(self.due).tail(0).concat();
        known.truncate(self.matched);
        known.extend_from_slice(&self.odd);
        let origin = payloads.origin_of(*known.get(place..)?.first_chunk()?);
        (origin != self.due && self.can_have_been_sent(origin, payloads)).then_some(origin)
    }

    fn can_have_been_sent(&self, origin: Origin, payloads: &Payloads) -> bool {
        origin.connection < payloads.connections()
            && origin.sequence < self.due.sequence.saturating_add(LEAD_MAX)
    }

    /// The reply from its first byte on, as far as known; the body only if the difference is before
    /// it.
    fn start(&self, payloads: &Payloads) -> Vec<u8> {
        let mut start = payloads.frame(self.due).tail(0).concat();
        start.truncate(self.matched.min(PREFIX_BYTES));
        start.extend_from_slice(&self.odd);
        start
    }

    /// Whether the next frame starts where this one should have gone on.
    fn is_cut_off(&self, payloads: &Payloads) -> bool {
        let next = Origin { sequence: self.due.sequence + 1, ..self.due };
        let shown = self.odd.len().min(PREFIX_BYTES);
        shown > HEADER_BYTES && payloads.frame(next).common_bytes(0, &self.odd[..shown]) == shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::size::Sizes;

    const DUE: Origin = Origin { connection: 1, sequence: 50 };

    fn bytes_of(payloads: &Payloads, origin: Origin) -> Vec<u8> {
        payloads.frame(origin).tail(0).concat()
    }

    #[track_caller]
    fn judge(payloads: &Payloads, reply: &[u8]) -> Mismatch {
        let matched = payloads.frame(DUE).common_bytes(0, reply);
        let evidence = Evidence { due: DUE, matched, odd: reply[matched..].to_vec() };
        assert!(evidence.is_sufficient(payloads), "{evidence:?}");
        evidence.classify(payloads)
    }

    #[test]
    fn frames_of_others_and_of_other_times_are_named() {
        for payload_bytes in [8, 9, 64, 10_000] {
            let payloads = Payloads::new(5, 4, payload_bytes);
            let reply = |connection, sequence| bytes_of(&payloads, Origin { connection, sequence });
            assert_eq!(judge(&payloads, &reply(2, 50)), Mismatch::OtherConnection);
            assert_eq!(judge(&payloads, &reply(2, 49)), Mismatch::OtherConnection);
            assert_eq!(judge(&payloads, &reply(1, 49)), Mismatch::Stale);
            assert_eq!(judge(&payloads, &reply(1, 51)), Mismatch::Early);
        }
    }

    #[test]
    fn a_torn_frame_is_what_its_foreign_part_is() {
        let payloads = Payloads::new(5, 4, 1_000);
        let due = bytes_of(&payloads, DUE);
        for (foreign, class) in [
            (Origin { connection: 2, sequence: 50 }, Mismatch::OtherConnection),
            (Origin { connection: 1, sequence: 49 }, Mismatch::Stale),
            // Far enough that the body is the same again.
            (Origin { connection: 1, sequence: 50 + 127 }, Mismatch::Early),
        ] {
            let foreign = bytes_of(&payloads, foreign);
            for start in [PREFIX_BYTES, 100, 500, 990] {
                let torn = [&due[..start], &foreign[start..]].concat();
                assert_eq!(judge(&payloads, &torn), class, "from byte {start} on");
            }
            let mut hole = due.clone();
            hole[300..428].copy_from_slice(&foreign[300..428]);
            assert_eq!(judge(&payloads, &hole), class);
        }
    }

    #[test]
    fn frames_of_other_lengths_are_named_all_the_same() {
        let payloads = Payloads::new(5, 4, "uniform:100..3000".parse::<Sizes>().unwrap());
        let reply = |connection, sequence| bytes_of(&payloads, Origin { connection, sequence });
        for sequence in 0..50 {
            assert_eq!(judge(&payloads, &reply(1, sequence)), Mismatch::Stale);
            assert_eq!(judge(&payloads, &reply(2, sequence)), Mismatch::OtherConnection);
            assert_eq!(judge(&payloads, &reply(1, 51 + sequence)), Mismatch::Early);
        }
    }

    #[test]
    fn one_flipped_bit_anywhere_in_a_payload_is_flipped() {
        let payloads = Payloads::new(5, 4, 64);
        for bit in 4 * 8..68 * 8 {
            let mut reply = bytes_of(&payloads, DUE);
            reply[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(judge(&payloads, &reply), Mismatch::Flipped, "bit {bit}");
        }
    }

    #[test]
    fn a_shorter_frame_is_truncated_whether_its_length_says_so_or_not() {
        let payloads = Payloads::new(5, 4, 64);
        let whole = bytes_of(&payloads, DUE);
        let next = bytes_of(&payloads, Origin { sequence: 51, ..DUE });
        for lost in [1, 10, 60] {
            let mut honest = whole[..68 - lost].to_vec();
            honest[..4].copy_from_slice(&u32::try_from(64 - lost).unwrap().to_be_bytes());
            assert_eq!(judge(&payloads, &honest), Mismatch::Truncated, "{lost} bytes, said");
        }
        for lost in [1, 10, 56, 60] {
            let cut = [&whole[..68 - lost], &next].concat();
            assert_eq!(judge(&payloads, &cut), Mismatch::Truncated, "{lost} bytes, not said");
        }
    }

    #[test]
    fn zeros_and_noise_are_of_no_known_frame() {
        let payloads = Payloads::new(5, 4, 64);
        let mut zeros = vec![0; 68];
        zeros[..4].copy_from_slice(&64_u32.to_be_bytes());
        assert_eq!(judge(&payloads, &zeros), Mismatch::Unclassified);
        assert_eq!(judge(&payloads, &[0xAB; 100]), Mismatch::Unclassified);
    }

    #[test]
    fn payloads_without_a_stamp_are_unclassified() {
        for payload_bytes in [0, 1, 7] {
            let payloads = Payloads::new(5, 4, payload_bytes);
            assert_eq!(judge(&payloads, &[0xFF; 40]), Mismatch::Unclassified);
        }
    }

    #[test]
    fn a_lone_header_is_not_enough_to_judge() {
        let payloads = Payloads::new(5, 4, 64);
        let evidence = Evidence { due: DUE, matched: 3, odd: vec![60] };
        assert!(!evidence.is_sufficient(&payloads));
    }
}
