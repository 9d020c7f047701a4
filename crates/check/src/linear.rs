//! Orders of one trace with few switches, which people can follow.

use crate::log::Event;

/// The events that happen before, or are, event number `last`, in their order.
pub(crate) fn past_of(events: &[Event], last: usize) -> Vec<usize> {
    let clock = events[last].clock;
    (0..=last)
        .filter(|&at| events[at].known_to(&clock))
        .collect()
}

/// An order of these events that keeps what happens before what, with few switches: each thread in
/// turn is tried as the first, and one that goes on does so for as long as it can.
pub(crate) fn few_switches(events: &[Event], chosen: &[usize]) -> Vec<u8> {
    let threads = events
        .iter()
        .map(|event| usize::from(event.thread) + 1)
        .max()
        .unwrap_or(0);
    let mut queues: Vec<Vec<usize>> = vec![Vec::new(); threads];
    for &at in chosen {
        queues[usize::from(events[at].thread)].push(at);
    }
    let orders = (0..threads).filter_map(|first| greedy(events, &queues, first));
    orders
        .min_by_key(|order| switches(order))
        .unwrap_or_default()
}

/// How often another thread goes on.
pub(crate) fn switches(order: &[u8]) -> usize {
    order.windows(2).filter(|pair| pair[0] != pair[1]).count()
}

fn greedy(events: &[Event], queues: &[Vec<usize>], first: usize) -> Option<Vec<u8>> {
    let mut done = vec![0; queues.len()];
    let total: usize = queues.iter().map(Vec::len).sum();
    let mut order = Vec::with_capacity(total);
    let mut running = first;
    while order.len() < total {
        let run = run_length(events, queues, &done, running);
        if run == 0 && order.is_empty() {
            return None;
        }
        order.extend(std::iter::repeat_n(running as u8, run));
        done[running] += run;
        let longest = |&thread: &usize| run_length(events, queues, &done, thread);
        // The lower number goes first where two could go on for as long.
        running = (0..queues.len()).rev().max_by_key(longest)?;
        if order.len() < total && longest(&running) == 0 {
            return None;
        }
    }
    Some(order)
}

/// How many events a thread can do in a row now.
fn run_length(events: &[Event], queues: &[Vec<usize>], done: &[usize], thread: usize) -> usize {
    let ready = |&&at: &&usize| {
        let clock = &events[at].clock;
        let known = |(other, queue): (usize, &Vec<usize>)| {
            // The events of another thread that must have been done are the first of its queue.
            other == thread || usize::from(clock.at(other as u8)) <= done[other].min(queue.len())
        };
        queues.iter().enumerate().all(known)
    };
    queues[thread][done[thread]..]
        .iter()
        .take_while(ready)
        .count()
}
