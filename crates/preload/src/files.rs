//! The descriptors of this process as KVM sees them.

use std::cell::RefCell;
use std::sync::Arc;

use seamlock_kvm::File;
use seamlock_kvm::task::{Files, RunPage};
use seamlock_kvm::vm::eventfds::EventFd;
use seamlock_tdx_abi::kvm::Errno;

use crate::descriptor;
use crate::process::process;
use crate::run_page::RunMapping;
use crate::signals::close;

/// The descriptors of this process, for the length of one call.
#[derive(Debug, Default)]
pub struct Descriptors {
    /// The `struct kvm_run` of a vCPU that is being created.
    run: RefCell<Option<Arc<RunMapping>>>,
}

impl Files for Descriptors {
    fn install(&self, file: &Arc<File>) -> Result<i32, Errno> {
        let run = self.run.borrow_mut().take();
        let fd = descriptor::make(file, run.as_deref())?;
        match process().table.insert(fd, file.clone()) {
            Ok(_) => Ok(fd),
            Err(_) => {
                close(fd);
                Err(Errno::EMFILE)
            }
        }
    }

    fn file(&self, fd: i32) -> Option<Arc<File>> {
        process().file(fd)
    }

    fn remove(&self, fd: i32) -> Option<Arc<File>> {
        let file = process().table.remove(fd);
        if file.is_some() {
            close(fd);
        }
        file
    }

    fn eventfd(&self, fd: i32) -> Result<Arc<dyn EventFd>, Errno> {
        Ok(Arc::new(process().eventfds.of(fd)?))
    }

    fn run_page(&self, ring_bytes: u32) -> Arc<dyn RunPage> {
        match RunMapping::new(ring_bytes) {
            Ok(run) => {
                let run = Arc::new(run);
                *self.run.borrow_mut() = Some(run.clone());
                run
            }
            // Without a descriptor, `install` fails as well.
            Err(_) => Arc::new(Nowhere),
        }
    }
}

/// A run page that could not be had.
#[derive(Debug)]
struct Nowhere;

impl RunPage for Nowhere {
    fn read(&self, _: usize, out: &mut [u8]) {
        out.fill(0);
    }
    fn write(&self, _: usize, _: &[u8]) {}
}
