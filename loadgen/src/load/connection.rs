//! One connection without its socket: which bytes are due in either direction, and since when.
//!
//! Frames are numbered. Everything is said by three positions in the endless stream of frames:
//!
//! ```text
//!   echoed            written           queued
//!     |                  |                 |
//! ----+------------------+-----------------+-------->  frames 0, 1, 2, ...
//!       the server owes    the socket has
//!                          not taken yet
//! ```
//!
//! The two on the left point to bytes, so frames may arrive and leave in pieces. The bytes
//! themselves come from [`Payloads`]; nothing of what was sent is kept but the time, once per batch
//! of frames that were queued together.

use std::{
    collections::VecDeque,
    io::{self, IoSlice, Write},
};

use crate::{
    payload::{
        Origin, Payloads,
        mismatch::{Evidence, Mismatch},
        template::Template,
    },
    plan::Verify,
};

/// How many frames one write takes that are too long for a template.
const LONG_FRAMES_PER_WRITE: usize = 32;

/// Where the bytes of all connections of a thread come from.
#[derive(Debug)]
pub(crate) struct Source<'run> {
    pub(crate) payloads: &'run Payloads,
    /// Present if the frames are short and all as long.
    pub(crate) template: Option<Template>,
    pub(crate) verify: Verify,
}

/// Both directions of one connection.
#[derive(Debug)]
pub(crate) struct Connection {
    id: u32,
    echoed: Position,
    written: Position,
    queued: u64,
    batches: VecDeque<Batch>,
    /// Present from the first wrong byte on; then nothing more is compared.
    evidence: Option<Box<Evidence>>,
}

/// Requests that were due and queued at the same moments, in nanoseconds of the run's clock.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Batch {
    pub(crate) due_at: u64,
    pub(crate) sent_at: u64,
    pub(crate) count: u64,
    pub(crate) is_measured: bool,
}

/// A byte in the stream of frames.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
struct Position {
    sequence: u64,
    offset: usize,
    /// All bytes before it.
    bytes: u64,
}

impl Connection {
    pub(crate) fn new(id: u32) -> Self {
        Self {
            id,
            echoed: Position::default(),
            written: Position::default(),
            queued: 0,
            batches: VecDeque::new(),
            evidence: None,
        }
    }

    /// How many requests have been queued and not echoed.
    #[inline]
    pub(crate) fn outstanding(&self) -> u64 {
        self.queued - self.echoed.sequence
    }

    /// How large the largest payload is of the requests that have been queued and not echoed.
    pub(crate) fn largest_outstanding(&self, payloads: &Payloads) -> Option<u32> {
        let outstanding = self.echoed.sequence..self.queued;
        outstanding.map(|sequence| payloads.payload_bytes(self.origin(sequence))).max()
    }

    pub(crate) fn newest(&self) -> Option<Batch> {
        self.batches.back().copied()
    }

    /// How many requests have ever been queued.
    #[inline]
    pub(crate) fn queued(&self) -> u64 {
        self.queued
    }

    #[inline]
    pub(crate) fn has_unwritten(&self) -> bool {
        self.written.sequence < self.queued
    }

    pub(crate) fn oldest(&self) -> Option<Batch> {
        self.batches.front().copied()
    }

    /// Adds requests that are due now.
    #[inline]
    pub(crate) fn queue(&mut self, batch: Batch) {
        self.queued += batch.count;
        self.batches.push_back(batch);
    }

    /// Offers what is due to `socket` in one write. Returns whether it took all that was offered.
    #[inline]
    pub(crate) fn write(
        &mut self,
        source: &mut Source<'_>,
        socket: &mut impl Write,
    ) -> io::Result<bool> {
        let (offered, taken) = match &mut source.template {
            Some(template) => {
                let first = self.origin(self.written.sequence);
                let due = self.queued - self.written.sequence;
                let batch = template.batch(source.payloads, first, due);
                let bytes = &batch[self.written.offset..];
                (bytes.len(), socket.write(bytes)?)
            }
            None => self.write_in_place(source.payloads, socket)?,
        };
        self.written = self.written.after(taken, self.id, source.payloads);
        Ok(taken == offered)
    }

