//! Which function of the kernel a place in this crate's source stands for.

use std::panic::Location;

/// For each file the lines at which functions begin, with the kernel's name of each, or nothing.
type Functions = &'static [(&'static str, &'static [(u32, &'static str)])];

static FUNCTIONS: Functions = include!(concat!(env!("OUT_DIR"), "/kernel_functions.rs"));

/// The kernel's name of the function that a place in this crate is in, if its documentation says so.
pub fn kernel_function(site: &Location<'_>) -> Option<&'static str> {
    let (_, path) = site.file().rsplit_once("kvm/")?;
    let at = FUNCTIONS
        .binary_search_by(|(file, _)| (*file).cmp(path))
        .ok()?;
    let functions = FUNCTIONS[at].1;
    let after = functions.partition_point(|function| function.0 <= site.line());
    let name = functions.get(after.checked_sub(1)?)?.1;
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `kvm_vcpu_ioctl`: a test's own.
    fn documented() -> &'static Location<'static> {
        Location::caller()
    }

    #[test]
    fn a_place_has_the_kernels_name_that_its_function_is_documented_with() {
        assert_eq!(kernel_function(documented()), Some("kvm_vcpu_ioctl"));
        assert_eq!(kernel_function(Location::caller()), None);
        assert!(FUNCTIONS.is_sorted_by_key(|(file, _)| *file));
    }
}
