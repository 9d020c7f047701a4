//! Work that is split over OS threads, with the same results in the same order for any number of them.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc;

/// Does `work` on each of `items`, on `jobs` threads, and hands every result to `done` in the order of
/// the items, as soon as it and all before it are there. The first error in that order ends it.
///
/// # Errors
/// The first of `work` or `done`.
pub fn in_order<T: Sync, R: Send, E: Send>(
    items: &[T],
    jobs: usize,
    work: impl Fn(&T) -> Result<R, E> + Sync,
    mut done: impl FnMut(R) -> Result<(), E>,
) -> Result<(), E> {
    let next = AtomicUsize::new(0);
    let (send, results) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..jobs.clamp(1, items.len().max(1)) {
            let (send, next, work) = (send.clone(), &next, &work);
            scope.spawn(move || {
                while let Some((at, item)) = take(next, items) {
                    if send.send((at, work(item))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(send);
        let mut waiting: Vec<Option<Result<R, E>>> = items.iter().map(|_| None).collect();
        let mut shown = 0;
        for (at, result) in results {
            waiting[at] = Some(result);
            while let Some(result) = waiting.get_mut(shown).and_then(Option::take) {
                shown += 1;
                result.and_then(&mut done).inspect_err(|_| {
                    // Nobody begins anything more.
                    next.store(items.len(), Relaxed);
                })?;
            }
        }
        Ok(())
    })
}

fn take<'a, T>(next: &AtomicUsize, items: &'a [T]) -> Option<(usize, &'a T)> {
    let at = next.fetch_add(1, Relaxed);
    items.get(at).map(|item| (at, item))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_the_order_of_the_items_whatever_the_number_of_threads() {
        let items: Vec<u64> = (0..50).collect();
        for jobs in [0, 1, 3, 80] {
            let mut seen = Vec::new();
            let work = |item: &u64| {
                let spin: u64 = (0..(50 - item) * 500).fold(0, |a, b| std::hint::black_box(a ^ b));
                Ok::<_, ()>((*item, spin))
            };
            let ended = in_order(&items, jobs, work, |(item, _)| {
                seen.push(item);
                Ok(())
            });
            assert_eq!((ended, &seen), (Ok(()), &items), "{jobs} threads");
        }
    }

    #[test]
    fn the_first_error_in_the_order_of_the_items_is_the_one_that_counts() {
        let items: Vec<u64> = (0..50).collect();
        let work = |item: &u64| {
            if *item % 10 == 7 {
                Err(*item)
            } else {
                Ok(*item)
            }
        };
        let mut seen = Vec::new();
        let ended = in_order(&items, 4, work, |item| {
            seen.push(item);
            Ok(())
        });
        assert_eq!((ended, seen.len()), (Err(7), 7));
        assert_eq!(in_order(&[], 4, work, |_| Ok(())), Ok(()));
    }
}