    /// Compares what arrived with what must come next. Returns how many requests that completes.
    ///
    /// At the first wrong byte it stops and keeps the evidence: see [`mismatch`](Self::mismatch).
    #[inline]
    pub(crate) fn receive(&mut self, source: &mut Source<'_>, mut bytes: &[u8]) -> u64 {
        let before = self.echoed.sequence;
        while !bytes.is_empty() && self.evidence.is_none() {
            let expected = match (source.verify, &mut source.template) {
                (Verify::Full, Some(template)) => {
                    self.compare_batch(source.payloads, template, bytes)
                }
                (Verify::Full, None) => self.compare_frame(source.payloads, bytes),
                (Verify::Sample(one_in), _) => {
                    match self.echoed.sequence.is_multiple_of(one_in.get()) {
                        true => self.compare_frame(source.payloads, bytes),
                        false => self.pass_over(source.payloads, bytes),
                    }
                }
                (Verify::None, _) => self.pass_over(source.payloads, bytes),
            };
            match expected {
                Some(len) => {
                    self.echoed = self.echoed.after(len, self.id, source.payloads);
                    bytes = &bytes[len..];
                }
                None => {
                    bytes = self.compare_to_the_wrong_byte(source.payloads, bytes);
                    let due = self.origin(self.echoed.sequence);
                    let matched = self.echoed.offset;
                    self.evidence = Some(Box::new(Evidence { due, matched, odd: Vec::new() }));
                }
            }
        }
        if let Some(evidence) = &mut self.evidence {
            evidence.extend(bytes);
        }
        self.echoed.sequence - before
    }

    /// Takes the requests that are complete off the batches, the oldest first.
    #[inline]
    pub(crate) fn settle(&mut self, mut completed: u64, mut on_batch: impl FnMut(Batch)) {
        while completed > 0 {
            let oldest = self.batches.front_mut().expect("what is complete was queued");
            let count = oldest.count.min(completed);
            on_batch(Batch { count, ..*oldest });
            oldest.count -= count;
            completed -= count;
            if oldest.count == 0 {
                self.batches.pop_front();
            }
        }
    }

    pub(crate) fn is_suspect(&self) -> bool {
        self.evidence.is_some()
    }

    /// What is wrong with this connection, once enough is known to say so.
    pub(crate) fn mismatch(&self, payloads: &Payloads) -> Option<Mismatch> {
        let evidence = self.evidence.as_deref()?;
        if self.is_ahead() {
            return Some(Mismatch::Unsolicited);
        }
        evidence.is_sufficient(payloads).then(|| evidence.classify(payloads))
    }

    /// Whether what came instead of a reply is an alert of TLS.
    pub(crate) fn was_answered_in_tls(&self) -> bool {
        // The type, the version, and a length of two.
        let is_alert = |odd: &[u8]| matches!(odd, [21, 3, 0..=4, 0, 2, ..]);
        self.evidence
            .as_deref()
            .is_some_and(|evidence| evidence.matched == 0 && is_alert(&evidence.odd))
    }

    /// What is wrong with this connection, if anything: no more bytes will come.
    pub(crate) fn last_judgement(&self, payloads: &Payloads) -> Option<Mismatch> {
        let evidence = self.evidence.as_deref()?;
        Some(if self.is_ahead() { Mismatch::Unsolicited } else { evidence.classify(payloads) })
    }

