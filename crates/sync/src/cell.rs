//! Cells that are read and written without a lock.

use std::fmt;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::hook::{Action, Outcome, watched};
use crate::name::Name;

/// A value that fits a 64-bit cell.
pub trait Word: Copy {
    /// The value as it is kept.
    fn to_word(self) -> u64;
    /// The value that was kept as `word`.
    fn from_word(word: u64) -> Self;
}

macro_rules! words {
    ($($t:ty),*) => {$(
        impl Word for $t {
            #[inline]
            fn to_word(self) -> u64 {
                self as u64
            }
            #[inline]
            fn from_word(word: u64) -> $t {
                word as $t
            }
        }
    )*};
}

words!(u8, u16, u32, u64, usize, i32, i64);

impl Word for bool {
    #[inline]
    fn to_word(self) -> u64 {
        u64::from(self)
    }
    #[inline]
    fn from_word(word: u64) -> bool {
        word != 0
    }
}

/// A cell that KVM or the TDX module reads or writes without holding a lock for it:
/// `kvm_tdx->state`, `online_vcpus`, `ASSOC_LPID`. Sequentially consistent.
pub struct Shared<T> {
    name: Name,
    word: AtomicU64,
    value: PhantomData<T>,
}

impl<T: Word> Shared<T> {
    /// Makes a cell of this name.
    pub fn new(name: Name, value: T) -> Shared<T> {
        Shared {
            name,
            word: AtomicU64::new(value.to_word()),
            value: PhantomData,
        }
    }

    /// The cell's name.
    pub fn name(&self) -> Name {
        self.name
    }

    /// Reads the cell.
    #[inline]
    #[track_caller]
    pub fn load(&self) -> T {
        let word = watched(
            Action::Load,
            self.name,
            0,
            || self.word.load(Ordering::SeqCst),
            |&v| Outcome::Value(v),
        );
        T::from_word(word)
    }

    /// Writes the cell.
    #[inline]
    #[track_caller]
    pub fn store(&self, value: T) {
        let word = value.to_word();
        watched(
            Action::Store,
            self.name,
            word,
            || self.word.store(word, Ordering::SeqCst),
            |()| Outcome::Done,
        );
    }

    /// Adds to the cell, modulo 2^64, and returns what was there before.
    #[inline]
    #[track_caller]
    pub fn fetch_add(&self, amount: T) -> T {
        let amount = amount.to_word();
        T::from_word(watched(
            Action::Update,
            self.name,
            amount,
            || self.word.fetch_add(amount, Ordering::SeqCst),
            |&v| Outcome::Value(v),
        ))
    }

    /// Subtracts from the cell, modulo 2^64, and returns what was there before.
    #[inline]
    #[track_caller]
    pub fn fetch_sub(&self, amount: T) -> T {
        let amount = amount.to_word().wrapping_neg();
        T::from_word(watched(
            Action::Update,
            self.name,
            amount,
            || self.word.fetch_add(amount, Ordering::SeqCst),
            |&v| Outcome::Value(v),
        ))
    }

    /// Adds to the cell, modulo 2^64, without looking at it. A check takes two additions for the same in
    /// either order, so this is the one for a count of users that nobody reads as he joins.
    #[inline]
    #[track_caller]
    pub fn add(&self, amount: T) {
        self.add_word(amount.to_word());
    }

    /// Subtracts from the cell, modulo 2^64, without looking at it: [`add`](Shared::add) of a negative.
    #[inline]
    #[track_caller]
    pub fn sub(&self, amount: T) {
        self.add_word(amount.to_word().wrapping_neg());
    }

    #[inline]
    #[track_caller]
    fn add_word(&self, amount: u64) {
        let add = || {
            self.word.fetch_add(amount, Ordering::SeqCst);
        };
        watched(Action::Add, self.name, amount, add, |()| Outcome::Done);
    }

    /// Writes `new` if the cell holds `current`; else returns what it holds.
    #[inline]
    #[track_caller]
    pub fn compare_exchange(&self, current: T, new: T) -> Result<T, T> {
        let (current, new) = (current.to_word(), new.to_word());
        watched(
            Action::Update,
            self.name,
            new,
            || {
                self.word
                    .compare_exchange(current, new, Ordering::SeqCst, Ordering::SeqCst)
            },
            |r| match r {
                Ok(_) => Outcome::Done,
                Err(_) => Outcome::Busy,
            },
        )
        .map(T::from_word)
        .map_err(T::from_word)
    }

    /// Reads the cell unseen by any hook. For reports, and where a lock already orders the access.
    #[inline]
    pub fn peek(&self) -> T {
        T::from_word(self.word.load(Ordering::SeqCst))
    }

    /// Writes the cell unseen by any hook, where a lock already orders the access.
    #[inline]
    pub fn poke(&self, value: T) {
        self.word.store(value.to_word(), Ordering::SeqCst);
    }
}

impl<T: Word + fmt::Debug> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={:?}", self.name, self.peek())
    }
}

/// A cell whose accesses some lock already orders, or whose order does not matter. No hook sees it.
#[derive(Default)]
pub struct Plain<T> {
    word: AtomicU64,
    value: PhantomData<T>,
}

impl<T: Word> Plain<T> {
    /// Makes a cell.
    pub fn new(value: T) -> Plain<T> {
        Plain {
            word: AtomicU64::new(value.to_word()),
            value: PhantomData,
        }
    }

    /// Reads the cell.
    #[inline]
    pub fn load(&self) -> T {
        T::from_word(self.word.load(Ordering::Relaxed))
    }

    /// Writes the cell.
    #[inline]
    pub fn store(&self, value: T) {
        self.word.store(value.to_word(), Ordering::Relaxed);
    }

    /// Adds to the cell, modulo 2^64, and returns what was there before.
    #[inline]
    pub fn fetch_add(&self, amount: T) -> T {
        T::from_word(self.word.fetch_add(amount.to_word(), Ordering::Relaxed))
    }

    /// Subtracts from the cell, modulo 2^64, and returns what was there before.
    #[inline]
    pub fn fetch_sub(&self, amount: T) -> T {
        T::from_word(self.word.fetch_sub(amount.to_word(), Ordering::Relaxed))
    }

    /// Clears the bits that are 0 in `mask`.
    #[inline]
    pub fn fetch_and(&self, mask: T) -> T {
        T::from_word(self.word.fetch_and(mask.to_word(), Ordering::Relaxed))
    }

    /// Sets the bits that are 1 in `mask`.
    #[inline]
    pub fn fetch_or(&self, mask: T) -> T {
        T::from_word(self.word.fetch_or(mask.to_word(), Ordering::Relaxed))
    }
}

impl<T: Word + fmt::Debug> fmt::Debug for Plain<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.load().fmt(f)
    }
}
