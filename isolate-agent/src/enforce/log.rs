//! What the programs say about their errors, passed on to the agent's own log.
//!
//! The ring is the kernel's and one for all agents; while nobody reads it, it fills up and the rest is only counted.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use aya_log::EbpfLogger;
use isolate_common::KernelError;
use log::{Log, Metadata, Record};
use tokio::io::{Interest, unix::AsyncFd};

/// Lines passed on at a time, and the pause after them: an error that strikes every packet must not fill the node's disk.
const MOST: u32 = 10;
const PAUSE: Duration = Duration::from_secs(1);

/// Reads the programs' messages. Needs a tokio runtime with I/O and time.
pub struct KernelLog {
    ring: AsyncFd<EbpfLogger<Few>>,
    passed_on: Arc<AtomicU32>,
}

impl KernelLog {
    /// Opens the ring that the program with this id writes to.
    pub(super) fn open(program: u32) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let passed_on = Arc::<AtomicU32>::default();
        let logger = EbpfLogger::init_from_id_with_logger(program, Few(Arc::clone(&passed_on)))?;
        // SAFETY: the logger owns the descriptor of its ring, shows no other and keeps it open until it is dropped.
        let ring = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) }?;
        Ok(Self { ring, passed_on })
    }

    /// Passes on what is said, for ever.
    pub async fn run(mut self) {
        loop {
            match self.ring.readable_mut().await {
                Ok(mut guard) => {
                    guard.get_inner_mut().flush();
                    guard.clear_ready();
                }
                Err(error) => {
                    tracing::warn!(%error, "the kernel's programs are not listened to any more; their errors are still counted");
                    return;
                }
            }
            self.passed_on.store(0, Ordering::Relaxed);
            tokio::time::sleep(PAUSE).await;
        }
    }
}

impl fmt::Debug for KernelLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KernelLog").finish_non_exhaustive()
    }
}

/// Passes the first few lines on and leaves out the others.
struct Few(Arc<AtomicU32>);

impl Log for Few {
    fn enabled(&self, _metadata: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        match self.0.fetch_add(1, Ordering::Relaxed) {
            before if before < MOST => tracing::error!("in the kernel: {}", words(&record.args().to_string())),
            MOST => tracing::error!("in the kernel: more of these; `status` counts them"),
            _ => {}
        }
    }

    fn flush(&self) {}
}

/// The words for two numbers: of an error, and of what it is about. Programs of another agent may say something else.
fn words(said: &str) -> String {
    let error = || {
        let (error, about) = said.split_once(' ')?;
        Some((KernelError::ALL.get(error.parse::<usize>().ok()?)?, about))
    };
    match error() {
        Some((KernelError::CgroupWithoutKey, about)) => {
            format!("packet dropped: no key leads from cgroup {about} to an isolated pod")
        }
        Some((KernelError::KeyWithoutPolicy, about)) => {
            format!("packet dropped: a key leads to slot {about}, which is vacant")
        }
        Some((KernelError::SlotWithoutCounter, about)) => {
            format!("packet dropped, and not counted: slot {about} has no counter")
        }
        Some((KernelError::NoGate, _)) => "the gate cannot be read: it counts as open".to_owned(),
        None => said.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_become_words() {
        for (number, error) in KernelError::ALL.iter().enumerate() {
            assert_eq!(*error as usize, number);
            assert_ne!(words(&format!("{number} 7")), format!("{number} 7"));
        }
        assert!(words("0 17").contains("cgroup 17"));
        assert_eq!(words("no such error"), "no such error");
    }
}
