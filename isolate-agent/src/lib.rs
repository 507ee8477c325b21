//! The engine of isolate-agent: the daemon runs it for ever, a command runs it once when no daemon answers.

#[cfg(all(any(feature = "fault-injection", feature = "layout-next"), not(debug_assertions)))]
compile_error!("`fault-injection` and `layout-next` are for tests: an optimised agent has neither");

pub mod allow;
pub mod control;
pub mod daemon;
pub mod desired;
pub mod doctor;
pub mod enforce;
pub mod events;
pub mod evidence;
pub mod fault;
pub mod inventory;
pub mod limit;
pub mod lock;
pub mod metrics;
mod netlink;
pub mod nri;
pub mod observed;
pub mod plan;
pub mod pod;
pub mod preview;
pub mod priority;
pub mod reconcile;
pub mod settings;
pub mod spec;
pub mod status;
pub mod verify;
pub mod watch;

/// The commit that this was built from; `unknown` outside a checkout.
pub const REVISION: &str = env!("ISOLATE_GIT_REVISION");
