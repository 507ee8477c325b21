//! Probe connections: what a packet may be at each of their steps, and how much may pass in all.
//!
//! Only a packet of kubelet opens one. The frames of a connection are counted where they cross the host end; the other
//! hooks see the same frames and only ask whether they fit.

use crate::{
    Direction,
    packet::{Address, Packet, protocol, tcp},
};

/// A probe connection lasts no longer, whatever its state: the longest `timeoutSeconds` that is served.
pub const FLOW_LIFETIME_SECS: u64 = 60;
/// Frames of one connection, each way.
pub const FLOW_PACKETS: u64 = 64;
/// Bytes of one connection into the pod: a request with its headers.
pub const FLOW_BYTES_IN: u64 = 8 << 10;
/// Bytes of one connection out of the pod: kubelet reads 10 KiB of a body; headers and a certificate come before it.
pub const FLOW_BYTES_OUT: u64 = 24 << 10;
/// A pod's probe connections are limited together, in windows of this length.
pub const WINDOW_SECS: u64 = 10;
/// Frames of all of a pod's probe connections in a window, each way.
pub const WINDOW_PACKETS: u64 = 1024;
/// Bytes of all of a pod's probe connections in a window, each way.
pub const WINDOW_BYTES: u64 = 128 << 10;

const NANOS: u64 = 1_000_000_000;

/// A probe connection's ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct FlowKey {
    /// The pod's slot.
    pub slot: u32,
    /// kubelet's port.
    pub peer_port: u16,
    /// The pod's port.
    pub own_port: u16,
    /// kubelet's address.
    pub peer: Address,
    /// The pod's address.
    pub own: Address,
}

impl FlowKey {
    /// The connection that a packet is part of.
    pub const fn of(slot: u32, packet: &Packet) -> Self {
        let Packet { peer, own, peer_port, own_port, .. } = *packet;
        Self { slot, peer_port, own_port, peer, own }
    }
}

/// How far a probe connection has come.
pub mod state {
    /// kubelet has called.
    pub const CALLED: u64 = 0;
    /// The pod has answered.
    pub const ANSWERED: u64 = 1;
    /// kubelet has confirmed: data may pass.
    pub const OPEN: u64 = 2;
    /// One side has given up: nothing passes any more.
    pub const CLOSED: u64 = 3;
}

/// What has passed, by [`Direction`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Passed {
    /// Frames.
    pub packets: [u64; 2],
    /// Their bytes, headers too.
    pub bytes: [u64; 2],
}

/// Value of the map of probe connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Flow {
    /// When kubelet called, in nanoseconds since the boot.
    pub opened_ns: u64,
    /// One of [`state`].
    pub state: u64,
    /// What has passed.
    pub passed: Passed,
}

/// Value of the map of windows: what has passed of all of a pod's probe connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Window {
    /// Which window this is about.
    pub number: u64,
    /// What has passed in it.
    pub passed: Passed,
}

const _: () = {
    assert!(size_of::<FlowKey>() == 40);
    assert!(size_of::<Flow>() == 48);
    assert!(size_of::<Window>() == 40);
};

/// The window that a moment is in.
pub const fn window_at(now_ns: u64) -> u64 {
    now_ns / (WINDOW_SECS * NANOS)
}

/// Whether a TCP packet begins a connection and carries nothing.
pub const fn calls(packet: &Packet) -> bool {
    packet.protocol == protocol::TCP && packet.kind & !tcp::NEUTRAL == tcp::SYN && packet.payload == 0
}

impl Flow {
    /// A connection that kubelet has just called for.
    pub const fn called(now_ns: u64) -> Self {
        Self { opened_ns: now_ns, state: state::CALLED, passed: Passed { packets: [0; 2], bytes: [0; 2] } }
    }

    /// The state after a packet; none if it does not fit.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "the BPF programs must not pay for a call")]
    pub fn after(&self, packet: &Packet, direction: Direction, now_ns: u64) -> Option<u64> {
        if packet.protocol != protocol::TCP || now_ns.saturating_sub(self.opened_ns) > FLOW_LIFETIME_SECS * NANOS {
            return None;
        }
        let flags = packet.kind & !tcp::NEUTRAL;
        let is_reset = (flags == tcp::RST || flags == tcp::RST | tcp::ACK) && packet.payload == 0;
        let is_ordinary = flags == tcp::ACK || flags == tcp::ACK | tcp::FIN;
        match (self.state, direction) {
            (state::CALLED, Direction::In) if calls(packet) => Some(state::CALLED),
            (state::CALLED | state::ANSWERED, Direction::Out)
                if flags == tcp::SYN | tcp::ACK && packet.payload == 0 =>
            {
                Some(state::ANSWERED)
            }
            (state::CALLED..=state::OPEN, _) if is_reset => Some(state::CLOSED),
            (state::ANSWERED, Direction::In) | (state::OPEN, _) if is_ordinary => Some(state::OPEN),
            // Repeated because its confirmation was lost.
            (state::OPEN, Direction::Out) if flags == tcp::SYN | tcp::ACK && packet.payload == 0 => Some(state::OPEN),
            _ => None,
        }
    }

    /// Whether what has passed, this frame counted in, is within a connection's budget.
    pub const fn is_within_budget(passed: &Passed, direction: Direction) -> bool {
        let bytes = match direction {
            Direction::In => FLOW_BYTES_IN,
            Direction::Out => FLOW_BYTES_OUT,
        };
        passed.packets[direction as usize] <= FLOW_PACKETS && passed.bytes[direction as usize] <= bytes
    }
}

impl Window {
    /// Whether what has passed, this frame counted in, is within a pod's budget.
    pub const fn is_within_budget(passed: &Passed, direction: Direction) -> bool {
        passed.packets[direction as usize] <= WINDOW_PACKETS && passed.bytes[direction as usize] <= WINDOW_BYTES
    }
}

#[cfg(feature = "user")]
// SAFETY: repr(C), integers only, no padding (the const block above pins the sizes).
unsafe impl aya::Pod for Flow {}
#[cfg(feature = "user")]
// SAFETY: as above.
unsafe impl aya::Pod for FlowKey {}
#[cfg(feature = "user")]
// SAFETY: as above.
unsafe impl aya::Pod for Window {}

#[cfg(test)]
mod tests;
