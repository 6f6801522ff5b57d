//! Where log lines go, and which: a subscriber whose filter can change.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    io::{self, IsTerminal},
    panic::{self, PanicHookInfo},
    thread,
    time::{Duration, SystemTime},
};

use serde_json::json;
use tracing::{Level, enabled, error, warn};
use tracing_subscriber::{
    EnvFilter, Layer, Registry, fmt, layer::SubscriberExt, reload, util::SubscriberInitExt,
};

use crate::{
    lines::Lines,
    settings::{LogFormat, Settings},
};

/// How long the end waits for a reader of the log: its last lines are the most telling.
const LAST_LINES: Duration = Duration::from_secs(3);

/// The same for who wants the end at once.
const LAST_LINES_AT_ONCE: Duration = Duration::from_millis(100);

/// The log of the program.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    filter: reload::Handle<EnvFilter, Registry>,
    lines: Lines,
    format: LogFormat,
}

impl LogFormat {
    /// A line that is written whatever is logged, and before anything is.
    pub(crate) fn line(self, level: Level, message: &str) -> String {
        match self {
            Self::Text if level == Level::WARN => format!("warning: {message}\n"),
            Self::Text => format!("error: {message}\n"),
            Self::Json => {
                let now = humantime::format_rfc3339_micros(SystemTime::now()).to_string();
                let fields = json!({ "message": message });
                let line = json!({ "timestamp": now, "level": level.as_str(), "fields": fields });
                format!("{line}\n")
            }
        }
    }
}

impl Log {
    /// Logs from now on what `filter` asks for, which can be read: settings are checked.
    pub(crate) fn set_filter(&self, filter: &str) {
        // Fails only if the subscriber is gone, and then there is nobody to tell.
        let _ = self.filter.reload(EnvFilter::new(filter));
    }

    /// Says why the program ends, whatever is logged.
    pub(crate) fn complain(&self, reason: &str) {
        if enabled!(Level::ERROR) {
            error!("{reason}");
        } else {
            self.lines.push(&self.format.line(Level::ERROR, reason));
        }
    }

    /// Logs panics from now on: where the other lines go, and as they are written.
    fn take_panics(&self) {
        let log = self.clone();
        panic::set_hook(Box::new(move |panic| {
            log.complain(&describe(panic));
            // It may be the last line.
            log.finish_at_once();
        }));
    }

    /// Waits until all lines are written, unless nobody reads them.
    pub(crate) fn finish(&self) {
        self.lines.finish(LAST_LINES);
    }

    /// The same for a moment only.
    pub(crate) fn finish_at_once(&self) {
        self.lines.finish(LAST_LINES_AT_ONCE);
    }
}

fn describe(panic: &PanicHookInfo<'_>) -> String {
    let current = thread::current();
    let name = current.name().unwrap_or("without a name");
    let place = panic.location().map(|place| format!(" at {place}")).unwrap_or_default();
    let message = panic.payload_as_str().unwrap_or("something that is no text");
    let backtrace = Backtrace::capture();
    let backtrace = match backtrace.status() {
        BacktraceStatus::Captured => format!("\n{backtrace}"),
        _ => String::new(),
    };
    format!("thread {name} has panicked{place}: {message}{backtrace}")
}

/// Logs to the standard error, without ever waiting for it.
///
/// A line that cannot be written is dropped: reporting that to the same place would panic, and end
/// what logged it.
///
/// # Errors
///
/// That the system has no thread for it, with what to change.
pub(crate) fn start(settings: &Settings) -> Result<Log, String> {
    let lines = Lines::to(io::stderr(), "log", |lost| {
        warn!("{lost} lines of the log are lost since the start: they were not read in time");
    })?;
    let (filter, handle) = reload::Layer::new(EnvFilter::new(&settings.log_filter));
    let format = fmt::layer().with_writer(lines.clone()).with_target(false);
    let format = format.log_internal_errors(false);
    let format = match settings.log_format {
        LogFormat::Text => format.with_ansi(io::stderr().is_terminal()).boxed(),
        LogFormat::Json => format.json().with_span_list(false).boxed(),
    };
    tracing_subscriber::registry().with(filter).with(format).init();
    let log = Log { filter: handle, lines, format: settings.log_format };
    log.take_panics();
    Ok(log)
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        sync::mpsc::{Sender, channel},
    };

    use serde_json::Value;

    use super::*;

    struct Kept(Sender<Vec<u8>>);

    impl Write for Kept {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            // Other tests may panic once this one has ended.
            let _ = self.0.send(line.to_owned());
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_panic_is_a_line_of_the_log_whatever_is_logged() {
        let (lines, kept) = channel();
        let (_, filter) = reload::Layer::new(EnvFilter::new("off"));
        let lines = Lines::to(Kept(lines), "test", |_| ()).expect("a thread");
        let log = Log { filter, lines, format: LogFormat::Json };
        let hook = panic::take_hook();
        log.take_panics();
        let panicking = thread::Builder::new().name("unlucky".to_owned());
        let ended = panicking.spawn(|| panic!("one\ntwo")).expect("a thread").join();
        panic::set_hook(hook);

        assert!(ended.is_err());
        let mut lines = kept.iter().map(|line| serde_json::from_slice(&line).expect("JSON"));
        // Another test may panic while the hook is ours.
        let is_ours = |line: &Value| {
            let message = line["fields"]["message"].as_str().expect("text");
            message.starts_with("thread unlucky has panicked at server/src/log.rs:")
        };
        let line = lines.find(is_ours).expect("a line of our thread");
        assert_eq!(line["level"], "ERROR");
        let message = line["fields"]["message"].as_str().expect("text");
        assert!(message.contains(": one\ntwo"), "{message}");
    }
}
