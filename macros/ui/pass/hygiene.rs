// The generated code resolves whatever the user's module calls its own things.
#![deny(warnings)]
#![allow(non_camel_case_types, dead_code, unused_imports)]

mod shadows {
    pub struct Schema;
    pub struct Codec;
    pub struct Bytes;
    pub struct CodecError;
    pub struct Refused;
    pub struct Result;
    pub struct u32;
    pub mod core {}
    pub mod std {}
    pub mod busway {}
}

mod user {
    use super::shadows::*;
    use ::serde::{Deserialize, Serialize};

    #[derive(::busway::Event, Serialize, Deserialize)]
    #[event("a.event", version = 2, codec = "json")]
    pub struct AnEvent(u8);

    #[derive(::busway::Event)]
    #[event("a.local", local)]
    pub struct ALocal;

    #[derive(::busway::Request, Serialize, Deserialize)]
    #[request("a.request", response = u8)]
    pub struct ARequest {
        codec: u8,
        payload: u8,
    }

    // A name that needs escaping.
    #[derive(::busway::Event, Serialize, Deserialize)]
    #[event("a.raw")]
    pub struct r#type;

    // Its own constant, which `Self::SCHEMA` finds first.
    impl ALocal {
        pub const SCHEMA: () = ();
    }
}

fn main() {
    assert_eq!(<user::ALocal as ::busway::Event>::SCHEMA.name, "a.local");
}
