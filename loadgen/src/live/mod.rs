//! Progress while a run goes on: a live view on a terminal, plain lines everywhere else.
//!
//! The view has a thread of its own, so that neither a slow terminal nor a key disturbs the load.
//! It redraws a few times per second, which is calm to look at and costs next to nothing.

mod held;
mod screen;

use std::{
    io::{self, IsTerminal},
    os::fd::AsFd,
    panic,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc::{self, Receiver, Sender, TryRecvError},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use ratatui::{
    DefaultTerminal, Terminal,
    backend::CrosstermBackend,
    crossterm::{
        event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
        execute,
        terminal::{EnterAlternateScreen, enable_raw_mode},
    },
};

use rustix::{process::getpgrp, termios::tcgetpgrp};

use crate::{
    console,
    live::{
        held::HeldStderr,
        screen::{Screen, Setting},
    },
    plan::Plan,
    report::text,
    run::Progress,
    stop::Stop,
};

/// How long the view waits for a key before it looks for news and redraws.
const FRAME: Duration = Duration::from_millis(250);

/// Shows progress until it is finished or dropped.
#[derive(Debug)]
pub(crate) enum Live {
    /// One line per interval on standard error.
    Lines,
    /// The whole terminal.
    View(View),
}

/// The live view, as the thread of the run sees it.
#[derive(Debug)]
pub(crate) struct View {
    /// `None` once it is to end.
    news: Option<Sender<Progress>>,
    thread: Option<JoinHandle<()>>,
    /// Whether a panic has given the terminal back already.
    is_over: Arc<AtomicBool>,
    /// Dropped after the terminal is itself again.
    stderr: Option<HeldStderr>,
}

impl Live {
    /// Shows a run of this plan. A key in the view raises `stop`.
    pub(crate) fn start(plan: &Plan, is_plain: bool, stop: &Stop) -> Self {
        let is_dumb = std::env::var_os("TERM").is_none_or(|terminal| terminal == "dumb");
        if is_plain || is_dumb || !io::stdout().is_terminal() || is_in_background() {
            return Self::Lines;
        }
        match View::start(Setting::of(plan), stop.clone()) {
            Ok(view) => Self::View(view),
            Err(error) => {
                console::complain(format_args!("no live view on this terminal: {error}"));
                Self::Lines
            }
        }
    }

    pub(crate) fn show(&mut self, progress: &Progress) {
        match self {
            Self::Lines => console::say(text::progress(progress)),
            Self::View(view) => {
                if let Some(news) = &view.news {
                    // A view that has ended shows nothing more; the run goes on.
                    let _ = news.send(progress.clone());
                }
            }
        }
    }
}

impl View {
    fn start(setting: Setting, stop: Stop) -> io::Result<Self> {
        // A server that is started writes to the same terminal: what it writes is shown at the end.
        let stderr = match io::stderr().is_terminal() {
            true => Some(HeldStderr::start()?),
            false => None,
        };
        let is_over = Arc::new(AtomicBool::new(false));
        give_back_on_panic(stderr.as_ref(), &is_over)?;
        let terminal = take_terminal()?;
        let (news, received) = mpsc::channel();
        let last_line = stderr.as_ref().map(HeldStderr::last_line);
        let screen = Screen::new(setting, last_line);
        let thread = thread::Builder::new().name("loadgen-view".to_owned()).spawn({
            let is_over = Arc::clone(&is_over);
            move || run(terminal, screen, &received, &stop, &is_over)
        })?;
        Ok(Self { news: Some(news), thread: Some(thread), is_over, stderr })
    }
}

impl Drop for View {
    fn drop(&mut self) {
        self.news = None;
        if let Some(thread) = self.thread.take() {
            // A view that has panicked has given the terminal back before it said so.
            let _ = thread.join();
        }
        // Given back twice, the terminal would write over what came in between.
        if !self.is_over.swap(true, Relaxed) {
            give_back_terminal();
        }
        self.stderr = None;
    }
}

/// Whether another job has the terminal: who changes how it works then is stopped.
fn is_in_background() -> bool {
    let (stdin, stdout) = (io::stdin(), io::stdout());
    // What is no terminal, or does not control this process, has no job.
    let is_anothers = |terminal| tcgetpgrp(terminal).is_ok_and(|job| job != getpgrp());
    [stdin.as_fd(), stdout.as_fd()].into_iter().any(is_anothers)
}

/// Takes the whole terminal, whose keys come at once and unseen.
fn take_terminal() -> io::Result<DefaultTerminal> {
    enable_raw_mode()?;
    let terminal = execute!(io::stdout(), EnterAlternateScreen)
        .and_then(|()| Terminal::new(CrosstermBackend::new(io::stdout())));
    terminal.inspect_err(|_| give_back_terminal())
}

/// Makes the terminal itself again.
fn give_back_terminal() {
    // A terminal that is gone needs nothing; and `ratatui::restore` would say so on standard error,
    // which may be gone with it.
    let _ = ratatui::try_restore();
}

/// Lets a panic be read: its message comes after the terminal is itself again.
fn give_back_on_panic(stderr: Option<&HeldStderr>, is_over: &Arc<AtomicBool>) -> io::Result<()> {
    let original = stderr.map(HeldStderr::original).transpose()?;
    let next = panic::take_hook();
    let is_over = Arc::clone(is_over);
    panic::set_hook(Box::new(move |panic| {
        // Relaxed: the view may draw once more; nothing else depends on it.
        if !is_over.swap(true, Relaxed) {
            give_back_terminal();
        }
        if let Some(original) = &original {
            held::redirect_to(original);
        }
        next(panic);
    }));
    Ok(())
}

/// Draws until there are no more news to come, or the terminal is gone.
fn run(
    mut terminal: DefaultTerminal,
    mut screen: Screen,
    received: &Receiver<Progress>,
    stop: &Stop,
    is_over: &AtomicBool,
) {
    while !is_over.load(Relaxed) {
        loop {
            match received.try_recv() {
                Ok(progress) => screen.add(&progress),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return,
            }
        }
        screen.is_stopping = stop.is_requested();
        if terminal.draw(|frame| screen.draw(frame, Instant::now())).is_err() {
            // Without a terminal there is nothing to show. The run goes on.
            return;
        }
        if !event::poll(FRAME).unwrap_or(false) {
            continue;
        }
        if let Ok(Event::Key(key)) = event::read()
            && is_stop(key)
        {
            stop.request();
        }
    }
}

fn is_stop(key: KeyEvent) -> bool {
    let is_control_c =
        key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
    key.kind == KeyEventKind::Press && (is_control_c || key.code == KeyCode::Char('q'))
}
