//! Physical memory: sparse, and shared by everybody on the simulated machine.
//!
//! # Locking
//! None. A page is an array of 64-bit cells that are read and written one by one, as memory is; what
//! orders the accesses are the module's locks on the page, or the host's own. A page costs host
//! memory from its first write on; a page that nobody wrote reads as zero.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use seamlock_tdx_abi::addr::{Hpa, PAGE_SIZE};
use zerocopy::FromZeros;

/// The 64-bit words of a 4 KiB page.
pub const WORDS: usize = 512;

/// A 4 KiB page of physical memory.
pub struct Frame(Box<[AtomicU64; WORDS]>);

impl Frame {
    fn zeroed() -> Frame {
        // Memory fresh from the system is zero already, and not touched.
        let words = <[AtomicU64; WORDS]>::new_box_zeroed();
        Frame(words.unwrap_or_else(|_| Box::new([const { AtomicU64::new(0) }; WORDS])))
    }

    /// A new page with these words.
    fn of(words: impl Iterator<Item = u64>) -> Frame {
        let words: Box<[AtomicU64]> = words.map(AtomicU64::new).collect();
        words.try_into().map_or_else(|_| Frame::zeroed(), Frame)
    }

    /// The 64-bit words, for whoever works on them in place (the secure EPT does).
    pub fn words(&self) -> &[AtomicU64; WORDS] {
        &self.0
    }

    /// Reads `out.len()` bytes at `offset`; both are multiples of 8.
    #[inline]
    pub fn read_words(&self, offset: usize, out: &mut [u8]) {
        let words = &self.0[offset / 8..][..out.len() / 8];
        for (word, bytes) in words.iter().zip(out.chunks_exact_mut(8)) {
            bytes.copy_from_slice(&word.load(Relaxed).to_le_bytes());
        }
    }

    /// Writes `bytes` at `offset`; length and offset are multiples of 8.
    #[inline]
    pub fn write_words(&self, offset: usize, bytes: &[u8]) {
        let words = &self.0[offset / 8..][..bytes.len() / 8];
        for (word, bytes) in words.iter().zip(bytes.as_chunks::<8>().0) {
            word.store(u64::from_le_bytes(*bytes), Relaxed);
        }
    }

    /// Makes every word `value`.
    pub fn fill(&self, value: u64) {
        for word in self.0.iter() {
            word.store(value, Relaxed);
        }
    }

    /// Makes this page equal to `source`.
    #[inline]
    pub fn copy_from(&self, source: &Frame) {
        for (to, from) in self.0.iter().zip(source.0.iter()) {
            to.store(from.load(Relaxed), Relaxed);
        }
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Frame")
    }
}

const PAGES_PER_2M: usize = 512;
const PAGES_PER_1G: usize = 512 * 512;

type Region = Box<[OnceLock<Frame>; PAGES_PER_2M]>;
type Gigabyte = Box<[OnceLock<Region>]>;

/// The machine's physical memory, from address 0 to its size.
#[derive(Debug)]
pub struct Memory {
    size: u64,
    gigabytes: Vec<OnceLock<Gigabyte>>,
}

/// An access to physical memory that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemoryRange {
    /// The address accessed.
    pub pa: Hpa,
    /// The length of the access in bytes.
    pub len: u64,
}

impl fmt::Display for OutOfMemoryRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} bytes at {:#x} are not in physical memory",
            self.len, self.pa.0
        )
    }
}

impl std::error::Error for OutOfMemoryRange {}

impl Memory {
    /// Memory of `size` bytes, all zero, that costs nothing yet.
    pub fn new(size: u64) -> Memory {
        let gigabytes = size.div_ceil(1 << 30) as usize;
        Memory {
            size,
            gigabytes: (0..gigabytes).map(|_| OnceLock::new()).collect(),
        }
    }

