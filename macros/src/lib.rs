//! Derive macros of [busway](https://docs.rs/busway), which exports both of them again: users
//! never name this crate.
//!
//! The way of a derive through the files, in reading order:
//!
//! 1. `expand` writes the `impl`, once it has asked
//! 2. `attribute` to find `#[event(…)]` or `#[request(…)]` on the type, which has
//! 3. `arguments` read what stands in its parentheses; for that
//! 4. `name` is the rule for names, and
//! 5. `options` knows which options exist, so that a misspelt one can be put right.

#![forbid(unsafe_code)]

mod arguments;
mod attribute;
mod expand;
mod name;
mod options;

use proc_macro::TokenStream;
use syn::{DeriveInput, Error, parse_macro_input};

/// Makes a type an event: a typed fact with a stable name, for any number of receivers.
///
/// ```text
/// use busway::Event;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Event, Serialize, Deserialize, Debug)]
/// #[event("accounts.user_registered")]
/// struct UserRegistered {
///     id: u64,
///     email: String,
/// }
/// ```
///
/// # The name
///
/// The name is the contract with every other process, so it is written out and never derived
/// from the type: a type can be renamed or moved and still be understood. It consists of words
/// with dots between them; each word has 1 to 64 characters out of `a-z`, `0-9`, `_` and `-`,
/// the whole name at most 200. It must not begin with the word `busway` (reserved) nor end in
/// `v` and digits (see `version`). All of this is checked when the program is compiled.
///
/// # Options, after the name
///
/// | option | means |
/// |---|---|
/// | `version = 2` | the second, incompatible shape of this event. Version 1 is the default; from 2 on the event has a topic of its own, `name.v2`, so that old and new programs run side by side |
/// | `local` | the event never leaves its process, and so needs neither `Serialize` nor `Deserialize` |
/// | `codec = "json"` | always encode with this codec (`"json"`, `"msgpack"` or `"bincode"`), instead of the one that the transport prefers |
/// | `crate = path` | where to find `busway` when it is not at `::busway`, for instance when another crate exports it again |
///
/// # Requirements
///
/// Unless it is `local`, the type implements `Serialize` and `Deserialize`. It has no generic
/// parameters: one event has one name, and so one concrete type.
#[proc_macro_derive(Event, attributes(event))]
pub fn derive_event(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    expand::event(&input).unwrap_or_else(Error::into_compile_error).into()
}

/// Makes a type a request: a typed question that has exactly one outcome.
///
/// ```text
/// use busway::Request;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Request, Serialize, Deserialize, Debug)]
/// #[request("warranty.check", response = Warranty, error = WarrantyError)]
/// struct CheckWarranty {
///     serial: String,
/// }
///
/// #[derive(Serialize, Deserialize, Debug)]
/// struct Warranty {
///     months_left: u32,
/// }
///
/// #[derive(Serialize, Deserialize, Debug)]
/// enum WarrantyError {
///     UnknownSerial,
/// }
/// ```
///
/// The name follows the rules of [`Event`](macro@Event#the-name).
///
/// # Options, after the name
///
/// | option | means |
/// |---|---|
/// | `response = Type` | what a responder answers; required |
/// | `error = Type` | what a responder answers instead when it cannot; `busway::Refused`, a code and a message, unless given |
/// | `version`, `codec`, `crate` | as for [`Event`](macro@Event#options-after-the-name) |
///
/// # Requirements
///
/// The type, its response and its error implement `Serialize` and `Deserialize`. It has no
/// generic parameters: one request has one name, and so one concrete type.
#[proc_macro_derive(Request, attributes(request))]
pub fn derive_request(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    expand::request(&input).unwrap_or_else(Error::into_compile_error).into()
}
