//! What KVM answers when it refuses: an errno, and which check of which function it comes from.

use std::borrow::Cow;
use std::fmt;

use seamlock_tdx_abi::kvm::Errno;

/// A refusal. User space sees the errno only; the rest is for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// What the ioctl returns, without its sign.
    pub errno: Errno,
    /// The check: kernel file, line and function at v7.3.4.
    pub site: &'static str,
    /// Why the check failed.
    pub reason: Cow<'static, str>,
}

/// A result whose error is an errno with its reason.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error whose reason is known beforehand.
    pub const fn new(errno: Errno, site: &'static str, reason: &'static str) -> Error {
        Error {
            errno,
            site,
            reason: Cow::Borrowed(reason),
        }
    }

    /// An error whose reason holds values.
    pub fn with(errno: Errno, site: &'static str, reason: String) -> Error {
        Error {
            errno,
            site,
            reason: Cow::Owned(reason),
        }
    }

    /// Whether this is the given errno.
    pub fn is(&self, errno: Errno) -> bool {
        self.errno == errno
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}: {}", self.errno, self.site, self.reason)
    }
}

impl std::error::Error for Error {}

/// `Err` of an [`Error`], short enough to be written at every check.
pub(crate) fn fail<T>(errno: Errno, site: &'static str, reason: &'static str) -> Result<T> {
    Err(Error::new(errno, site, reason))
}
