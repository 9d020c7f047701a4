//! Mappings of our files. As in the kernel, a mapping keeps its file open.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use seamlock_kvm::File;
use seamlock_sync::Private;

/// One mapping.
#[derive(Clone, Debug)]
struct Map {
    end: usize,
    file: Arc<File>,
}

/// Mappings of ours, by their first address.
#[derive(Debug, Default)]
pub struct Maps {
    count: AtomicUsize,
    maps: Private<BTreeMap<usize, Map>>,
}

impl Maps {
    /// Whether there is none, which is all that most calls of `munmap` need to know.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.count.load(SeqCst) == 0
    }

    /// Whether some of a range is mapped.
    pub fn overlaps(&self, start: usize, len: usize) -> bool {
        let end = start.saturating_add(len);
        self.maps
            .with(|maps| maps.range(..end).any(|(_, map)| map.end > start))
    }

    /// Notes a mapping. It owns one reference to the file, which the caller took.
    pub fn insert(&self, start: usize, len: usize, file: Arc<File>) {
        self.maps.with(|maps| {
            maps.insert(
                start,
                Map {
                    end: start.saturating_add(len),
                    file,
                },
            );
            self.count.store(maps.len(), SeqCst);
        });
    }

    /// Notes that a range is no longer mapped. Returns the files of which a reference is to be given
    /// back, and those of which one more is to be taken, because a mapping was split.
    pub fn remove(&self, start: usize, len: usize) -> (Vec<Arc<File>>, Vec<Arc<File>>) {
        let end = start.saturating_add(len);
        let (mut put, mut get) = (Vec::new(), Vec::new());
        self.maps.with(|maps| {
            let hit: Vec<usize> = maps
                .range(..end)
                .filter(|(_, m)| m.end > start)
                .map(|(s, _)| *s)
                .collect();
            for first in hit {
                let Some(map) = maps.remove(&first) else {
                    continue;
                };
                let (head, tail) = (first < start, map.end > end);
                if head {
                    maps.insert(
                        first,
                        Map {
                            end: start,
                            file: map.file.clone(),
                        },
                    );
                }
                if tail {
                    maps.insert(end, map.clone());
                }
                match (head, tail) {
                    (false, false) => put.push(map.file),
                    (true, true) => get.push(map.file),
                    _ => {}
                }
            }
            self.count.store(maps.len(), SeqCst);
        });
        (put, get)
    }
}