    /// Bytes of physical memory.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The page at `pa` if anybody ever wrote it. `pa` may lie anywhere in the page.
    #[inline(always)]
    pub fn frame(&self, pa: Hpa) -> Option<&Frame> {
        let page = (pa.0 / PAGE_SIZE) as usize;
        let gigabyte = self.gigabytes.get(page / PAGES_PER_1G)?.get()?;
        let region = gigabyte[page / PAGES_PER_2M % 512].get()?;
        region[page % PAGES_PER_2M].get()
    }

    /// The page at `pa`, made now if nobody wrote it before; None outside of memory.
    #[inline]
    pub fn frame_mut(&self, pa: Hpa) -> Option<&Frame> {
        self.frame(pa).or_else(|| self.new_frame(pa, Frame::zeroed))
    }

    #[cold]
    fn new_frame(&self, pa: Hpa, make: impl FnOnce() -> Frame) -> Option<&Frame> {
        if pa.0 >= self.size {
            return None;
        }
        let page = (pa.0 / PAGE_SIZE) as usize;
        let gigabyte = self.gigabytes[page / PAGES_PER_1G]
            .get_or_init(|| (0..512).map(|_| OnceLock::new()).collect());
        let region = gigabyte[page / PAGES_PER_2M % 512]
            .get_or_init(|| Box::new([const { OnceLock::new() }; PAGES_PER_2M]));
        Some(region[page % PAGES_PER_2M].get_or_init(make))
    }

    /// Reads bytes, wherever they lie.
    ///
    /// # Errors
    /// When a byte lies outside of memory; nothing is read then.
    pub fn read(&self, pa: Hpa, out: &mut [u8]) -> Result<(), OutOfMemoryRange> {
        self.check(pa, out.len())?;
        let mut pa = pa.0;
        let mut rest = out;
        while !rest.is_empty() {
            let offset = (pa % PAGE_SIZE) as usize;
            let n = rest.len().min(PAGE_SIZE as usize - offset);
            let (now, later) = rest.split_at_mut(n);
            match self.frame(Hpa(pa)) {
                None => now.fill(0),
                Some(frame) => read_bytes(frame, offset, now),
            }
            pa += n as u64;
            rest = later;
        }
        Ok(())
    }

    /// Writes bytes, wherever they lie.
    ///
    /// # Errors
    /// When a byte lies outside of memory; nothing is written then.
    pub fn write(&self, pa: Hpa, bytes: &[u8]) -> Result<(), OutOfMemoryRange> {
        self.check(pa, bytes.len())?;
        let mut pa = pa.0;
        let mut rest = bytes;
        while !rest.is_empty() {
            let offset = (pa % PAGE_SIZE) as usize;
            let n = rest.len().min(PAGE_SIZE as usize - offset);
            let (now, later) = rest.split_at(n);
            if let Some(frame) = self.frame_mut(Hpa(pa)) {
                write_bytes(frame, offset, now);
            }
            pa += n as u64;
            rest = later;
        }
        Ok(())
    }

    /// Reads a little-endian 64-bit word; zero outside of memory. `pa` is a multiple of 8.
    pub fn read_u64(&self, pa: Hpa) -> u64 {
        self.frame(pa)
            .map_or(0, |f| f.0[(pa.0 % PAGE_SIZE / 8) as usize].load(Relaxed))
    }

    /// Writes a little-endian 64-bit word; nothing happens outside of memory. `pa` is a multiple of 8.
    pub fn write_u64(&self, pa: Hpa, value: u64) {
        if let Some(frame) = self.frame_mut(pa) {
            frame.0[(pa.0 % PAGE_SIZE / 8) as usize].store(value, Relaxed);
        }
    }

    /// Makes the page at `to` equal to `source`; nothing happens outside of memory.
    #[inline]
    pub fn put_page(&self, to: Hpa, source: &Frame) {
        match self.frame(to) {
            Some(target) => target.copy_from(source),
            None => self.put_new_page(to, source),
        }
    }

    #[cold]
    fn put_new_page(&self, to: Hpa, source: &Frame) {
        let mut made = false;
        let target = self.new_frame(to, || {
            made = true;
            Frame::of(source.0.iter().map(|word| word.load(Relaxed)))
        });
        // Somebody else was there first.
        if let Some(target) = target.filter(|_| !made) {
            target.copy_from(source);
        }
    }

