//! Where log lines go, and which: a subscriber whose filter can change.

use std::{
    io::{self, IsTerminal},
    time::Duration,
};

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
            self.lines.push(&format!("error: {reason}\n"));
        }
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

/// Logs to the standard error, without ever waiting for it.
///
/// A line that cannot be written is dropped: reporting that to the same place would panic, and end
/// what logged it.
///
/// # Errors
///
/// That the system has no thread for it.
pub(crate) fn start(settings: &Settings) -> io::Result<Log> {
    let lines = Lines::to(io::stderr(), |lost| {
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
    Ok(Log { filter: handle, lines })
}
