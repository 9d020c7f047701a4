//! The sequence chart of a finding, as SVG: threads down, time across, calls and locks as bars.
//!
//! Time goes by the lines of the outline, each as wide as its words need, so that what one thread does for
//! itself takes no room. What would be wider than a screen is folded.

mod fold;
mod lanes;
mod time;

use maud::{Markup, html};
use seamlock_check::{Counterexample, Hold, Row, Span, What};

use self::fold::folded;
use self::lanes::{Lane, lanes};
use self::time::Time;

/// Height of a lane.
const LANE: f64 = 19.0;
/// Height of a bar.
const BAR: f64 = 14.0;
/// Space between threads.
const GAP: f64 = 12.0;
/// Space above the first lane.
const TOP: f64 = 6.0;
/// Space on the right, for the mark of the violation.
const RIGHT: f64 = 26.0;

/// Where everything is.
struct Chart<'a> {
    example: &'a Counterexample,
    rows: Vec<Row>,
    time: Time,
    // With the top of each.
    lanes: Vec<(Lane, f64)>,
    height: f64,
}

/// Draws the chart.
pub fn chart(example: &Counterexample) -> Markup {
    let outline = example.outline();
    let lanes = lanes(example, &outline);
    let rows = folded(example, outline);
    let time = Time::of(&rows);
    let (mut placed, mut y, mut thread) = (Vec::new(), TOP, None);
    for lane in lanes {
        if thread.is_some_and(|thread| thread != lane.thread) {
            y += GAP;
        }
        thread = Some(lane.thread);
        placed.push((lane, y));
        y += LANE;
    }
    let chart = Chart {
        example,
        rows,
        time,
        lanes: placed,
        height: y + TOP,
    };
    chart.draw()
}

