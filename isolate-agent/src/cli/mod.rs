//! The verbs. The only place that prints.

pub mod doctor;