    /// Copies a page onto another. Both lie in memory; a copy from outside of it gives zeros.
    #[inline]
    pub(crate) fn copy_page(&self, from: Hpa, to: Hpa) {
        match self.frame(from) {
            Some(source) => self.put_page(to, source),
            None => self.fill_page(to, 0),
        }
    }

    /// Makes every 64-bit word of a page `value`. A page of zeros that nobody wrote stays free.
    pub(crate) fn fill_page(&self, pa: Hpa, value: u64) {
        match self.frame(pa) {
            Some(frame) => frame.fill(value),
            None if value == 0 => {}
            None => self.fill_new_page(pa, value),
        }
    }

    #[cold]
    fn fill_new_page(&self, pa: Hpa, value: u64) {
        let mut made = false;
        let frame = self.new_frame(pa, || {
            made = true;
            Frame::of(std::iter::repeat_n(value, WORDS))
        });
        if let Some(frame) = frame.filter(|_| !made) {
            frame.fill(value);
        }
    }

    /// Pages that cost host memory now.
    pub fn resident_pages(&self) -> u64 {
        let gigabytes = self.gigabytes.iter().filter_map(OnceLock::get);
        let regions = gigabytes.flat_map(|g| g.iter()).filter_map(OnceLock::get);
        regions
            .map(|r| r.iter().filter(|f| f.get().is_some()).count() as u64)
            .sum()
    }

    fn check(&self, pa: Hpa, len: usize) -> Result<(), OutOfMemoryRange> {
        match pa.0.checked_add(len as u64) {
            Some(end) if end <= self.size => Ok(()),
            _ => Err(OutOfMemoryRange {
                pa,
                len: len as u64,
            }),
        }
    }
}

fn read_bytes(frame: &Frame, offset: usize, out: &mut [u8]) {
    if offset.is_multiple_of(8) && out.len().is_multiple_of(8) {
        return frame.read_words(offset, out);
    }
    for (i, byte) in out.iter_mut().enumerate() {
        let at = offset + i;
        *byte = (frame.0[at / 8].load(Relaxed) >> (at % 8 * 8)) as u8;
    }
}

fn write_bytes(frame: &Frame, offset: usize, bytes: &[u8]) {
    if offset.is_multiple_of(8) && bytes.len().is_multiple_of(8) {
        return frame.write_words(offset, bytes);
    }
    for (i, byte) in bytes.iter().enumerate() {
        let at = offset + i;
        let shift = at % 8 * 8;
        let put = |word: u64| Some(word & !(0xff << shift) | u64::from(*byte) << shift);
        let _ = frame.0[at / 8].fetch_update(Relaxed, Relaxed, put);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_nobody_wrote_is_zero_and_costs_nothing() {
        let memory = Memory::new(64 << 30);
        let mut bytes = [1; 100];
        memory.read(Hpa(0x1234_5678), &mut bytes).unwrap();
        assert_eq!(bytes, [0; 100]);
        assert_eq!(memory.resident_pages(), 0);
    }

    #[test]
    fn bytes_come_back_from_unaligned_addresses_across_pages() {
        let memory = Memory::new(1 << 30);
        let bytes: Vec<u8> = (0..10_000u32).map(|i| (i * 7) as u8).collect();
        memory.write(Hpa(0x1ffd), &bytes).unwrap();
        let mut back = vec![0; bytes.len()];
        memory.read(Hpa(0x1ffd), &mut back).unwrap();
        assert_eq!(back, bytes);
        assert_eq!(memory.resident_pages(), 4);
    }

    #[test]
    fn an_access_beyond_the_end_is_refused_whole() {
        let memory = Memory::new(0x2000);
        assert!(memory.write(Hpa(0x1ff8), &[0xff; 16]).is_err());
        assert_eq!(memory.read_u64(Hpa(0x1ff8)), 0);
        assert!(memory.read(Hpa(u64::MAX - 3), &mut [0; 8]).is_err());
        assert!(memory.frame_mut(Hpa(0x2000)).is_none());
    }
}