    /// Forgets what is outstanding, for a new socket. Sequence numbers go on, so that late frames
    /// stay recognisable.
    pub(crate) fn abandon(&mut self) -> impl Iterator<Item = Batch> + '_ {
        let next = Position { sequence: self.queued, offset: 0, bytes: self.written.bytes };
        self.echoed = next;
        self.written = next;
        self.evidence = None;
        self.batches.drain(..)
    }

    // A call of its own, which long frames hardly notice: what writes a template stays short.
    #[inline(never)]
    fn write_in_place(
        &self,
        payloads: &Payloads,
        socket: &mut impl Write,
    ) -> io::Result<(usize, usize)> {
        let mut frames = [const { None }; LONG_FRAMES_PER_WRITE];
        for (frame, sequence) in frames.iter_mut().zip(self.written.sequence..self.queued) {
            *frame = Some(payloads.frame(self.origin(sequence)));
        }
        let mut slices = [IoSlice::new(&[]); 2 * LONG_FRAMES_PER_WRITE];
        let mut used = 0;
        let mut start = self.written.offset;
        for frame in frames.iter().flatten() {
            for piece in frame.tail(start) {
                slices[used] = IoSlice::new(piece);
                used += 1;
            }
            start = 0;
        }
        let slices = &slices[..used];
        let offered = slices.iter().map(|slice| slice.len()).sum();
        Ok((offered, socket.write_vectored(slices)?))
    }

    /// How many bytes at the start of `bytes` are right: all, or a batch of them. `None` if there
    /// is a wrong one.
    #[inline]
    fn compare_batch(
        &self,
        payloads: &Payloads,
        template: &mut Template,
        bytes: &[u8],
    ) -> Option<usize> {
        let len = bytes.len().min(self.owed_bytes());
        let frames = (self.echoed.offset + len).div_ceil(template.frame_bytes());
        let batch = template.batch(payloads, self.origin(self.echoed.sequence), frames as u64);
        let expected = &batch[self.echoed.offset..];
        let len = len.min(expected.len());
        (len > 0 && bytes[..len] == expected[..len]).then_some(len)
    }

    /// The same within the frame that is due.
    fn compare_frame(&self, payloads: &Payloads, bytes: &[u8]) -> Option<usize> {
        let origin = self.origin(self.echoed.sequence);
        let frame = payloads.frame(origin);
        let due = payloads.frame_bytes(origin) - self.echoed.offset;
        let len = bytes.len().min(self.owed_bytes()).min(due);
        let is_right = frame.common_bytes(self.echoed.offset, &bytes[..len]) == len;
        (len > 0 && is_right).then_some(len)
    }

    /// How many bytes at the start of `bytes` belong to the frame that is due, whatever they are.
    fn pass_over(&self, payloads: &Payloads, bytes: &[u8]) -> Option<usize> {
        let due = payloads.frame_bytes(self.origin(self.echoed.sequence)) - self.echoed.offset;
        let len = bytes.len().min(self.owed_bytes()).min(due);
        (len > 0).then_some(len)
    }

    /// Moves on to the first wrong byte and returns what comes from there on.
    #[cold]
    fn compare_to_the_wrong_byte<'b>(
        &mut self,
        payloads: &Payloads,
        mut bytes: &'b [u8],
    ) -> &'b [u8] {
        while let Some(len) = self.compare_frame(payloads, bytes) {
            self.echoed = self.echoed.after(len, self.id, payloads);
            bytes = &bytes[len..];
        }
        let len = bytes.len().min(self.owed_bytes());
        let frame = payloads.frame(self.origin(self.echoed.sequence));
        let matched = frame.common_bytes(self.echoed.offset, &bytes[..len]);
        self.echoed.offset += matched;
        &bytes[matched..]
    }

    /// How many bytes the server can have seen and not sent back.
    #[inline]
    fn owed_bytes(&self) -> usize {
        usize::try_from(self.written.bytes - self.echoed.bytes)
            .expect("a pipeline is no longer than memory")
    }

    /// Whether all that was written has come back: anything more was not asked for.
    fn is_ahead(&self) -> bool {
        self.echoed.bytes >= self.written.bytes
    }

    #[inline]
    fn origin(&self, sequence: u64) -> Origin {
        Origin { connection: self.id, sequence }
    }
}

