//! What the live view shows, drawn from the intervals alone.
//!
//! ```text
//! loadgen  target                                       measuring, 7 s of 10 s
//! requests/s ---------------------------------------------------------------
//!   over time
//! latency ------------------------------------------------------------------
//!   percentiles over time, on a log scale
//! in flight, failures                        arena, if the server tells of it
//! last words of the server                                     q ends the run
//! ```
//!
//! Where there is little room the charts go first: what remains is a line of figures.

use std::{collections::VecDeque, time::Instant};

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Style, Stylize},
    symbols::Marker,
    text::{Line, Span},
    widgets::{Axis, Block, Borders, Chart, Dataset, GraphType, Paragraph},
};

use super::held::LastLine;
use crate::{
    measure::latency::Percentiles, plan::Plan, run::Progress, server::metrics::Sample, units,
};

/// More points than any terminal has dots in a line.
const POINTS_MAX: usize = 1024;
/// Below this a chart says nothing.
const CHART_ROWS_MIN: u16 = 6;
const CHART_COLUMNS_MIN: u16 = 40;

const QUIET: Style = Style::new().fg(Color::DarkGray);
/// The percentiles that are drawn, with their colours.
const LINES: [Percentile; 4] = [
    Percentile { name: "p50", colour: Color::Green, of: |percentiles| percentiles.p50 },
    Percentile { name: "p90", colour: Color::Cyan, of: |percentiles| percentiles.p90 },
    Percentile { name: "p99", colour: Color::Yellow, of: |percentiles| percentiles.p99 },
    Percentile { name: "max", colour: Color::Red, of: |percentiles| percentiles.max },
];

/// A line of the chart of latencies.
#[derive(Clone, Copy, Debug)]
struct Percentile {
    name: &'static str,
    colour: Color,
    of: fn(&Percentiles) -> u64,
}

/// What is known before the run.
#[derive(Debug)]
pub(crate) struct Setting {
    target: String,
    /// How long it takes until measuring begins.
    warm_up_s: f64,
    /// How long the whole load lasts, if time ends it.
    load_s: Option<f64>,
    has_metrics: bool,
}

/// All that the view shows.
#[derive(Debug)]
pub(crate) struct Screen {
    setting: Setting,
    points: VecDeque<Point>,
    /// When the last of them came.
    came_at: Instant,
    failures: u64,
    /// Those of the warm-up, which do not count.
    warm_up_failures: u64,
    arena: Option<Sample>,
    /// The first sample, whose spills the run has not caused.
    arena_before: Option<Sample>,
    stderr: Option<LastLine>,
    pub(crate) is_stopping: bool,
}

#[derive(Clone, Copy, Debug)]
struct Point {
    end_s: f64,
    rate: f64,
    latency: Percentiles,
    in_flight: f64,
}

impl Setting {
    pub(crate) fn of(plan: &Plan) -> Self {
        let target = match (&plan.target, plan.command.as_slice()) {
            (Some(target), _) => target.to_string(),
            (None, command) => command.join(" "),
        };
        // Measuring begins after both.
        let warm_up_s = plan.ramp_up.as_secs_f64() + plan.warm_up.as_secs_f64();
        Self {
            target,
            warm_up_s,
            load_s: plan.duration.map(|duration| warm_up_s + duration.as_secs_f64()),
            has_metrics: plan.metrics.is_some(),
        }
    }
}

impl Screen {
    pub(crate) fn new(setting: Setting, stderr: Option<LastLine>) -> Self {
        Self {
            setting,
            points: VecDeque::new(),
            came_at: Instant::now(),
            failures: 0,
            warm_up_failures: 0,
            arena: None,
            arena_before: None,
            stderr,
            is_stopping: false,
        }
    }

    pub(crate) fn add(&mut self, progress: &Progress) {
        let interval = &progress.interval;
        if self.points.len() == POINTS_MAX {
            self.points.pop_front();
        }
        self.points.push_back(Point {
            end_s: interval.end().as_secs_f64(),
            rate: interval.rate(),
            latency: interval.latency.percentiles(),
            in_flight: interval.in_flight_mean,
        });
        self.came_at = Instant::now();
        let failures = match interval.is_warm_up {
            true => &mut self.warm_up_failures,
            false => &mut self.failures,
        };
        *failures += interval.errors + interval.mismatches;
        self.arena = progress.arena;
        self.arena_before = self.arena_before.or(progress.arena);
    }

