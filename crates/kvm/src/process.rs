//! A process in memory: user memory and descriptors, for clients that are no processes of their own.
//!
//! # Locking
//! Private: the kernel's `mmap_lock` and `file_lock` have nothing to do with KVM's locks. No hook sees which
//! number a new descriptor gets, which depends on what other threads closed before; where that would
//! matter, numbers are used once ([`Process::using_numbers_once`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use seamlock_sync::Private;
use seamlock_tdx_abi::kvm::{Errno, KVM_DIRTY_LOG_PAGE_OFFSET, KVM_VCPU_MMAP_BYTES};
use seamlock_tdx_abi::{Hpa, PAGE_SIZE};

use crate::file::File;
use crate::host::CachedFile;
use crate::task::{Control, Fault, Files, RunPage, Task, UserMemory};

/// Where mappings start.
const FIRST_ADDRESS: u64 = 0x7f00_0000_0000;
/// Descriptors 0 to 2 are not KVM's.
const FIRST_FD: i32 = 3;

#[derive(Debug)]
enum Backing {
    /// Anonymous memory, by page, zero where nobody wrote.
    Sparse(BTreeMap<u64, Box<[u8; PAGE_SIZE as usize]>>),
    /// A file's bytes, mapped privately and read-only.
    Bytes(Arc<[u8]>),
    /// A file in the machine's page cache, mapped likewise.
    Cached(Arc<CachedFile>),
}

#[derive(Debug)]
struct Vma {
    size: u64,
    backing: Backing,
}

#[derive(Debug, Default)]
struct Memory {
    vmas: BTreeMap<u64, Vma>,
    next: u64,
}

/// The files by descriptor.
#[derive(Debug, Default)]
struct Table {
    open: BTreeMap<i32, Arc<File>>,
    /// No number below this is given to a new descriptor.
    from: i32,
}

/// A process: address space and descriptor table.
#[derive(Debug)]
pub struct Process {
    mm: u64,
    memory: Private<Memory>,
    files: Private<Table>,
    max_fds: usize,
    use_once: bool,
}

impl Process {
    /// A process whose address space is number `mm`, with 1024 descriptors.
    pub fn new(mm: u64) -> Process {
        Process::with_fd_limit(mm, 1024)
    }

    /// A process with a limit of descriptors (RLIMIT_NOFILE), the standard ones not counted.
    pub fn with_fd_limit(mm: u64, max_fds: usize) -> Process {
        Process {
            mm,
            memory: Private::default(),
            files: Private::default(),
            max_fds,
            use_once: false,
        }
    }

    /// The same process, which gives the number of a closed descriptor to no other. A program whose
    /// threads close what others still use is at fault itself when these then meet another file.
    pub fn using_numbers_once(self) -> Process {
        Process {
            use_once: true,
            ..self
        }
    }

    /// A thread of the process.
    pub fn task<'a>(&'a self, control: &'a Control) -> Task<'a> {
        Task::new(control, self.mm, self, self)
    }

    /// Maps `size` bytes of anonymous memory and returns where. Costs what is written.
    pub fn map(&self, size: u64) -> u64 {
        self.map_backing(size, Backing::Sparse(BTreeMap::new()))
    }

    /// Maps bytes, read-only, and returns where. The last page is filled up with zeros.
    pub fn map_bytes(&self, bytes: Arc<[u8]>) -> u64 {
        self.map_backing(bytes.len() as u64, Backing::Bytes(bytes))
    }

    /// Maps a file that is in the page cache, read-only, and returns where.
    pub fn map_file(&self, file: Arc<CachedFile>) -> u64 {
        self.map_backing(file.size(), Backing::Cached(file))
    }

    fn map_backing(&self, size: u64, backing: Backing) -> u64 {
        let size = size.div_ceil(PAGE_SIZE).max(1) * PAGE_SIZE;
        self.memory.with(|memory| {
            let at = memory.next.max(FIRST_ADDRESS);
            // A page in between stays unmapped, so that running over the end faults.
            memory.next = at + size + PAGE_SIZE;
            memory.vmas.insert(at, Vma { size, backing });
            at
        })
    }

    /// Unmaps what was mapped at `addr`.
    pub fn unmap(&self, addr: u64) {
        self.memory.with(|memory| memory.vmas.remove(&addr));
    }

    /// Maps memory that holds `bytes`, writable, and returns where.
    pub fn map_copy(&self, bytes: &[u8]) -> u64 {
        let at = self.map(bytes.len() as u64);
        // Just mapped, and large enough.
        let _ = self.write(at, bytes);
        at
    }

