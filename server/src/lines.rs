//! `Lines`: a queue of lines, of a log for instance, and the thread that writes them.
//!
//! Whoever reads a log may stop reading, as a terminal does after Ctrl-S. Nobody who logs waits for
//! that: the queue fills up, further lines are lost, and how many is told when the reader is back.

use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tracing_subscriber::fmt::MakeWriter;

use crate::threads;

/// How many lines wait at most: some hundred kilobytes.
const WAITING_MAX: usize = 1024;

/// Lines on their way out. A clone is another handle to the same.
#[derive(Clone, Debug)]
pub(crate) struct Lines(Arc<Queue>);

#[derive(Debug, Default)]
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Box<[u8]>>,
    /// Whether a line is being written, which does not wait any more.
    is_writing: bool,
    /// Lines that found no room, since the start.
    lost: u64,
    /// How many of them are told.
    told: u64,
}

impl Lines {
    /// Writes lines to `output`, in a thread of its own of this name. It calls `tell` with the
    /// number of lines that were lost since the start when there is something new to tell, and
    /// nothing to write.
    ///
    /// # Errors
    ///
    /// That the system has no thread for it, with what to change.
    pub(crate) fn to(
        output: impl Write + Send + 'static,
        thread: &str,
        tell: impl Fn(u64) + Send + 'static,
    ) -> Result<Self, String> {
        let queue = Arc::new(Queue::default());
        threads::start(thread, {
            let queue = Arc::clone(&queue);
            move || queue.write_to(output, tell)
        })?;
        Ok(Self(queue))
    }

    /// Adds a line, its end included.
    pub(crate) fn push(&self, line: &str) {
        self.0.push(line.as_bytes());
    }

    /// Waits until all lines are written, for so long at most.
    pub(crate) fn finish(&self, within: Duration) {
        let state = self.0.state();
        let is_busy = |state: &mut State| state.is_writing || !state.waiting.is_empty();
        // Whether they are or not: there is nobody to tell.
        let _ = self.0.changed.wait_timeout_while(state, within, is_busy);
    }
}

impl Queue {
    fn push(&self, line: &[u8]) {
        let mut state = self.state();
        if state.waiting.len() < WAITING_MAX {
            state.waiting.push_back(line.into());
        } else {
            state.lost += 1;
        }
        self.changed.notify_all();
    }

    fn write_to(&self, mut output: impl Write, tell: impl Fn(u64)) {
        loop {
            let line = self.next(&tell);
            // One that cannot be written is lost: there is no other place to say so.
            let _ = output.write_all(&line);
        }
    }

    /// Waits for a line to write.
    fn next(&self, tell: impl Fn(u64)) -> Box<[u8]> {
        let mut state = self.state();
        state.is_writing = false;
        loop {
            if let Some(line) = state.waiting.pop_front() {
                state.is_writing = true;
                return line;
            }
            if state.told < state.lost {
                let lost = state.lost;
                state.told = lost;
                // It is told by a line, which waits like any other.
                drop(state);
                tell(lost);
                state = self.state();
                continue;
            }
            self.changed.notify_all();
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<'l> MakeWriter<'l> for Lines {
    type Writer = &'l Self;

    fn make_writer(&'l self) -> &'l Self {
        self
    }
}

/// Takes a whole line at a time.
impl Write for &Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::mpsc::{Receiver, SyncSender, channel, sync_channel},
        thread,
    };

    use super::*;

    /// Takes a line when somebody reads it.
    struct Unread(SyncSender<String>);

    impl Write for Unread {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.0.send(String::from_utf8_lossy(line).into_owned()).expect("a reader");
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn unread(tell: impl Fn(u64) + Send + 'static) -> (Lines, Receiver<String>) {
        let (writes, reads) = sync_channel(0);
        (Lines::to(Unread(writes), "test", tell).expect("a thread"), reads)
    }

    #[test]
    fn lines_are_written_in_their_order() {
        let (lines, reads) = unread(|_| ());
        for number in 0..10 {
            write!(&lines, "{number}").expect("it never fails");
        }
        for number in 0..10 {
            assert_eq!(reads.recv(), Ok(number.to_string()));
        }
        lines.finish(Duration::MAX);
    }

    #[test]
    fn nobody_waits_for_a_reader_that_has_stopped() {
        let (lines, _reads) = unread(|_| ());
        for _ in 0..2 * WAITING_MAX {
            writeln!(&lines, "a line").expect("it never fails");
        }
        lines.finish(Duration::ZERO);
    }

    #[test]
    fn what_was_lost_is_told_when_the_reader_is_back() {
        let (tells, told) = channel();
        let (lines, reads) = unread(move |lost| tells.send(lost).expect("a test"));
        (&lines).write_all(b"taken").expect("it never fails");
        // It is being written now, and waits no more.
        while !lines.0.state().is_writing {
            thread::yield_now();
        }
        for _ in 0..WAITING_MAX + 7 {
            (&lines).write_all(b"a line").expect("it never fails");
        }
        for _ in 0..=WAITING_MAX {
            reads.recv().expect("a line");
        }
        assert_eq!(told.recv(), Ok(7));
        lines.finish(Duration::MAX);
    }
}