    pub(crate) fn draw(&self, frame: &mut Frame<'_>, now: Instant) {
        let area = frame.area();
        let figures_and_frame = 5;
        let charts = match area.height.saturating_sub(figures_and_frame) / CHART_ROWS_MIN {
            _ if area.width < CHART_COLUMNS_MIN => 0,
            charts => charts.min(2),
        };
        let figures = self.figures(charts);
        let [head, middle, foot, end] = Layout::vertical([
            Constraint::Length(1),
            Constraint::Fill(1),
            Constraint::Length(u16::try_from(figures.len()).unwrap_or(u16::MAX)),
            Constraint::Length(1),
        ])
        .areas(area);
        self.draw_head(frame, head, now);
        match charts {
            0 => {}
            1 => self.draw_latency(frame, middle),
            _ => {
                let [above, below] =
                    Layout::vertical([Constraint::Fill(2), Constraint::Fill(3)]).areas(middle);
                self.draw_rate(frame, above);
                self.draw_latency(frame, below);
            }
        }
        frame.render_widget(Paragraph::new(figures), foot);
        self.draw_end(frame, end);
    }

    fn draw_head(&self, frame: &mut Frame<'_>, area: Rect, now: Instant) {
        let phase = self.phase(now);
        let width = u16::try_from(phase.chars().count() + 1).unwrap_or(area.width);
        let [left, right] =
            Layout::horizontal([Constraint::Fill(1), Constraint::Length(width)]).areas(area);
        let title = Line::from(vec!["loadgen ".bold(), self.setting.target.as_str().into()]);
        frame.render_widget(Paragraph::new(title), left);
        frame.render_widget(Paragraph::new(phase).right_aligned(), right);
    }

    /// What goes on, and how far it is.
    fn phase(&self, now: Instant) -> String {
        let Some(last) = self.points.back() else {
            return "starting".to_owned();
        };
        let since = now.saturating_duration_since(self.came_at);
        let elapsed_s = last.end_s + since.as_secs_f64();
        let (load_s, warm_up_s) = (self.setting.load_s, self.setting.warm_up_s);
        let phase = match elapsed_s {
            _ if self.is_stopping => "ending",
            _ if elapsed_s < warm_up_s => "warming up",
            _ if load_s.is_some_and(|load_s| elapsed_s >= load_s) => "ending",
            _ => "measuring",
        };
        match load_s {
            Some(load_s) => format!("{phase}, {:.0} s of {load_s:.0} s", elapsed_s.min(load_s)),
            None => format!("{phase}, {elapsed_s:.0} s"),
        }
    }

    fn draw_rate(&self, frame: &mut Frame<'_>, area: Rect) {
        let rates = self.window(area, |point| Some(point.rate));
        let most = rates.iter().map(|&(_, rate)| rate).fold(0.0, f64::max);
        let top = round_up(most.max(2.0));
        let labels = [0.0, top / 2.0, top].map(units::rate);
        let line = dataset(&rates, Color::Cyan);
        let title = match self.points.back() {
            Some(last) => format!(" {} requests/s ", units::rate(last.rate)),
            None => " requests/s ".to_owned(),
        };
        self.draw_chart(frame, area, title.bold().into(), vec![line], [0.0, top], labels.into());
    }

    fn draw_latency(&self, frame: &mut Frame<'_>, area: Rect) {
        let lines = LINES.map(|Percentile { colour, of, .. }| {
            let known = |point: &Point| Some(of(&point.latency)).filter(|&nanos| nanos > 0);
            (self.window(area, |point| known(point).map(|nanos| (nanos as f64).log10())), colour)
        });
        let values = || lines.iter().flat_map(|(points, _)| points).map(|&(_, value)| value);
        let bounds = match values().next() {
            Some(first) => {
                [values().fold(first, f64::min).floor(), values().fold(first, f64::max).ceil()]
            }
            None => [3.0, 6.0],
        };
        let bounds = [bounds[0], bounds[1].max(bounds[0] + 1.0)];
        let decades = units::whole(bounds[1] - bounds[0]);
        // Labels stand at even distances: all of them, or those at the ends.
        let has_room = u64::from(area.height.saturating_sub(3)) > 2 * decades;
        let labelled = (0..=decades).filter(|decade| has_room || [0, decades].contains(decade));
        let labels = labelled.map(|decade| power_of_ten(bounds[0] + decade as f64));
        let mut title = vec![" latency ".bold()];
        if let Some(last) = self.points.back() {
            title.extend(percentiles(last));
        }
        let datasets =
            lines.iter().rev().map(|(points, colour)| dataset(points, *colour)).collect();
        self.draw_chart(frame, area, title.into(), datasets, bounds, labels.collect());
    }

    fn draw_chart(
        &self,
        frame: &mut Frame<'_>,
        area: Rect,
        title: Line<'_>,
        datasets: Vec<Dataset<'_>>,
        bounds: [f64; 2],
        labels: Vec<String>,
    ) {
        let times = self.window(area, |_| Some(0.0));
        let from = times.first().map_or(0.0, |&(time, _)| time);
        let to = times.last().map_or(1.0, |&(time, _)| time).max(from + 1.0);
        let block = Block::new().borders(Borders::TOP).border_style(QUIET).title(title);
        let time = Axis::default().bounds([from, to]).style(QUIET);
        let time = time.labels([format!("{from:.0} s"), format!("{to:.0} s")]);
        let value = Axis::default().bounds(bounds).style(QUIET).labels(labels);
        frame.render_widget(Chart::new(datasets).block(block).x_axis(time).y_axis(value), area);
    }