impl Position {
    #[inline]
    fn after(self, bytes: usize, connection: u32, payloads: &Payloads) -> Self {
        let all = self.bytes + bytes as u64;
        let mut offset = self.offset + bytes;
        if let Some(frame_bytes) = payloads.common_frame_bytes() {
            let sequence = self.sequence + (offset / frame_bytes) as u64;
            return Self { sequence, offset: offset % frame_bytes, bytes: all };
        }
        let mut sequence = self.sequence;
        loop {
            let frame_bytes = payloads.frame_bytes(Origin { connection, sequence });
            if offset < frame_bytes {
                return Self { sequence, offset, bytes: all };
            }
            offset -= frame_bytes;
            sequence += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::size::Sizes;

    /// A socket that takes a few bytes at a time.
    struct Reluctant {
        taken: Vec<u8>,
        bytes_per_write: usize,
    }

    impl Write for Reluctant {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = bytes.len().min(self.bytes_per_write);
            self.taken.extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn batch(count: u64, sent_at: u64) -> Batch {
        Batch { due_at: sent_at, sent_at, count, is_measured: true }
    }

    fn source(payloads: &Payloads) -> Source<'_> {
        Source { payloads, template: Template::new(payloads, 64), verify: Verify::Full }
    }

    fn written(
        connection: &mut Connection,
        source: &mut Source<'_>,
        bytes_per_write: usize,
    ) -> Vec<u8> {
        let mut socket = Reluctant { taken: Vec::new(), bytes_per_write };
        while connection.has_unwritten() {
            connection.write(source, &mut socket).unwrap();
        }
        socket.taken
    }

    fn expected(payloads: &Payloads, sequences: std::ops::Range<u64>) -> Vec<u8> {
        let frames = sequences.map(|sequence| Origin { connection: 2, sequence });
        frames.flat_map(|origin| payloads.frame(origin).tail(0).concat()).collect()
    }

    #[test]
    fn what_is_written_does_not_depend_on_how_much_the_socket_takes() {
        for payload_bytes in [0, 1, 64, 10_000] {
            let payloads = Payloads::new(1, 4, payload_bytes);
            let mut source = source(&payloads);
            let expected = expected(&payloads, 0..20);
            for bytes_per_write in [1, 3, 67, 68, 69, 1 << 20] {
                let mut connection = Connection::new(2);
                connection.queue(batch(20, 0));
                assert_eq!(written(&mut connection, &mut source, bytes_per_write), expected);
            }
        }
    }

    #[test]
    fn echoes_count_the_same_in_whatever_pieces_they_arrive() {
        for payload_bytes in [0, 1, 64, 10_000] {
            let payloads = Payloads::new(1, 4, payload_bytes);
            let mut source = source(&payloads);
            for piece_bytes in [1, 3, 67, 68, 69, 1 << 20] {
                let mut connection = Connection::new(2);
                connection.queue(batch(20, 0));
                let bytes = written(&mut connection, &mut source, 1 << 20);
                let completed: u64 = bytes
                    .chunks(piece_bytes)
                    .map(|piece| connection.receive(&mut source, piece))
                    .sum();
                assert_eq!(completed, 20, "{payload_bytes} bytes in pieces of {piece_bytes}");
                assert_eq!(connection.outstanding(), 0);
                assert!(!connection.is_suspect());
            }
        }
    }

    #[test]
    fn a_wrong_byte_anywhere_is_noticed_in_whatever_pieces_it_arrives() {
        let payloads = Payloads::new(1, 4, 64);
        let mut source = source(&payloads);
        let right = expected(&payloads, 0..3);
        for position in 0..right.len() {
            for piece_bytes in [1, 5, 68, 1 << 20] {
                let mut connection = Connection::new(2);
                connection.queue(batch(3, 0));
                let mut bytes = written(&mut connection, &mut source, 1 << 20);
                bytes[position] ^= 0x10;
                let completed: u64 = bytes
                    .chunks(piece_bytes)
                    .map(|piece| connection.receive(&mut source, piece))
                    .sum();
                assert!(connection.is_suspect(), "byte {position} in pieces of {piece_bytes}");
                assert_eq!(completed, (position / 68) as u64);
                assert!(connection.last_judgement(&payloads).is_some());
            }
        }
    }

    #[test]
    fn of_replies_that_are_not_compared_only_the_bytes_are_counted() {
        for (sizes, verify) in [
            ("64", Verify::None),
            ("uniform:0..200", Verify::None),
            ("64", Verify::Sample(3.try_into().unwrap())),
        ] {
            let payloads = Payloads::new(1, 4, sizes.parse::<Sizes>().unwrap());
            let mut source = Source { verify, ..source(&payloads) };
            let mut connection = Connection::new(2);
            connection.queue(batch(20, 0));
            let mut bytes = written(&mut connection, &mut source, 1 << 20);
            // In the second frame, which is not among every third.
            let second = payloads.frame_bytes(Origin { connection: 2, sequence: 0 });
            bytes[second + 2] ^= 1;
            let pieces = bytes.chunks(33);
            let completed: u64 = pieces.map(|piece| connection.receive(&mut source, piece)).sum();
            assert_eq!((completed, connection.is_suspect()), (20, false), "{sizes} {verify:?}");
            assert_eq!(connection.receive(&mut source, b"more"), 0);
            assert_eq!(connection.mismatch(&payloads), Some(Mismatch::Unsolicited));
        }
    }

    #[test]
    fn a_wrong_byte_in_a_sample_is_noticed() {
        let payloads = Payloads::new(1, 4, 64);
        let mut source =
            Source { verify: Verify::Sample(3.try_into().unwrap()), ..source(&payloads) };
        let mut connection = Connection::new(2);
        connection.queue(batch(20, 0));
        let mut bytes = written(&mut connection, &mut source, 1 << 20);
        bytes[3 * 68 + 40] ^= 1;
        assert_eq!(connection.receive(&mut source, &bytes), 3);
        assert!(connection.is_suspect());
    }

    #[test]
    fn bytes_that_nobody_asked_for_are_a_mismatch() {
        let payloads = Payloads::new(1, 4, 64);
        let mut source = source(&payloads);
        let mut connection = Connection::new(2);
        connection.queue(batch(1, 0));
        let mut bytes = written(&mut connection, &mut source, 1 << 20);
        bytes.extend_from_slice(&expected(&payloads, 1..2));
        assert_eq!(connection.receive(&mut source, &bytes), 1);
        assert_eq!(connection.mismatch(&payloads), Some(Mismatch::Unsolicited));
    }

    #[test]
    fn a_frame_cannot_be_echoed_before_it_is_written() {
        let payloads = Payloads::new(1, 4, 64);
        let mut source = source(&payloads);
        let mut connection = Connection::new(2);
        connection.queue(batch(1, 0));
        let mut socket = Reluctant { taken: Vec::new(), bytes_per_write: 30 };
        connection.write(&mut source, &mut socket).unwrap();
        assert_eq!(connection.receive(&mut source, &expected(&payloads, 0..1)), 0);
        assert_eq!(connection.mismatch(&payloads), Some(Mismatch::Unsolicited));
    }

    #[test]
    fn completed_requests_settle_the_oldest_batches_first() {
        let mut connection = Connection::new(2);
        connection.queue(batch(3, 10));
        connection.queue(batch(2, 20));
        let mut settled = Vec::new();
        connection.settle(4, |batch| settled.push((batch.sent_at, batch.count)));
        assert_eq!(settled, [(10, 3), (20, 1)]);
        assert_eq!(connection.oldest(), Some(batch(1, 20)));
    }

    #[test]
    fn a_new_socket_goes_on_with_the_next_sequence() {
        let payloads = Payloads::new(1, 4, 64);
        let mut source = source(&payloads);
        let mut connection = Connection::new(2);
        connection.queue(batch(5, 0));
        let bytes = written(&mut connection, &mut source, 1 << 20);
        let completed = connection.receive(&mut source, &bytes[..100]);
        connection.settle(completed, |_| {});
        let lost: u64 = connection.abandon().map(|batch| batch.count).sum();
        assert_eq!(lost, 4);
        assert_eq!(connection.outstanding(), 0);

        connection.queue(batch(1, 0));
        assert_eq!(written(&mut connection, &mut source, 1 << 20), expected(&payloads, 5..6));
    }
}
