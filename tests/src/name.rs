//! Names that tell whose an object is: every kernel object of a test carries one.

use std::{
    fs, process,
    sync::atomic::{AtomicU32, Ordering},
};

/// What every name begins with.
pub const PREFIX: &str = "isolate-test-";

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A name that no other object on this machine has: the prefix, this process, a number.
pub fn unique() -> String {
    format!("{PREFIX}{}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A number that differs with each call, to tell packets and UIDs of one run apart.
pub fn number() -> u32 {
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Whether the process that made this name is gone, so that nobody uses the object any more.
pub fn is_orphan(name: &str) -> bool {
    owner(name).is_some_and(|pid| !is_alive(pid))
}

/// Whether this process made the name.
pub fn is_ours(name: &str) -> bool {
    is_of(name, process::id())
}

/// Whether the process with this id made the name.
pub fn is_of(name: &str, pid: u32) -> bool {
    owner(name) == Some(pid)
}

/// One that has ended and that its parent has not looked at yet (a zombie) is not.
fn is_alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(") ").next().is_some_and(|fields| fields.starts_with('Z')))
}

fn owner(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_their_owner() {
        let name = unique();
        assert!(is_ours(&name) && !is_orphan(&name), "{name}");
        assert_ne!(name, unique());
        // Above the kernel's PID_MAX_LIMIT (2^22): no such process can exist.
        assert!(is_orphan("isolate-test-99999999-0"));
        let mut child = process::Command::new("true").spawn().expect("`true` is there");
        let of_child = format!("{PREFIX}{}-0", child.id());
        assert!(
            crate::wait::happens_within(crate::wait::DEADLINE, || is_orphan(&of_child)),
            "nobody waited for it yet"
        );
        child.wait().expect("a child can be waited for");
        assert!(!is_orphan("isolate-test-x-0") && !is_orphan("someone-else-1-0"));
    }
}