    /// The latest points, as many as there is room for, as pairs of a time and a value.
    fn window(&self, area: Rect, value: impl Fn(&Point) -> Option<f64>) -> Vec<(f64, f64)> {
        // A column of a chart is two dots wide.
        let room = 2 * usize::from(area.width);
        let points = self.points.iter().skip(self.points.len().saturating_sub(room));
        points.filter_map(|point| Some((point.end_s, value(point)?))).collect()
    }

    /// The figures in words: with fewer charts there are more of them.
    fn figures(&self, charts: u16) -> Vec<Line<'_>> {
        let mut lines = Vec::new();
        let last = self.points.back();
        if let (0 | 1, Some(last)) = (charts, last) {
            lines.push(format!("{} requests/s", units::rate(last.rate)).bold().into());
        }
        if let (0, Some(last)) = (charts, last) {
            lines.push(percentiles(last).into());
        }
        let in_flight = last.map_or(0.0, |last| last.in_flight);
        let failures = format!("{} failures", units::grouped(self.failures));
        let failures = if self.failures > 0 { failures.red().bold() } else { failures.into() };
        let earlier = match self.warm_up_failures {
            0 => String::new(),
            earlier => format!(", {} while warming up", units::grouped(earlier)),
        };
        let in_flight = format!("{} in flight   ", units::rate(in_flight));
        lines.push(vec![in_flight.into(), failures, earlier.into()].into());
        // A server that the run starts may have said where its metrics are.
        if self.setting.has_metrics || self.arena.is_some() {
            lines.push(self.arena_line());
        }
        lines
    }

    fn arena_line(&self) -> Line<'_> {
        let Some(arena) = self.arena else {
            return Line::styled("arena: nothing read from --metrics yet", QUIET);
        };
        let bytes = |figure: Option<u64>| figure.map_or("?".to_owned(), units::bytes);
        let spills =
            match (self.arena_before.and_then(|first| first.spills_total), arena.spills_total) {
                (Some(before), Some(now)) => units::grouped(now.saturating_sub(before)),
                _ => "?".to_owned(),
            };
        let waiters = arena.waiters.map_or("?".to_owned(), units::grouped);
        let waiters = format!("{waiters} waiters");
        let has_waiters = arena.waiters.is_some_and(|waiters| waiters > 0);
        let text = format!(
            "arena {} of {}, largest free {}, ",
            bytes(arena.bytes_live),
            bytes(arena.bytes_reserved),
            bytes(arena.largest_free_block_bytes),
        );
        vec![
            text.into(),
            if has_waiters { waiters.yellow() } else { waiters.into() },
            format!(", {spills} spills").into(),
        ]
        .into()
    }

    fn draw_end(&self, frame: &mut Frame<'_>, area: Rect) {
        let hint = match self.is_stopping {
            true => "waiting for what is in flight; q again ends at once",
            false => "q ends the run with its report",
        };
        let width = u16::try_from(hint.len() + 2).unwrap_or(area.width);
        let [left, right] =
            Layout::horizontal([Constraint::Fill(1), Constraint::Length(width)]).areas(area);
        let words = self.stderr.as_ref().map(LastLine::text).unwrap_or_default();
        frame.render_widget(Paragraph::new(printable(&words)).style(QUIET), left);
        frame.render_widget(Paragraph::new(hint).style(QUIET).right_aligned(), right);
    }
}

/// The percentiles in the colours of their lines.
fn percentiles(point: &Point) -> Vec<Span<'static>> {
    let latency = &point.latency;
    let texts = LINES.map(|Percentile { name, colour, of }| {
        let time = match of(latency) {
            0 => "-".to_owned(),
            nanos => units::time(nanos),
        };
        Span::styled(format!("{name} {time} "), colour)
    });
    texts.into()
}

fn dataset(points: &[(f64, f64)], colour: Color) -> Dataset<'_> {
    Dataset::default()
        .marker(Marker::Braille)
        .graph_type(GraphType::Line)
        .style(colour)
        .data(points)
}

/// A time that is a power of ten, without the digits that say so.
fn power_of_ten(exponent: f64) -> String {
    units::time(units::whole(10_f64.powf(exponent).round())).replace(".00", "").replace(".0", "")
}

/// The next number that is 1, 2 or 5 times a power of ten.
fn round_up(number: f64) -> f64 {
    let power = 10_f64.powf(number.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= number);
    factor.unwrap_or(10.0) * power
}

