//! Writes the `impl`s. They allow `deprecated`, so that an event which gave way to its next
//! version can be marked and warns where it is used, not where it is derived.

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::{DeriveInput, Result};

use crate::arguments::{Contract, refuse};
use crate::attribute::{EventAttribute, RequestAttribute};
use crate::options::Helper;

/// `impl Event for X`.
pub(crate) fn event(input: &DeriveInput) -> Result<TokenStream> {
    concrete(Helper::Event, input)?;
    let EventAttribute { contract, local } = EventAttribute::of(input)?;
    let (ident, busway) = (&input.ident, &contract.krate);
    let schema = schema(&contract, local);
    let span = at(ident.span());

    let codec_functions = if local {
        // Nothing here asks for `Serialize`. `Self::SCHEMA` alone would be ambiguous in a type
        // that is a request as well.
        quote_spanned! {span=>
            #[inline]
            fn encode(
                &self,
                _: #busway::Codec,
                _: &mut ::std::vec::Vec<u8>,
            ) -> ::core::result::Result<(), #busway::CodecError> {
                ::core::result::Result::Err(
                    #busway::CodecError::local(<Self as #busway::Event>::SCHEMA.name),
                )
            }

            #[inline]
            fn decode(
                _: #busway::Codec,
                _: &[u8],
            ) -> ::core::result::Result<Self, #busway::CodecError> {
                ::core::result::Result::Err(
                    #busway::CodecError::local(<Self as #busway::Event>::SCHEMA.name),
                )
            }
        }
    } else {
        quote_spanned! {span=>
            #[inline]
            fn encode(
                &self,
                codec: #busway::Codec,
                buffer: &mut ::std::vec::Vec<u8>,
            ) -> ::core::result::Result<(), #busway::CodecError> {
                codec.encode(self, buffer)
            }

            #[inline]
            fn decode(
                codec: #busway::Codec,
                payload: &[u8],
            ) -> ::core::result::Result<Self, #busway::CodecError> {
                codec.decode(payload)
            }
        }
    };

    Ok(quote_spanned! {span=>
        #[automatically_derived]
        #[allow(deprecated)]
        impl #busway::Event for #ident {
            const SCHEMA: #busway::Schema = #schema;

            #codec_functions
        }
    })
}

