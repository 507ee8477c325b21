//! Work that the pod can make hang: done on a thread of its own, and given up on after a while.
//!
//! Reading a process's command line or its executable waits for whoever serves its pages: a file system in user space,
//! or a userfaultfd, which may be the pod's own and never answer. Such a thread stays behind and ends with the process.

use std::{sync::mpsc, thread, time::Duration};

/// Threads that may be left behind before nothing of the kind is tried any more.
const MOST_STUCK: usize = 16;

/// Why there is no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum GaveUp {
    #[error("no answer within {} ms: the pod may hold it up", .0.as_millis())]
    TooLong(Duration),
    #[error("not tried: {MOST_STUCK} attempts hang already")]
    TooMany,
    #[error("the attempt failed")]
    Failed,
}

/// Counts who hangs.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    stuck: usize,
}

impl Attempts {
    /// The result of `work`, if it comes within `patience`.
    pub(super) fn run<T: Send + 'static>(
        &mut self,
        patience: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, GaveUp> {
        if self.stuck >= MOST_STUCK {
            return Err(GaveUp::TooMany);
        }
        let (sender, receiver) = mpsc::channel();
        let started = thread::Builder::new().name("evidence".to_owned()).spawn(move || {
            // Nobody may wait for it any more.
            drop(sender.send(work()));
        });
        if started.is_err() {
            return Err(GaveUp::Failed);
        }
        receiver.recv_timeout(patience).map_err(|error| match error {
            mpsc::RecvTimeoutError::Timeout => {
                self.stuck += 1;
                GaveUp::TooLong(patience)
            }
            mpsc::RecvTimeoutError::Disconnected => GaveUp::Failed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hangs_is_given_up_and_in_the_end_not_tried() {
        let mut attempts = Attempts::default();
        assert_eq!(attempts.run(Duration::from_secs(10), || 7), Ok(7));
        for _ in 0..MOST_STUCK {
            let patience = Duration::from_millis(1);
            assert_eq!(
                attempts.run(patience, || loop {
                    thread::park();
                }),
                Err::<(), _>(GaveUp::TooLong(patience))
            );
        }
        assert_eq!(attempts.run(Duration::from_secs(10), || 7), Err(GaveUp::TooMany));
    }
}
