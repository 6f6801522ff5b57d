//! Standard error, held back while the live view has the terminal.
//!
//! Whatever this process or a server that it starts writes there goes into a pipe. A thread reads
//! it and keeps the end of it. At last all that was kept is written where it was meant to go.

use std::{
    collections::VecDeque,
    io::{self, PipeReader, Read, Write},
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{self, Receiver},
    },
    thread,
    time::Duration,
};

/// How much is kept. A server that says more is better read in a file.
const KEPT_BYTES_MAX: usize = 64 << 10;
/// How long to wait for the last words of processes that still run.
const PATIENCE: Duration = Duration::from_millis(100);

/// Holds standard error back until it is dropped.
#[derive(Debug)]
pub(crate) struct HeldStderr {
    original: OwnedFd,
    kept: Arc<Mutex<Kept>>,
    /// Disconnects when nobody can write any more.
    ended: Receiver<()>,
}

/// The last line of what is held back.
#[derive(Debug)]
pub(crate) struct LastLine(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    bytes: VecDeque<u8>,
    dropped: u64,
}

impl HeldStderr {
    pub(crate) fn start() -> io::Result<Self> {
        let original = io::stderr().as_fd().try_clone_to_owned()?;
        let (reader, writer) = io::pipe()?;
        let kept = Arc::new(Mutex::new(Kept::default()));
        let (end, ended) = mpsc::channel();
        thread::Builder::new().name("loadgen-stderr".to_owned()).spawn({
            let kept = Arc::clone(&kept);
            move || {
                keep(reader, &kept);
                drop(end);
            }
        })?;
        rustix::stdio::dup2_stderr(&writer)?;
        Ok(Self { original, kept, ended })
    }

    pub(crate) fn last_line(&self) -> LastLine {
        LastLine(Arc::clone(&self.kept))
    }

    /// Where standard error leads without this.
    pub(crate) fn original(&self) -> io::Result<OwnedFd> {
        self.original.try_clone()
    }
}

/// Writes what was held back, and everything from now on, where it was meant to go.
impl Drop for HeldStderr {
    fn drop(&mut self) {
        redirect_to(&self.original);
        // Only a process that outlives the run keeps the pipe open.
        let _ = self.ended.recv_timeout(PATIENCE);
        let kept = std::mem::take(&mut *lock(&self.kept));
        let mut stderr = io::stderr();
        if kept.dropped > 0 {
            let _ = writeln!(stderr, "loadgen: {} earlier bytes are left out", kept.dropped);
        }
        let (first, second) = kept.bytes.as_slices();
        // A terminal that is gone needs no words.
        let _ = stderr.write_all(first).and_then(|()| stderr.write_all(second));
    }
}

impl LastLine {
    pub(crate) fn text(&self) -> String {
        let kept = lock(&self.0);
        let bytes: Vec<u8> = kept.bytes.iter().copied().collect();
        let text = String::from_utf8_lossy(&bytes);
        text.lines().next_back().unwrap_or_default().to_owned()
    }
}

impl Kept {
    fn add(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
        let excess = self.bytes.len().saturating_sub(KEPT_BYTES_MAX);
        self.bytes.drain(..excess);
        self.dropped += excess as u64;
    }
}

/// Makes standard error lead elsewhere.
pub(crate) fn redirect_to(target: &OwnedFd) {
    // It fails only if the process has no descriptors left; then words are lost, not results.
    let _ = rustix::stdio::dup2_stderr(target);
}

fn keep(mut reader: PipeReader, kept: &Mutex<Kept>) {
    let mut bytes = [0; 4096];
    while let Ok(len @ 1..) = reader.read(&mut bytes) {
        lock(kept).add(&bytes[..len]);
    }
}

fn lock(kept: &Mutex<Kept>) -> MutexGuard<'_, Kept> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_kept_and_the_rest_is_counted() {
        let mut kept = Kept::default();
        for _ in 0..3 {
            kept.add(&[b'x'; KEPT_BYTES_MAX / 2]);
        }
        kept.add(b"last\n");
        assert_eq!(kept.bytes.len(), KEPT_BYTES_MAX);
        assert_eq!(kept.dropped, (KEPT_BYTES_MAX / 2 + 5) as u64);
        let last = LastLine(Arc::new(Mutex::new(kept)));
        assert!(last.text().ends_with("xlast"));
    }
}
