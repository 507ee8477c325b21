//! Empty: gives the package a library target, so that `cargo check --workspace` has something to check on the host.
#![no_std]