impl Chart<'_> {
    fn draw(&self) -> Markup {
        let (width, height) = (self.time.width() + RIGHT, self.height);
        let label = format!("sequence chart: {}", self.example.violation);
        html! {
            div.chart {
                (self.gutter())
                div.scroll tabindex="0" {
                    svg width=(width) height=(height) role="img" aria-label=(label) {
                        (self.running())
                        @for span in &self.example.spans { (self.span(span)) }
                        (self.words())
                        @for hold in &self.example.holds() { (self.hold(hold)) }
                        (self.cells())
                        (self.refusals())
                        (self.waits())
                        (self.violation())
                    }
                }
            }
        }
    }

    /// The names of threads and locks, which stay where they are when time is scrolled.
    fn gutter(&self) -> Markup {
        html! {
            div.gutter style={ "height:" (self.height) "px" } {
                @for (lane, y) in &self.lanes {
                    div class=(lane.class()) style={ "top:" (y) "px" } title=(lane.label) {
                        (lane.label)
                    }
                }
            }
        }
    }

    /// A band behind the thread that runs.
    fn running(&self) -> Markup {
        let runs: Vec<&[Row]> = self.rows.chunk_by(|a, b| a.thread == b.thread).collect();
        html! {
            @for run in runs {
                @if let (Some(first), Some(last)) = (run.first(), run.last()) {
                    @let from = self.time.start(first.first);
                    @let until = self.time.end(last.last);
                    @let (top, bottom) = self.lanes_of(first.thread);
                    rect.runs x=(from) y=(top - 3.0) width=(until - from)
                        height=(bottom - top + 4.0) rx="3" {}
                }
            }
        }
    }

    fn lanes_of(&self, thread: usize) -> (f64, f64) {
        let mine = self.lanes.iter().filter(|(lane, _)| lane.thread == thread);
        mine.fold((f64::MAX, 0.0), |(top, bottom), (_, y)| {
            (top.min(*y), f64::max(bottom, y + LANE))
        })
    }

    fn lane(&self, wanted: impl Fn(&Lane) -> bool) -> Option<f64> {
        self.lanes
            .iter()
            .find(|(lane, _)| wanted(lane))
            .map(|lane| lane.1)
    }

    /// A call, from its first operation to its last, or to the end.
    fn span(&self, span: &Span) -> Markup {
        let steps = self.example.steps.iter().enumerate();
        let mut mine = steps
            .filter(|(at, step)| span.has(step.thread, *at))
            .map(|(at, _)| at);
        let Some(first) = mine.next() else {
            return html! {};
        };
        let last = mine.next_back().unwrap_or(first);
        let (from, until) = match span.until {
            Some(_) => (self.time.start(first), self.time.end(last)),
            None => (self.time.start(first), self.time.width()),
        };
        let Some(y) =
            self.lane(|lane| lane.thread == span.thread && lane.depth == Some(span.depth))
        else {
            return html! {};
        };
        let how = span.how.as_deref().unwrap_or_default();
        let failed = how.starts_with('-') || how.contains("BUSY") || how.contains("INCORRECT");
        let class = match (span.depth, failed) {
            (0, _) => "call",
            (_, true) => "inner failed",
            (_, false) => "inner",
        };
        let title = match (&span.how, span.until) {
            (Some(how), _) if !how.is_empty() => format!("{} → {how}", span.what),
            (_, Some(_)) => span.what.clone(),
            _ => format!("{}, not ended", span.what),
        };
        html! {
            g { title { (title) } (bar(class, from, y, (until - from).max(2.0))) }
        }
    }

    /// The words in the bars of calls: of calls that come again and again, once.
    fn words(&self) -> Markup {
        let named = |(_, row): &(usize, &Row)| matches!(row.what, What::Begins | What::Inner);
        html! {
            @for (at, row) in self.rows.iter().enumerate().filter(named) {
                @let (depth, x, words) = match row.what {
                    What::Begins => (0, self.time.start(row.first), row.text.clone()),
                    _ => (1, self.time.line(at), time::label(row)),
                };
                @let on = |lane: &Lane| lane.thread == row.thread && lane.depth == Some(depth);
                @if let Some(y) = self.lane(on) {
                    text x=(x + 4.0) y=(y + 11.0) { (words) }
                }
            }
        }
    }

    fn hold(&self, hold: &Hold) -> Markup {
        let mine = |lane: &Lane| lane.thread == hold.thread && lane.lock == Some(hold.name);
        let Some(y) = self.lane(mine) else {
            return html! {};
        };
        let from = self.time.start(hold.from);
        let until = hold
            .until
            .map_or(self.time.width(), |until| self.time.end(until));
        let class = if hold.alone { "lock" } else { "lock shared" };
        let mode = if hold.alone { "" } else { ", shared" };
        let thread = &self.example.threads[hold.thread];
        let title = format!("{} held by {thread}{mode}", self.example.object(&hold.name));
        html! { g { title { (title) } (bar(class, from, y, (until - from).max(3.0))) } }
    }

    /// State that others look at or change, with words where there is room.
    fn cells(&self) -> Markup {
        let told = |row: &&Row| row.what == What::Other;
        let rows: Vec<&Row> = self.rows.iter().filter(told).collect();
        html! {
            @for (at, row) in rows.iter().enumerate() {
                @let thread = row.thread;
                @if let Some(y) = self.lane(|lane| lane.thread == thread && lane.state) {
                    @let x = self.middle(row);
                    @let mut later = rows[at + 1..].iter().filter(|next| next.thread == thread);
                    @let end = later.next().map_or(self.time.width(), |next| self.middle(next));
                    g { title { (row.text) } circle.cell cx=(x) cy=(y + BAR / 2.0) r="4.5" {} }
                    @if x + 14.0 + time::width_of(&row.text) < end {
                        text.dim x=(x + 8.0) y=(y + 11.0) { (row.text) }
                    }
                }
            }
        }
    }

    fn middle(&self, row: &Row) -> f64 {
        (self.time.start(row.first) + self.time.end(row.last)) / 2.0
    }

    /// What was not to be had, and a line to who has it.
    fn refusals(&self) -> Markup {
        let refused = self.example.steps.iter().enumerate();
        html! {
            @for (at, step) in refused.filter(|(_, step)| step.is_refused()) {
                @let x = self.time.start(at);
                @let end = self.time.end(at);
                @let on = |thread| move |lane: &Lane| {
                    lane.thread == thread && lane.lock == Some(step.name)
                };
                @if let Some(y) = self.lane(on(step.thread)) {
                    @for holder in step.busy_by.iter().filter_map(|holder| holder.thread) {
                        @if let Some(other) = self.lane(on(holder)) {
                            line.link x1=((x + end) / 2.0) y1=(y + BAR / 2.0)
                                x2=((x + end) / 2.0) y2=(other + BAR / 2.0) {}
                        }
                    }
                    g { title { "BUSY: " (self.example.object(&step.name)) }
                        (bar("busy", x, y, (end - x).max(40.0)))
                        text.alarm x=(x + 6.0) y=(y + 11.0) { "BUSY" }
                    }
                }
            }
        }
    }

    /// Threads that wait at the end.
    fn waits(&self) -> Markup {
        html! {
            @for wait in self.example.waiting.iter().filter(|wait| wait.blocked) {
                @let mine = |lane: &Lane| {
                    lane.thread == wait.thread && lane.lock == Some(wait.name)
                };
                @if let Some(y) = self.lane(mine) {
                    @let x = self.time.width() - 46.0;
                    g { title { "waits for " (self.example.object(&wait.name)) }
                        (bar("busy", x, y, 46.0))
                        text.alarm x=(x + 6.0) y=(y + 11.0) { "waits" }
                    }
                }
            }
        }
    }

    fn violation(&self) -> Markup {
        let x = self.time.width() + 4.0;
        let thread = self.example.steps.last().map_or(0, |step| step.thread);
        let (top, bottom) = self.lanes_of(thread);
        html! {
            g { title { (self.example.violation) }
                line.end x1=(x) y1="0" x2=(x) y2=(self.height) {}
                circle.end cx=(x + 11.0) cy=((top + bottom) / 2.0) r="9" {}
                text.cross x=(x + 11.0) y=((top + bottom) / 2.0 + 4.5) { "✗" }
            }
        }
    }
}

fn bar(class: &str, x: f64, y: f64, width: f64) -> Markup {
    html! { rect class=(class) x=(x) y=(y) width=(width) height=(BAR) rx="2.5" {} }
}
