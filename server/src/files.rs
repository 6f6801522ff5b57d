//! Files: how they are read, at the start and while the server runs.
//!
//! A file may take for ever: a FIFO has no writer, or the server of a network mount is gone. At the
//! start that is the user's choice, as with `--config <(command)`, and a signal ends it. Once
//! connections are served, a thread that exists for this reads regular files alone, and
//! nobody waits for it longer than [`READ_TIMEOUT`], the end of the process least of all. If it
//! hangs, another takes its place, unless the system refuses one.

use std::{
    fs::{self, File, Metadata},
    io::{self, Read},
    os::unix::fs::{FileTypeExt, MetadataExt},
    panic::{self, AssertUnwindSafe},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{self, Sender},
    },
    time::Duration,
};

use arena_echo::Size;
use tokio::{sync::oneshot, time::timeout};

use crate::threads;

/// How long a reload waits for all of its files.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// How many threads may hang: what they read may never come, and somebody may ask for ever.
const HUNG_MAX: usize = 8;

/// A configuration, or the certificates of all authorities that there are, has less.
const BYTES_MAX: usize = 16 << 20;

/// How a file is read.
pub(crate) type ReadFile<'r> = &'r dyn Fn(&Path) -> io::Result<Vec<u8>>;

/// The thread that reads files while the server runs.
#[derive(Debug)]
pub(crate) struct FileThread {
    jobs: Sender<Job>,
    /// What is read now, or was read last.
    current: Arc<Mutex<PathBuf>>,
    /// How many have been replaced.
    hung: usize,
}

type Job = Box<dyn FnOnce() + Send>;

impl FileThread {
    /// # Errors
    ///
    /// That the system has no thread for it, with what to change.
    pub(crate) fn start() -> Result<Self, String> {
        let (jobs, queue) = mpsc::channel::<Job>();
        threads::start("files", move || {
            for job in queue {
                // It is logged, and who waits for the result learns that there is none.
                let _ = panic::catch_unwind(AssertUnwindSafe(job));
            }
        })?;
        Ok(Self { jobs, current: Arc::default(), hung: 0 })
    }

    /// Has the thread run `read`, with what reads a regular file.
    ///
    /// # Errors
    ///
    /// Which file takes longer than [`READ_TIMEOUT`].
    pub(crate) async fn run<T: Send + 'static>(
        &mut self,
        read: impl FnOnce(ReadFile<'_>) -> T + Send + 'static,
    ) -> Result<T, String> {
        let (result, received) = oneshot::channel();
        let current = Arc::clone(&self.current);
        let job = move || {
            // Nobody may have waited until its turn.
            if !result.is_closed() {
                let _ = result.send(read(&|path| {
                    path.clone_into(&mut lock(&current));
                    regular(path)
                }));
            }
        };
        // The thread takes jobs as long as there is this end of the queue.
        let _ = self.jobs.send(Box::new(job));
        match timeout(READ_TIMEOUT, received).await {
            Ok(result) => result.map_err(|_| "reading the files has panicked".to_owned()),
            Err(_) => {
                let path = lock(&self.current).display().to_string();
                self.replace();
                Err(format!("{path}: not read within {READ_TIMEOUT:?}; its file system may hang"))
            }
        }
    }

    /// Has another thread read from now on. This one ends if ever it goes on.
    fn replace(&mut self) {
        if self.hung < HUNG_MAX
            && let Ok(next) = Self::start()
        {
            *self = Self { hung: self.hung + 1, ..next };
        }
    }
}

fn lock(path: &Mutex<PathBuf>) -> MutexGuard<'_, PathBuf> {
    path.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads whatever `path` names, to its end: it may be a pipe.
pub(crate) fn any(path: &Path) -> io::Result<Vec<u8>> {
    contents(&File::open(path)?)
}

/// Reads a regular file.
fn regular(path: &Path) -> io::Result<Vec<u8>> {
    // Before it is opened, too: to open a FIFO is to wait for a writer.
    check_regular(&fs::metadata(path)?)?;
    let file = File::open(path)?;
    check_regular(&file.metadata()?)?;
    contents(&file)
}

