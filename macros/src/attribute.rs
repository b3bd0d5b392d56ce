//! Finds `#[event(…)]` or `#[request(…)]` on a type and puts together what it says.

use syn::parse::ParseStream;
use syn::{Attribute, Data, DeriveInput, Field, Meta, Result, Type};

use crate::arguments::{Arguments, Contract, refuse};
use crate::options::Helper;

/// `#[event(…)]`, read and found right.
pub(crate) struct EventAttribute {
    pub(crate) contract: Contract,
    pub(crate) local: bool,
}

/// `#[request(…)]`, read and found right.
pub(crate) struct RequestAttribute {
    pub(crate) contract: Contract,
    pub(crate) response: Type,
    /// `Refused` when it is not given.
    pub(crate) error: Option<Type>,
}

impl EventAttribute {
    pub(crate) fn of(input: &DeriveInput) -> Result<Self> {
        let (_, mut parsed) = parse(Helper::Event, input)?;
        let local = parsed.local.is_some();
        if let (true, Some(codec)) = (local, &parsed.codec) {
            return refuse(
                &codec.written,
                "a local event never leaves its process, so nothing encodes it: leave out \
                 either `local` or `codec`",
            );
        }
        Ok(EventAttribute { contract: parsed.contract()?, local })
    }
}

impl RequestAttribute {
    pub(crate) fn of(input: &DeriveInput) -> Result<Self> {
        let (attribute, mut parsed) = parse(Helper::Request, input)?;
        let contract = parsed.contract()?;
        let Some(response) = parsed.response else {
            return refuse(
                attribute,
                format!(
                    "`response` is missing: write #[request({}, response = Answer)] with the \
                     type that a responder answers, or `()`",
                    contract.name.token()
                ),
            );
        };
        Ok(RequestAttribute { contract, response, error: parsed.error })
    }
}

fn parse(helper: Helper, input: &DeriveInput) -> Result<(&Attribute, Arguments)> {
    let attribute = find(helper, input)?;
    let usage = helper.usage();
    match &attribute.meta {
        Meta::List(list) if !list.tokens.is_empty() => {}
        Meta::NameValue(_) => {
            return refuse(attribute, format!("the name stands in parentheses: write {usage}"));
        }
        Meta::List(_) | Meta::Path(_) => {
            return refuse(attribute, format!("the name is missing: write {usage}"));
        }
    }
    let parsed =
        attribute.parse_args_with(|input: ParseStream<'_>| Arguments::parse(helper, input))?;
    Ok((attribute, parsed))
}

/// The one attribute of the type.
fn find(helper: Helper, input: &DeriveInput) -> Result<&Attribute> {
    let (this, other) = (helper.name(), helper.other().name());
    if let Some(misplaced) = on_a_part(input, this) {
        return refuse(misplaced, format!("`#[{this}(…)]` belongs on the type, under the derive"));
    }
    let named = |name: &'static str| {
        let of_type = input.attrs.iter();
        of_type.filter(move |attribute| attribute.path().is_ident(name))
    };
    let mut found = named(this);
    match (found.next(), found.next()) {
        (Some(attribute), None) => Ok(attribute),
        (Some(_), Some(second)) => {
            refuse(second, format!("`#[{this}(…)]` is given twice: {} has one name", helper.noun()))
        }
        (None, _) => {
            let usage = helper.usage();
            match named(other).next() {
                Some(wrong) => refuse(
                    wrong,
                    format!(
                        "`#[{other}(…)]` does not name {}: write {usage} under the derive",
                        helper.noun()
                    ),
                ),
                None => refuse(&input.ident, format!("write {usage} under the derive")),
            }
        }
    }
}

/// Helper attributes are in force in the whole type, so rustc lets them stand on fields and
/// variants too, where they would silently do nothing.
fn on_a_part<'a>(input: &'a DeriveInput, name: &str) -> Option<&'a Attribute> {
    fn of_field(field: &Field) -> &Vec<Attribute> {
        &field.attrs
    }
    let parts: Vec<&Vec<Attribute>> = match &input.data {
        Data::Struct(data) => data.fields.iter().map(of_field).collect(),
        Data::Union(data) => data.fields.named.iter().map(of_field).collect(),
        Data::Enum(data) => data
            .variants
            .iter()
            .flat_map(|v| std::iter::once(&v.attrs).chain(v.fields.iter().map(of_field)))
            .collect(),
    };
    parts.into_iter().flatten().find(|attribute| attribute.path().is_ident(name))
}

#[cfg(test)]
mod tests {
    use quote::ToTokens;

    use super::*;

    fn event(source: &str) -> Result<EventAttribute> {
        EventAttribute::of(&syn::parse_str(source)?)
    }

    fn request(source: &str) -> Result<RequestAttribute> {
        RequestAttribute::of(&syn::parse_str(source)?)
    }

