//! The VMM's threads: one for each vCPU, each on a CPU of its own, doing one thing at a time.
//!
//! The threads are real, so that vCPUs are created, initialised and run where a VMM does it. They are
//! told what to do one after the other, so that two launches make the same calls in the same order.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Scope, ScopedJoinHandle};

use anyhow::anyhow;
use seamlock_kvm::{Control, Task};

use super::vmm::Machine;

type Job<'m> = Box<dyn FnOnce(&Task) -> anyhow::Result<i64> + Send + 'm>;

/// A vCPU's thread.
#[derive(Debug)]
pub struct VcpuThread<'s, 'm> {
    jobs: Option<Sender<Job<'m>>>,
    results: Receiver<anyhow::Result<i64>>,
    thread: Option<ScopedJoinHandle<'s, ()>>,
}

impl<'s, 'm: 's> VcpuThread<'s, 'm> {
    /// Starts the thread on a CPU of the machine.
    pub fn start<'env>(scope: &'s Scope<'s, 'env>, machine: &'m Machine, cpu: u32) -> Self {
        let (jobs, todo) = channel::<Job<'m>>();
        let (done, results) = channel();
        let thread = scope.spawn(move || {
            let control = Control::on(cpu);
            let task = machine.process.task(&control);
            // Ends when the VMM drops its end.
            while let Ok(job) = todo.recv() {
                if done.send(job(&task)).is_err() {
                    return;
                }
            }
        });
        VcpuThread {
            jobs: Some(jobs),
            results,
            thread: Some(thread),
        }
    }

    /// Does something on the thread, and waits for it.
    ///
    /// # Errors
    /// Those of the job.
    pub fn run(
        &self,
        job: impl FnOnce(&Task) -> anyhow::Result<i64> + Send + 'm,
    ) -> anyhow::Result<i64> {
        let gone = || anyhow!("a vCPU thread has ended early");
        self.jobs
            .as_ref()
            .ok_or_else(gone)?
            .send(Box::new(job))
            .map_err(|_| gone())?;
        self.results.recv().map_err(|_| gone())?
    }
}

impl Drop for VcpuThread<'_, '_> {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread is reported by the scope.
            let _ = thread.join();
        }
    }
}