    /// Reads bytes that were mapped.
    ///
    /// # Errors
    /// When a byte is not mapped.
    pub fn read_vec(&self, addr: u64, len: usize) -> Result<Vec<u8>, Fault> {
        let mut bytes = vec![0; len];
        self.read(addr, &mut bytes)?;
        Ok(bytes)
    }

    /// Open descriptors, ascending.
    pub fn open_fds(&self) -> Vec<i32> {
        self.files
            .with(|files| files.open.keys().copied().collect())
    }

    fn each_page(
        &self,
        addr: u64,
        len: usize,
        mut visit: impl FnMut(&mut Vma, u64, std::ops::Range<usize>) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let end = addr.checked_add(len as u64).ok_or(Fault)?;
        self.memory.with(|memory| {
            let mut at = addr;
            while at < end {
                let (base, vma) = memory.vmas.range_mut(..=at).next_back().ok_or(Fault)?;
                let offset = at - base;
                if offset >= vma.size {
                    return Err(Fault);
                }
                let stop = end.min((at / PAGE_SIZE + 1) * PAGE_SIZE);
                visit(vma, offset, (at - addr) as usize..(stop - addr) as usize)?;
                at = stop;
            }
            Ok(())
        })
    }
}

/// What of `bytes` lies at `offset`, at most `len` bytes.
fn tail(bytes: &[u8], offset: u64, len: usize) -> &[u8] {
    let rest = bytes.get(offset as usize..).unwrap_or_default();
    &rest[..rest.len().min(len)]
}

impl UserMemory for Process {
    fn read(&self, addr: u64, out: &mut [u8]) -> Result<(), Fault> {
        let len = out.len();
        self.each_page(addr, len, |vma, offset, range| {
            let out = &mut out[range];
            out.fill(0);
            let source = match &vma.backing {
                Backing::Cached(file) => {
                    file.read(offset, out);
                    return Ok(());
                }
                Backing::Bytes(bytes) => tail(bytes, offset, out.len()),
                Backing::Sparse(pages) => match pages.get(&(offset / PAGE_SIZE)) {
                    Some(page) => tail(&page[..], offset % PAGE_SIZE, out.len()),
                    None => &[],
                },
            };
            out[..source.len()].copy_from_slice(source);
            Ok(())
        })
    }

    fn write(&self, addr: u64, bytes: &[u8]) -> Result<(), Fault> {
        self.each_page(addr, bytes.len(), |vma, offset, range| {
            let Backing::Sparse(pages) = &mut vma.backing else {
                return Err(Fault);
            };
            let page = pages
                .entry(offset / PAGE_SIZE)
                .or_insert_with(|| Box::new([0; PAGE_SIZE as usize]));
            let at = (offset % PAGE_SIZE) as usize;
            page[at..at + range.len()].copy_from_slice(&bytes[range]);
            Ok(())
        })
    }

    fn page(&self, addr: u64, sink: &mut dyn FnMut(&[u8])) -> Result<(), Fault> {
        const ZERO: [u8; PAGE_SIZE as usize] = [0; PAGE_SIZE as usize];
        self.each_page(addr, PAGE_SIZE as usize, |vma, offset, _| {
            match &vma.backing {
                Backing::Cached(file) => {
                    let mut page = ZERO;
                    file.read(offset, &mut page);
                    sink(&page);
                }
                Backing::Bytes(bytes) => match tail(bytes, offset, PAGE_SIZE as usize) {
                    whole if whole.len() == PAGE_SIZE as usize => sink(whole),
                    part => {
                        let mut page = ZERO;
                        page[..part.len()].copy_from_slice(part);
                        sink(&page);
                    }
                },
                Backing::Sparse(pages) => {
                    sink(
                        pages
                            .get(&(offset / PAGE_SIZE))
                            .map_or(&ZERO[..], |page| &page[..]),
                    );
                }
            }
            Ok(())
        })
    }

    fn frame(&self, addr: u64) -> Option<Hpa> {
        self.memory.with(|memory| {
            let (base, vma) = memory.vmas.range(..=addr).next_back()?;
            match &vma.backing {
                Backing::Cached(file) => file.page(addr - base),
                Backing::Sparse(_) | Backing::Bytes(_) => None,
            }
        })
    }
}

impl Files for Process {
    fn install(&self, file: &Arc<File>) -> Result<i32, Errno> {
        self.files.with(|files| {
            if files.open.len() >= self.max_fds {
                return Err(Errno::EMFILE);
            }
            let free = (files.from.max(FIRST_FD)..)
                .find(|fd| !files.open.contains_key(fd))
                .ok_or(Errno::EMFILE)?;
            files.open.insert(free, file.clone());
            if self.use_once {
                files.from = free.saturating_add(1);
            }
            Ok(free)
        })
    }

