//! Files: how they are read, at the start and while the server runs.
//!
//! A file may take for ever: a FIFO has no writer, or the server of a network mount is gone. At the
//! start that is the user's choice, as with `--config <(command)`, and a signal ends it. Once
//! connections are served, a thread that exists for this reads regular files alone, and
//! nobody waits for it longer than [`READ_TIMEOUT`], the end of the process least of all.

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

/// A configuration, or the certificates of all authorities that there are, has less.
const BYTES_MAX: usize = 16 << 20;

/// How a file is read.
pub(crate) type ReadFile<'r> = &'r dyn Fn(&Path) -> io::Result<Vec<u8>>;

/// The thread that reads files while the server runs.
#[derive(Clone, Debug)]
pub(crate) struct FileThread {
    jobs: Sender<Job>,
    /// What is read now, or was read last.
    current: Arc<Mutex<PathBuf>>,
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
        Ok(Self { jobs, current: Arc::default() })
    }

    /// Has the thread run `read`, with what reads a regular file.
    ///
    /// # Errors
    ///
    /// Which file takes longer than [`READ_TIMEOUT`].
    pub(crate) async fn run<T: Send + 'static>(
        &self,
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
                let path = lock(&self.current);
                let path = path.display();
                Err(format!("{path}: not read within {READ_TIMEOUT:?}; its file system may hang"))
            }
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

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_a_file_that_hangs_and_later_ones_are_read_in_their_turn() {
        let files = FileThread::start().expect("a thread");
        let (release, hangs) = mpsc::channel::<()>();
        let hang = move |read: ReadFile<'_>| {
            read(Path::new("Cargo.toml")).expect("a file");
            hangs.recv()
        };
        let late = "Cargo.toml: not read within 5s; its file system may hang";
        assert_eq!(files.run(hang).await.unwrap_err(), late);
        let (runs, has_run) = mpsc::channel();
        assert_eq!(files.run(move |_| runs.send(())).await.unwrap_err(), late);

        tokio::time::resume();
        release.send(()).expect("it hangs still");
        assert_eq!(files.run(|_| 1).await, Ok(1));
        assert!(has_run.recv().is_err(), "nobody waits for that any more");
    }

    #[tokio::test]
    async fn the_thread_outlives_a_panic() {
        let files = FileThread::start().expect("a thread");
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