/// A line without the codes that a server may colour it with.
fn printable(line: &str) -> String {
    let mut text = String::new();
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match character {
            '\x1b' => {
                characters.by_ref().find(char::is_ascii_alphabetic);
            }
            character if character.is_control() => text.push(' '),
            character => text.push(character),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ratatui::{Terminal, backend::TestBackend};

    use super::*;
    use crate::{load::interval::Interval, measure::latency::Latency};

    fn screen() -> Screen {
        let mut plan = Plan::for_target("server.test:9000".parse().unwrap());
        plan.metrics = Some("http://server.test:9100".parse().unwrap());
        Screen::new(Setting::of(&plan), None)
    }

    fn progress(second: u64, errors: u64) -> Progress {
        let mut histogram = Latency::default().histogram();
        histogram.record_n(120_000, 99).unwrap();
        histogram.record_n(45_000_000, 1).unwrap();
        let latency = Latency::from(&histogram);
        let interval = Interval {
            start: Duration::from_secs(second),
            length: Duration::from_secs(1),
            is_warm_up: second < 2,
            requests: 12_345,
            late_warm_up_requests: 0,
            errors,
            mismatches: 0,
            in_flight: 640,
            in_flight_mean: 640.0,
            service: latency.clone(),
            send_lag: Latency::default(),
            latency,
        };
        let arena = Sample {
            bytes_reserved: Some(64 << 20),
            bytes_live: Some(3 << 20),
            spills_total: Some(100 + second),
            waiters: Some(7),
            ..Sample::default()
        };
        Progress { elapsed: interval.end(), interval, arena: Some(arena) }
    }

    /// The picture at the moment when the last interval came.
    fn drawn(screen: &Screen, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| screen.draw(frame, screen.came_at)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn every_figure_is_shown() {
        let mut screen = screen();
        (0..5).for_each(|second| screen.add(&progress(second, second)));
        let picture = drawn(&screen, 100, 30);
        for words in [
            "server.test:9000",
            "measuring, 5 s of 12 s",
            "12,345 requests/s",
            "p50 120 us",
            "max 45",
            "640 in flight",
            "9 failures, 1 while warming up",
            "3.00 MiB of 64.0 MiB",
            "7 waiters",
            "4 spills",
            "q ends the run",
        ] {
            assert!(picture.contains(words), "{words} is not in:\n{picture}");
        }
    }

    #[test]
    fn connections_that_join_one_by_one_come_before_what_is_measured() {
        let mut plan = Plan::for_target("server.test:9000".parse().unwrap());
        plan.ramp_up = Duration::from_secs(30);
        let mut screen = Screen::new(Setting::of(&plan), None);
        screen.add(&progress(20, 0));
        assert!(drawn(&screen, 100, 30).contains("warming up, 21 s of 42 s"));
        screen.add(&progress(35, 0));
        assert!(drawn(&screen, 100, 30).contains("measuring, 36 s of 42 s"));
    }

    #[test]
    fn the_arena_is_shown_wherever_the_page_was_found() {
        let plan = Plan::for_target("server.test:9000".parse().unwrap());
        let mut screen = Screen::new(Setting::of(&plan), None);
        assert!(!drawn(&screen, 100, 30).contains("arena"));
        screen.add(&progress(3, 0));
        assert!(drawn(&screen, 100, 30).contains("3.00 MiB of 64.0 MiB"));
    }

    #[test]
    fn it_can_be_drawn_at_any_size_and_before_anything_is_known() {
        let mut screen = screen();
        for _ in 0..2 {
            for (width, height) in [(1, 1), (5, 40), (200, 3), (40, 11), (40, 17), (300, 90)] {
                drawn(&screen, width, height);
            }
            screen.add(&progress(0, 0));
        }
    }

    #[test]
    fn without_room_for_charts_the_figures_remain() {
        let mut screen = screen();
        screen.add(&progress(3, 0));
        let picture = drawn(&screen, 60, 8);
        assert!(picture.contains("12,345 requests/s"), "{picture}");
        assert!(picture.contains("p99"), "{picture}");
    }

    #[test]
    fn a_long_run_keeps_no_more_points_than_it_can_show() {
        let mut screen = screen();
        (0..3_000).for_each(|second| screen.add(&progress(second, 0)));
        assert_eq!(screen.points.len(), POINTS_MAX);
        drawn(&screen, 100, 30);
    }

    #[test]
    fn codes_of_a_server_do_not_reach_the_terminal() {
        assert_eq!(printable("\x1b[1;31mred\x1b[0m\tend"), "red end");
    }

    #[test]
    fn an_axis_ends_at_a_round_number() {
        for (number, round) in [(1.0, 1.0), (1.1, 2.0), (3.0, 5.0), (71_000.0, 100_000.0)] {
            assert_eq!(round_up(number), round);
        }
    }
}