    fn file(&self, fd: i32) -> Option<Arc<File>> {
        self.files.with(|files| files.open.get(&fd).cloned())
    }

    fn remove(&self, fd: i32) -> Option<Arc<File>> {
        self.files.with(|files| files.open.remove(&fd))
    }

    fn run_page(&self, ring_bytes: u32) -> Arc<dyn RunPage> {
        let bytes = match ring_bytes {
            0 => KVM_VCPU_MMAP_BYTES,
            ring => KVM_DIRTY_LOG_PAGE_OFFSET * PAGE_SIZE as usize + ring as usize,
        };
        Arc::new(RunBytes {
            bytes: Private::new(vec![0; bytes]),
        })
    }
}

/// A run page in memory.
#[derive(Debug)]
struct RunBytes {
    bytes: Private<Vec<u8>>,
}

impl RunPage for RunBytes {
    fn read(&self, offset: usize, out: &mut [u8]) {
        self.bytes.with(|bytes| {
            let source = tail(bytes, offset as u64, out.len());
            out[..source.len()].copy_from_slice(source);
            out[source.len()..].fill(0);
        });
    }

    fn write(&self, offset: usize, new: &[u8]) {
        self.bytes.with(|bytes| {
            let end = (offset + new.len()).min(bytes.len());
            if offset < end {
                bytes[offset..end].copy_from_slice(&new[..end - offset]);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_back_across_pages_and_faults_outside() {
        let process = Process::new(1);
        let at = process.map(3 * PAGE_SIZE);
        let bytes: Vec<u8> = (0..5000u32).map(|i| i as u8).collect();
        process.write(at + 100, &bytes).unwrap();
        assert_eq!(process.read_vec(at + 100, 5000), Ok(bytes));
        assert_eq!(process.read_vec(at + 2 * PAGE_SIZE, 8), Ok(vec![0; 8]));
        assert_eq!(process.read_vec(at + 3 * PAGE_SIZE - 4, 8), Err(Fault));
        assert_eq!(process.read_vec(0, 1), Err(Fault));
        assert_eq!(process.read_vec(u64::MAX, 2), Err(Fault));
    }

    #[test]
    fn mapped_bytes_are_read_only_and_filled_up_with_zeros() {
        let process = Process::new(1);
        let at = process.map_bytes(Arc::from(vec![7u8; 5000]));
        let mut seen = 0;
        process
            .page(at + PAGE_SIZE, &mut |page| {
                seen = page.iter().filter(|b| **b == 7).count()
            })
            .unwrap();
        assert_eq!(seen, 904);
        assert_eq!(process.read_vec(at + 4999, 2), Ok(vec![7, 0]));
        assert_eq!(process.write(at, &[1]), Err(Fault));
    }

    #[test]
    fn the_number_of_a_closed_descriptor_is_the_next_or_none_again() {
        use seamlock_tdx_module::Platform;

        let host = crate::Host::boot(Platform::sapphire_rapids(4 << 30, 1)).unwrap();
        let file = File::open_kvm(&host);
        let numbers = |process: Process| {
            let [first, second] = [(); 2].map(|()| process.install(&file).unwrap());
            process.remove(first);
            (first, second, process.install(&file).unwrap())
        };
        assert_eq!(numbers(Process::new(1)), (3, 4, 3));
        assert_eq!(numbers(Process::new(1).using_numbers_once()), (3, 4, 5));
    }

    #[test]
    fn a_mapped_file_lies_in_the_machines_memory_and_reads_as_its_bytes() {
        use seamlock_tdx_module::Platform;

        let host = crate::Host::boot(Platform::sapphire_rapids(4 << 30, 1)).unwrap();
        let bytes: Vec<u8> = (0..5000u32).map(|i| (i % 251) as u8).collect();
        let file = Arc::new(CachedFile::load(&host, &bytes).unwrap());
        let process = Process::new(1);
        let at = process.map_file(file.clone());
        assert_eq!(
            process.read_vec(at + 4000, 1000),
            Ok(bytes[4000..].to_vec())
        );
        assert_eq!(process.read_vec(at + 5000, 8), Ok(vec![0; 8]));
        assert_eq!(process.read_vec(at + 2 * PAGE_SIZE, 1), Err(Fault));
        assert_eq!(process.write(at, &[1]), Err(Fault));
        let second = process.frame(at + PAGE_SIZE);
        assert_eq!(second, file.page(PAGE_SIZE));
        let mut first = [0; 8];
        host.memory().read(second.unwrap(), &mut first).unwrap();
        assert_eq!(first, bytes[4096..4104]);
        assert_eq!(process.frame(at + 2 * PAGE_SIZE), None);
        let anonymous = process.map(PAGE_SIZE);
        assert_eq!(process.frame(anonymous), None);
    }
}