    /// The message for `#[event(…)] struct X;`.
    fn event_refusal(arguments: &str) -> String {
        match event(&format!("#[event({arguments})] struct X;")) {
            Ok(_) => panic!("#[event({arguments})] was accepted"),
            Err(error) => error.to_string(),
        }
    }

    /// The message for `#[request(…)] struct X;`.
    fn request_refusal(arguments: &str) -> String {
        match request(&format!("#[request({arguments})] struct X;")) {
            Ok(_) => panic!("#[request({arguments})] was accepted"),
            Err(error) => error.to_string(),
        }
    }

    fn text(tokens: &impl ToTokens) -> String {
        tokens.to_token_stream().to_string()
    }

    #[test]
    fn a_name_is_enough_for_an_event() {
        let event = event(r#"#[event("a.b")] struct X;"#).expect("right");
        assert_eq!(event.contract.name.value(), "a.b");
        assert_eq!(event.contract.topic, "a.b");
        assert_eq!(event.contract.version, 1);
        assert_eq!(event.contract.codec, None);
        assert_eq!(text(&event.contract.krate), ":: busway");
        assert!(!event.local);
    }

    #[test]
    fn events_take_their_options_in_any_order() {
        for arguments in [
            r#""a.b", version = 3, codec = "msgpack", crate = crate::bus"#,
            r#""a.b", crate = crate::bus, codec = "msgpack", version = 3,"#,
        ] {
            let event = event(&format!("#[event({arguments})] struct X;")).expect(arguments);
            assert_eq!(event.contract.version, 3);
            assert_eq!(event.contract.topic, "a.b.v3");
            assert_eq!(text(&event.contract.codec), "MessagePack");
            assert_eq!(text(&event.contract.krate), "crate :: bus");
        }
        let event = event(r#"#[event("a.b", local, version = 2)] struct X;"#).expect("right");
        assert!(event.local);
        assert_eq!(event.contract.version, 2);
    }

    #[test]
    fn requests_take_types() {
        let source =
            r#"#[request("a.b", response = Result<Vec<u8>, [A; 2]>, error = (B, C))] enum X {}"#;
        let request = request(source).expect("right");
        assert_eq!(text(&request.response), "Result < Vec < u8 > , [A ; 2] >");
        assert_eq!(text(&request.error), "(B , C)");
    }

    #[test]
    fn other_attributes_do_not_disturb() {
        let source = r#"
            /// Docs.
            #[serde(rename_all = "camelCase")]
            #[event("a.b")]
            #[request("c.d", response = ())]
            struct X { #[serde(default)] field: u8 }"#;
        assert_eq!(event(source).expect("right").contract.name.value(), "a.b");
        assert_eq!(request(source).expect("right").contract.name.value(), "c.d");
    }

    #[test]
    fn the_attribute_is_found_once_and_on_the_type() {
        let refusal = |source| event(source).err().expect("wrong").to_string();
        assert_eq!(
            refusal("struct X;"),
            r#"write #[event("area.thing_happened")] under the derive"#
        );
        assert!(refusal(r#"#[request("a.b")] struct X;"#).contains("does not name an event"));
        assert!(refusal(r#"#[event("a")] #[event("a")] struct X;"#).contains("given twice"));
        for misplaced in [
            r#"#[event("a")] struct X { #[event("b")] field: u8 }"#,
            r#"struct X(#[event("b")] u8);"#,
            r#"enum X { #[event("b")] One }"#,
            r#"enum X { One { #[event("b")] field: u8 } }"#,
            r#"union X { #[event("b")] field: u8 }"#,
        ] {
            assert!(refusal(misplaced).contains("on the type"), "{misplaced}");
        }
    }

    #[test]
    fn the_attribute_has_parentheses_with_something_in_them() {
        for (source, expected) in [
            ("#[event] struct X;", "the name is missing"),
            ("#[event()] struct X;", "the name is missing"),
            ("#[event = \"a\"] struct X;", "in parentheses"),
        ] {
            let message = event(source).err().expect("wrong").to_string();
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn options_that_need_or_exclude_others() {
        assert!(event_refusal(r#""a", local, codec = "json""#).contains("leave out either"));
        assert!(event_refusal(r#""a", codec = "json", local"#).contains("leave out either"));
        assert!(request_refusal(r#""a.b""#).contains(r#"write #[request("a.b", response = "#));
    }

    #[test]
    fn a_topic_that_the_version_makes_too_long_is_refused() {
        let name = vec!["w".repeat(49); 4].join(".");
        assert!(event(&format!("#[event(\"{name}\")] struct X;")).is_ok());
        let message = event_refusal(&format!("\"{name}\", version = 2"));
        assert!(message.contains("on the wire"), "{message}");
    }
}