/// `impl Request for X`.
pub(crate) fn request(input: &DeriveInput) -> Result<TokenStream> {
    concrete(Helper::Request, input)?;
    let RequestAttribute { contract, response, error } = RequestAttribute::of(input)?;
    let (ident, busway) = (&input.ident, &contract.krate);
    let schema = schema(&contract, false);
    let error = error.map_or_else(|| quote!(#busway::Refused), |error| quote!(#error));

    Ok(quote_spanned! {at(ident.span())=>
        #[automatically_derived]
        #[allow(deprecated)]
        impl #busway::Request for #ident {
            const SCHEMA: #busway::Schema = #schema;
            type Response = #response;
            type Error = #error;
        }
    })
}

/// Says only what differs from `Schema::new`.
fn schema(contract: &Contract, local: bool) -> TokenStream {
    let Contract { name, version, topic, codec, krate: busway } = contract;
    // The topic is given although it follows from the name: constants cannot build strings.
    let version = (*version > 1).then(|| quote!(.version(#version, #topic)));
    let local = local.then(|| quote!(.local()));
    let codec = codec.as_ref().map(|codec| quote!(.codec(#busway::Codec::#codec)));
    quote!(#busway::Schema::new(#name) #version #local #codec)
}

/// Each value of a type parameter would be a type of its own under the same name, and a receiver
/// could not know which to decode.
fn concrete(helper: Helper, input: &DeriveInput) -> Result<()> {
    let generics = &input.generics;
    let noun = helper.noun();
    if generics.params.is_empty() {
        return Ok(());
    }
    if generics.lifetimes().count() == generics.params.len() {
        return refuse(
            generics,
            format!(
                "{noun} outlives the call that sends it, so it owns its data: remove the \
                 lifetime, hold `String` instead of `&str`, or `Arc<T>` instead of `&T`"
            ),
        );
    }
    refuse(
        generics,
        format!(
            "{noun} has one name and so one concrete type: remove the generic parameters, or \
             write a type with a name of its own for each use"
        ),
    )
}

/// Errors in the generated code, such as a missing `Serialize`, are shown at `place`: without
/// this they would be shown at the derive, which says nothing about what is wrong. Names resolve
/// as in any macro, and lints see that a macro wrote the code and not the user.
fn at(place: Span) -> Span {
    Span::call_site().located_at(place)
}

#[cfg(test)]
mod tests {
    use syn::parse_quote;

    use super::*;

    #[track_caller]
    fn same(actual: Result<TokenStream>, expected: TokenStream) {
        assert_eq!(actual.expect("accepted").to_string(), expected.to_string());
    }

    #[test]
    fn an_event() {
        same(
            event(&parse_quote! {
                #[event("a.b")]
                struct X;
            }),
            quote! {
                #[automatically_derived]
                #[allow(deprecated)]
                impl ::busway::Event for X {
                    const SCHEMA: ::busway::Schema = ::busway::Schema::new("a.b");

                    #[inline]
                    fn encode(
                        &self,
                        codec: ::busway::Codec,
                        buffer: &mut ::std::vec::Vec<u8>,
                    ) -> ::core::result::Result<(), ::busway::CodecError> {
                        codec.encode(self, buffer)
                    }

                    #[inline]
                    fn decode(
                        codec: ::busway::Codec,
                        payload: &[u8],
                    ) -> ::core::result::Result<Self, ::busway::CodecError> {
                        codec.decode(payload)
                    }
                }
            },
        );
    }

    #[test]
    fn a_local_event() {
        same(
            event(&parse_quote! {
                #[event("a.b", local, version = 2, crate = bus)]
                struct X;
            }),
            quote! {
                #[automatically_derived]
                #[allow(deprecated)]
                impl bus::Event for X {
                    const SCHEMA: bus::Schema = bus::Schema::new("a.b")
                        .version(2u32, "a.b.v2")
                        .local();

                    #[inline]
                    fn encode(
                        &self,
                        _: bus::Codec,
                        _: &mut ::std::vec::Vec<u8>,
                    ) -> ::core::result::Result<(), bus::CodecError> {
                        ::core::result::Result::Err(
                            bus::CodecError::local(<Self as bus::Event>::SCHEMA.name),
                        )
                    }

                    #[inline]
                    fn decode(
                        _: bus::Codec,
                        _: &[u8],
                    ) -> ::core::result::Result<Self, bus::CodecError> {
                        ::core::result::Result::Err(
                            bus::CodecError::local(<Self as bus::Event>::SCHEMA.name),
                        )
                    }
                }
            },
        );
    }

    #[test]
    fn a_request() {
        same(
            request(&parse_quote! {
                #[request("a.b", response = Vec<u8>)]
                struct X;
            }),
            quote! {
                #[automatically_derived]
                #[allow(deprecated)]
                impl ::busway::Request for X {
                    const SCHEMA: ::busway::Schema = ::busway::Schema::new("a.b");
                    type Response = Vec<u8>;
                    type Error = ::busway::Refused;
                }
            },
        );
    }

    #[test]
    fn a_request_with_everything() {
        same(
            request(&parse_quote! {
                #[request("a.b", response = (), error = E, version = 9, codec = "bincode", crate = bus)]
                struct X;
            }),
            quote! {
                #[automatically_derived]
                #[allow(deprecated)]
                impl bus::Request for X {
                    const SCHEMA: bus::Schema = bus::Schema::new("a.b")
                        .version(9u32, "a.b.v9")
                        .codec(bus::Codec::Bincode);
                    type Response = ();
                    type Error = E;
                }
            },
        );
    }

    #[test]
    fn generic_types_are_refused() {
        for input in [
            parse_quote!(
                #[event("a")]
                struct X<T>(T);
            ),
            parse_quote!(
                #[event("a")]
                struct X<const N: usize>([u8; N]);
            ),
            parse_quote!(
                #[event("a")]
                struct X<'a, T>(&'a T);
            ),
        ] {
            let error = event(&input).expect_err("generic");
            assert!(error.to_string().contains("one concrete type"), "{error}");
        }
        let borrowed = parse_quote!(
            #[event("a")]
            struct X<'a>(&'a str);
        );
        let error = event(&borrowed).expect_err("borrowed");
        assert!(error.to_string().contains("owns its data"), "{error}");
        assert!(
            event(&parse_quote!(
                #[event("a")]
                struct X;
            ))
            .is_ok()
        );
    }
}
