//! Frames from the first moment on: what keeps a sandbox that attacks. Bounded in rate and time, then it only waits.

use std::{
    thread,
    time::{Duration, Instant},
};

use isolate_tests::{
    frame::{EXPERIMENT, Mac, ethernet},
    observe, wait,
};

/// Pause between two frames: with what it takes to wake up, some ten thousand frames a second.
const PAUSE: Duration = Duration::from_micros(20);
/// How long it sends: as long as anything is waited for, so that its frames are still dropped when somebody looks.
const LONG: Duration = wait::DEADLINE;

/// Sends broadcast frames on the interface, then waits for ever. Each carries its number and how many microseconds after the
/// start of this process it was made.
pub(crate) fn flood(device: &str) -> ! {
    let start = Instant::now();
    let mut number: u64 = 0;
    while start.elapsed() < LONG {
        // The interface may not be there yet.
        let Ok(socket) = observe::packet_socket(device, PAUSE) else {
            thread::sleep(PAUSE);
            continue;
        };
        while start.elapsed() < LONG {
            let age = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
            let payload = [number.to_be_bytes(), age.to_be_bytes()].concat();
            let frame = ethernet(Mac::BROADCAST, Mac([0x02, 0, 0, 0, 0, 1]), EXPERIMENT, &payload);
            if socket.send(&frame).is_ok() {
                number += 1;
            }
            thread::sleep(PAUSE);
        }
    }
    loop {
        thread::park();
    }
}
