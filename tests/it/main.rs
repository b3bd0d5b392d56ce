//! The bus by itself, through its public API. What every transport must do as well is in
//! `busway-conformance`.

mod ui;
