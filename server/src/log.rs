//! Where log lines go, and which: a subscriber whose filter can change.

use std::io::{self, IsTerminal};

use tracing_subscriber::{
    EnvFilter, Layer, Registry, fmt, layer::SubscriberExt, reload, util::SubscriberInitExt,
};

use crate::settings::{LogFormat, Settings};

/// Changes what is logged.
#[derive(Debug)]
pub(crate) struct LogFilter(reload::Handle<EnvFilter, Registry>);

impl LogFilter {
    /// Logs from now on what `filter` asks for, which can be read: settings are checked.
    pub(crate) fn set(&self, filter: &str) {
        // Fails only if the subscriber is gone, and then there is nobody to tell.
        let _ = self.0.reload(EnvFilter::new(filter));
    }
}

/// Logs to the standard error.
///
/// A line that cannot be written is dropped: reporting that to the same place would panic, and end
/// what logged it.
pub(crate) fn start(settings: &Settings) -> LogFilter {
    let (filter, handle) = reload::Layer::new(EnvFilter::new(&settings.log_filter));
    let lines = fmt::layer().with_writer(io::stderr).with_target(false).log_internal_errors(false);
    let lines = match settings.log_format {
        LogFormat::Text => lines.with_ansi(io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().with_span_list(false).boxed(),
    };
    tracing_subscriber::registry().with(filter).with(lines).init();
    LogFilter(handle)
}