fn check_regular(metadata: &Metadata) -> io::Result<()> {
    let kind = metadata.file_type();
    let kind = match kind {
        kind if kind.is_file() => return Ok(()),
        kind if kind.is_dir() => "a directory",
        kind if kind.is_fifo() => "a pipe",
        kind if kind.is_socket() => "a socket",
        _ => "a device",
    };
    Err(io::Error::other(format!("it is {kind}; a running server reads regular files alone")))
}

fn contents(file: &File) -> io::Result<Vec<u8>> {
    let version = |of: &Metadata| (of.len(), of.mtime(), of.mtime_nsec());
    let before = file.metadata()?;
    let mut contents = Vec::new();
    file.take(BYTES_MAX as u64 + 1).read_to_end(&mut contents)?;
    if contents.len() > BYTES_MAX {
        return Err(io::Error::other(format!("it is longer than {}", Size(BYTES_MAX))));
    }
    // Half a file may be one that works, with other values.
    if before.is_file() && version(&before) != version(&file.metadata()?) {
        let reason = "it changed while it was read; write a new file, and rename it to this";
        return Err(io::Error::other(reason));
    }
    Ok(contents)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use tokio::{join, time::resume};

    use super::*;

    const LATE: &str = "Cargo.toml: not read within 5s; its file system may hang";

    /// Reads a file and hangs, until what is returned is dropped.
    async fn hang(files: &mut FileThread) -> mpsc::Sender<()> {
        let (begin, begun) = mpsc::channel();
        let (release, hangs) = mpsc::channel::<()>();
        let read = move |read: ReadFile<'_>| {
            read(Path::new("Cargo.toml")).expect("a file");
            begin.send(()).expect("a test");
            hangs.recv().expect_err("nothing is sent");
        };
        // The clock stands still until then.
        let (late, ()) = join!(files.run(read), async { begun.recv().expect("it reads") });
        assert_eq!(late.unwrap_err(), LATE);
        release
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_a_file_that_hangs_and_another_thread_reads_the_next() {
        let mut files = FileThread::start().expect("a thread");
        let _release = hang(&mut files).await;
        resume();
        assert_eq!(files.run(|_| 1).await, Ok(1));
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_behind_too_many_that_hang_is_late_too_and_not_read_any_more() {
        let mut files = FileThread::start().expect("a thread");
        let mut releases = Vec::new();
        for _ in 0..=HUNG_MAX {
            releases.push(hang(&mut files).await);
        }
        let (runs, has_run) = mpsc::channel();
        assert_eq!(files.run(move |_| runs.send(())).await.unwrap_err(), LATE);

        resume();
        drop(releases);
        assert_eq!(files.run(|_| 1).await, Ok(1));
        assert!(has_run.recv().is_err(), "nobody waits for that any more");
    }

    #[tokio::test]
    async fn the_thread_outlives_a_panic() {
        let mut files = FileThread::start().expect("a thread");
        let panicked = files.run(|_| panic!("a panic of this test")).await;
        assert_eq!(panicked.map(|(): ()| ()).unwrap_err(), "reading the files has panicked");
        assert_eq!(files.run(|_| 1).await, Ok(1));
    }

    #[test]
    fn a_pipe_is_read_at_the_start_and_not_later() {
        let (pipe, mut writer) = io::pipe().expect("a pipe");
        io::Write::write_all(&mut writer, b"text").expect("room in a pipe");
        drop(writer);
        let path = PathBuf::from(format!("/proc/self/fd/{}", pipe.as_raw_fd()));
        let refused = regular(&path).unwrap_err().to_string();
        assert!(refused.starts_with("it is a pipe; "), "{refused}");
        assert_eq!(any(&path).expect("a pipe whose writer is gone"), b"text");
    }

    #[test]
    fn a_file_without_end_is_not_read_to_its_end() {
        let refused = any(Path::new("/dev/zero")).unwrap_err().to_string();
        assert_eq!(refused, "it is longer than 16MiB");
    }
}
