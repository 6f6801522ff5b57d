//! Small frames in a row, ready to be sent or compared: only their stamps are rewritten.
//!
//! ```text
//! number      0        1        2              126       0        1
//!          +--------+--------+--------+--   --+--------+--------+--------+--
//! bytes    | 64 ~ . | 64 ~ . | 64 ~ . |  ...  | 64 ~ . | 64 ~ . | 64 ~ . |  ...     ~ stamp   . body
//!          +--------+--------+--------+--   --+--------+--------+--------+--
//!                   \___________________________ any batch is one slice
//! ```
//!
//! Consecutive frames of a connection have consecutive bodies, so every batch stands here already,
//! whatever its first frame. Writing it copies nothing, and checking many replies is one
//! comparison.

use crate::payload::{HEADER_BYTES, LACED_BODIES, Origin, PREFIX_BYTES, Payloads, STAMP_BYTES};

/// How long one batch may be.
const BATCH_BYTES_MAX: usize = 64 * 1024;

/// The row of one thread.
#[derive(Debug)]
pub(crate) struct Template {
    row: Box<[u8]>,
    frame_bytes: usize,
    batch_frames: usize,
    is_stamped: bool,
    /// Where the last stamp is, if there is more than one; and those between it and the first.
    last_stamp: Option<usize>,
    inner_stamps: Box<[usize]>,
}

impl Template {
    /// Lays the row out for batches of up to `pipeline` frames. `None` if the frames are too long
    /// for it, or not all as long.
    pub(crate) fn new(payloads: &Payloads, pipeline: u32) -> Option<Self> {
        let (lacing, frame_bytes) = (payloads.lacing()?, payloads.common_frame_bytes()?);
        let batch_frames = (pipeline as usize).min(BATCH_BYTES_MAX / frame_bytes);
        let numbers = 0..(LACED_BODIES + batch_frames) as u64;
        // The first connection has the bodies in the order of their numbers.
        let origins = numbers.map(|sequence| Origin { connection: 0, sequence });
        let row: Vec<u8> =
            origins.flat_map(|origin| payloads.frame(origin).tail(0).concat()).collect();
        let (last_stamp, inner_stamps) = match lacing.places.split_last() {
            Some((&last, inner)) => (Some(last), inner.into()),
            None => (None, Box::default()),
        };
        Some(Self {
            row: row.into_boxed_slice(),
            frame_bytes,
            batch_frames,
            is_stamped: frame_bytes >= PREFIX_BYTES,
            last_stamp,
            inner_stamps,
        })
    }

    #[inline]
    pub(crate) fn frame_bytes(&self) -> usize {
        self.frame_bytes
    }

    /// Writes the stamps of `frames` frames from `first` on and returns those frames: as many as
    /// fit one batch.
    #[inline]
    pub(crate) fn batch(&mut self, payloads: &Payloads, first: Origin, frames: u64) -> &[u8] {
        let frames =
            usize::try_from(frames).map_or(self.batch_frames, |f| f.min(self.batch_frames));
        let start = payloads.body_number(first) * self.frame_bytes;
        let batch = &mut self.row[start..][..frames * self.frame_bytes];
        if self.is_stamped {
            // A lone stamp is the last one; what is before it then has no room for a first.
            let last = self.last_stamp.unwrap_or(HEADER_BYTES);
            for (frame, stamp) in
                batch.chunks_exact_mut(self.frame_bytes).zip(payloads.stamps(first))
            {
                let (start, end) = frame.split_at_mut(last);
                if let Some(place) = start.get_mut(HEADER_BYTES..PREFIX_BYTES) {
                    place.copy_from_slice(&stamp);
                }
                end[..STAMP_BYTES].copy_from_slice(&stamp);
            }
            // In rounds of their own: most frames have none, and should not pay for asking.
            for &place in &self.inner_stamps {
                let frames = batch.chunks_exact_mut(self.frame_bytes);
                for (frame, stamp) in frames.zip(payloads.stamps(first)) {
                    frame[place..place + STAMP_BYTES].copy_from_slice(&stamp);
                }
            }
        }
        batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::size::Sizes;

    #[test]
    fn a_batch_is_its_frames_in_a_row() {
        for payload_bytes in [0, 1, 7, 8, 15, 16, 64, 4_096] {
            let payloads = Payloads::new(1, 9, payload_bytes);
            let mut template = Template::new(&payloads, 70).unwrap();
            let starts = [(0, 0, 1), (8, 100, 15), (3, 126, 2), (3, 1 << 40, 9)];
            for (connection, sequence, frames) in starts {
                let first = Origin { connection, sequence };
                let sequences = sequence..sequence + frames;
                let origins = sequences.map(|sequence| Origin { sequence, ..first });
                let frame = |origin| payloads.frame(origin).tail(0).concat();
                let expected: Vec<u8> = origins.flat_map(frame).collect();
                let is_right = template.batch(&payloads, first, frames) == expected;
                assert!(is_right, "{payload_bytes} bytes, {first:?}");
            }
        }
    }

    #[test]
    fn every_body_can_be_the_first_of_a_batch() {
        let payloads = Payloads::new(1, 9, 64);
        let mut template = Template::new(&payloads, 64).unwrap();
        for sequence in 0..2 * LACED_BODIES as u64 {
            let first = Origin { connection: 5, sequence };
            let last = Origin { connection: 5, sequence: sequence + 63 };
            let batch = template.batch(&payloads, first, 64);
            assert_eq!(batch[..68], payloads.frame(first).tail(0).concat());
            assert_eq!(batch[63 * 68..], payloads.frame(last).tail(0).concat());
        }
    }

    #[test]
    fn a_batch_is_no_longer_than_pipeline_and_limit() {
        let payloads = Payloads::new(1, 1, 64);
        let first = Origin { connection: 0, sequence: 0 };
        let mut shallow = Template::new(&payloads, 3).unwrap();
        assert_eq!(shallow.batch(&payloads, first, 10).len(), 3 * 68);
        let mut deep = Template::new(&payloads, 1 << 16).unwrap();
        let len = deep.batch(&payloads, first, u64::MAX).len();
        assert!((BATCH_BYTES_MAX - 68..=BATCH_BYTES_MAX).contains(&len));
    }

    #[test]
    fn long_frames_and_those_of_several_lengths_have_no_row() {
        assert!(Template::new(&Payloads::new(1, 1, 4_096), 1).is_some());
        assert!(Template::new(&Payloads::new(1, 1, 4_097), 1).is_none());
        let sizes: Sizes = "list:1,2".parse().unwrap();
        assert!(Template::new(&Payloads::new(1, 1, sizes), 1).is_none());
    }
}
