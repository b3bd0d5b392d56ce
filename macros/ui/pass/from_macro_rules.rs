// Derives written by a `macro_rules!` macro: the parts arrive in invisible groups, and `busway`
// may be known under the path of the macro's crate only.
#![deny(warnings)]

#[doc(hidden)]
pub mod reexported {
    pub use busway as bus;
}

macro_rules! event {
    ($name:ident, $text:literal, $version:literal, $codec:literal) => {
        #[derive(busway::Event, serde::Serialize, serde::Deserialize)]
        #[event($text, version = $version, codec = $codec, crate = $crate::reexported::bus)]
        struct $name;
    };
}

macro_rules! request {
    ($name:ident, $text:literal, $response:ty, $error:ty, $bus:path) => {
        #[derive(busway::Request, serde::Serialize, serde::Deserialize)]
        #[request($text, response = $response, error = $error, crate = $bus)]
        struct $name;
    };
}

event!(Ticked, "clock.ticked", 2, "json");
request!(Ask, "clock.ask", Option<u64>, busway::Refused, ::busway);

fn main() {
    assert_eq!(<Ticked as busway::Event>::SCHEMA.name, "clock.ticked");
    assert_eq!(<Ask as busway::Request>::SCHEMA.name, "clock.ask");
}
