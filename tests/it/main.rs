//! The bus by itself, through its public API. What every transport must do as well is in
//! `busway-conformance`.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod close;
mod events;
mod fake;
mod groups;
mod intake;
mod lanes;
mod model;
mod overflow;
mod publish;
mod requests;
mod spans;
mod subscribe;
mod ui;
mod ways;
