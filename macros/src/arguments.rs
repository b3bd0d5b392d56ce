//! Reads what stands in the parentheses of `#[event(…)]` and `#[request(…)]`. Every refusal
//! points at the tokens that are wrong and says what to write.

use std::fmt::Display;

use proc_macro2::Span;
use quote::ToTokens;
use syn::ext::IdentExt;
use syn::parse::ParseStream;
use syn::{Error, Ident, Lit, LitInt, LitStr, Path, Result, Token, Type, parse_quote};

use crate::name;
use crate::options::{self, Helper};

/// What events and requests have in common.
pub(crate) struct Contract {
    pub(crate) name: LitStr,
    pub(crate) version: u32,
    /// What the name and the version make on the wire.
    pub(crate) topic: String,
    /// A variant of `busway::Codec`.
    pub(crate) codec: Option<Ident>,
    /// Where `busway` is.
    pub(crate) krate: Path,
}

/// All that can stand in either attribute; [`Helper::options`] says which of it may.
pub(crate) struct Arguments {
    pub(crate) name: LitStr,
    pub(crate) version: Option<u32>,
    pub(crate) codec: Option<Codec>,
    pub(crate) krate: Option<Path>,
    pub(crate) local: Option<()>,
    pub(crate) response: Option<Type>,
    pub(crate) error: Option<Type>,
}

pub(crate) struct Codec {
    /// Of `busway::Codec`.
    variant: &'static str,
    /// Where to point when it should not be there.
    pub(crate) written: LitStr,
}

impl Arguments {
    /// The name, then options.
    pub(crate) fn parse(helper: Helper, input: ParseStream<'_>) -> Result<Self> {
        let mut parsed = Arguments {
            name: name_literal(helper, input)?,
            version: None,
            codec: None,
            krate: None,
            local: None,
            response: None,
            error: None,
        };
        while !input.is_empty() {
            if !input.peek(Token![,]) {
                return Err(input.error("write a comma before each option"));
            }
            input.parse::<Token![,]>()?;
            if !input.is_empty() {
                option(helper, input, &mut parsed)?;
            }
        }
        Ok(parsed)
    }

    /// What both helpers have, with what follows from it.
    pub(crate) fn contract(&mut self) -> Result<Contract> {
        let name = self.name.clone();
        let version = self.version.unwrap_or(1);
        let topic = match name::topic(&name.value(), version) {
            Ok(topic) => topic,
            Err(message) => return refuse(&name, message),
        };
        Ok(Contract {
            name,
            version,
            topic,
            codec: self.codec.take().map(|codec| Ident::new(codec.variant, Span::call_site())),
            krate: self.krate.take().unwrap_or_else(|| parse_quote!(::busway)),
        })
    }
}

fn name_literal(helper: Helper, input: ParseStream<'_>) -> Result<LitStr> {
    let usage = helper.usage();
    if input.peek(LitStr) {
        let name: LitStr = input.parse()?;
        return match name::check(&name.value()) {
            Ok(()) => Ok(name),
            Err(message) => refuse(&name, message),
        };
    }
    // A word on its own may be a constant or a name without quotes.
    let is_option = match input.fork().call(Ident::parse_any) {
        Ok(word) => input.peek2(Token![=]) || helper.options().contains(&word.to_string().as_str()),
        Err(_) => false,
    };
    Err(input.error(if is_option {
        format!("the name is missing, it comes before the options: write {usage}")
    } else {
        format!("the name is a string literal, so that it can be checked here: write {usage}")
    }))
}

fn option(helper: Helper, input: ParseStream<'_>, parsed: &mut Arguments) -> Result<()> {
    if input.peek(Lit) {
        return Err(input.error(format!(
            "{} has one name; after it come options like `version = 2`",
            helper.noun()
        )));
    }
    let key = input.call(Ident::parse_any)?;
    let option = key.to_string();
    if !helper.options().contains(&option.as_str()) {
        return refuse(&key, options::unknown(helper, &option));
    }
    match option.as_str() {
        "version" => {
            value(input, &key, "version = 2")?;
            once(&key, &mut parsed.version, version(input)?)
        }
        "codec" => {
            value(input, &key, "codec = \"json\"")?;
            once(&key, &mut parsed.codec, codec(input)?)
        }
        "crate" => {
            value(input, &key, "crate = path::to::busway")?;
            not_quoted(input, "the path")?;
            once(&key, &mut parsed.krate, input.call(Path::parse_mod_style)?)
        }
        "local" if input.peek(Token![=]) => {
            refuse(&key, "`local` takes no value: write it alone, or leave it out")
        }
        "local" => once(&key, &mut parsed.local, ()),
        "response" => {
            value(input, &key, "response = Answer")?;
            not_quoted(input, "the type")?;
            once(&key, &mut parsed.response, input.parse()?)
        }
        "error" => {
            value(input, &key, "error = Failure")?;
            not_quoted(input, "the type")?;
            once(&key, &mut parsed.error, input.parse()?)
        }
        // An option that `Helper::options` lists and this does not read.
        _ => unreachable!("`{option}` is listed but not read"),
    }
}

/// The `=` between an option and its value.
fn value(input: ParseStream<'_>, key: &Ident, example: &str) -> Result<()> {
    if input.peek(Token![=]) && !input.peek2(Token![,]) {
        input.parse::<Token![=]>()?;
        if !input.is_empty() {
            return Ok(());
        }
    }
    refuse(key, format!("`{key}` needs a value, as in `{example}`"))
}

fn once<T>(key: &Ident, slot: &mut Option<T>, value: T) -> Result<()> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => refuse(key, format!("`{key}` is given twice")),
    }
}

/// Other derives take types and paths as strings; a habit to be met with more than "expected
/// identifier".
fn not_quoted(input: ParseStream<'_>, what: &str) -> Result<()> {
    match input.peek(LitStr) {
        true => Err(input.error(format!("write {what} without quotes"))),
        false => Ok(()),
    }
}

fn version(input: ParseStream<'_>) -> Result<u32> {
    const EXPECTED: &str = "a version is a whole number from 1 on, as in `version = 2`";
    if !input.peek(LitInt) {
        return Err(input.error(EXPECTED));
    }
    let literal: LitInt = input.parse()?;
    match literal.base10_parse() {
        Ok(0) => refuse(
            &literal,
            "versions start at 1: leave `version` out for the first, write `version = 2` for the \
             next",
        ),
        Ok(version) => Ok(version),
        Err(_) => refuse(&literal, EXPECTED),
    }
}

fn codec(input: ParseStream<'_>) -> Result<Codec> {
    // As in content types and configuration, and the variant of `busway::Codec`.
    const CODECS: [(&str, &str); 3] =
        [("json", "Json"), ("msgpack", "MessagePack"), ("bincode", "Bincode")];
    let known = options::list(&CODECS.map(|(name, _)| name), "\"");
    if !input.peek(LitStr) {
        return Err(input.error(format!("a codec is one of {known}, in quotes")));
    }
    let written: LitStr = input.parse()?;
    let value = written.value();
    match CODECS.iter().find(|(name, _)| *name == value) {
        Some((_, variant)) => Ok(Codec { variant, written }),
        None => refuse(&written, format!("there is no codec {value:?}: the codecs are {known}")),
    }
}

/// An error that covers all of `tokens`.
pub(crate) fn refuse<T>(tokens: impl ToTokens, message: impl Display) -> Result<T> {
    Err(Error::new_spanned(tokens, message))
}

#[cfg(test)]
mod tests {
    use syn::parse::Parser;

    use super::*;

    /// The message for `arguments` in the parentheses of `helper`.
    fn refusal(helper: Helper, arguments: &str) -> String {
        let parser = |input: ParseStream<'_>| Arguments::parse(helper, input);
        match parser.parse_str(arguments) {
            Ok(_) => panic!("{arguments} was accepted"),
            Err(error) => error.to_string(),
        }
    }

    fn event_refusal(arguments: &str) -> String {
        refusal(Helper::Event, arguments)
    }

    fn request_refusal(arguments: &str) -> String {
        refusal(Helper::Request, arguments)
    }

    #[test]
    fn the_name_is_a_literal_and_comes_first() {
        for arguments in ["local", "version = 2", "version = 2, \"a\"", "name = \"a\"", "crate"] {
            let message = event_refusal(arguments);
            assert!(message.contains("comes before the options"), "{arguments}: {message}");
        }
        for arguments in ["NAME", "a.b", "b\"a\"", "7", "concat!(\"a\")", "::NAME", "-", ","] {
            let message = event_refusal(arguments);
            assert!(message.contains("a string literal"), "{arguments}: {message}");
        }
        assert!(event_refusal(r#""A.b""#).contains("did you mean \"a.b\"?"));
        assert!(event_refusal(r#""a", "b""#).contains("an event has one name"));
        assert!(event_refusal(r#""a" local"#).contains("a comma"));
        assert!(event_refusal(r#""a", version = 2 local"#).contains("a comma"));
    }

    #[test]
    fn unknown_options_are_answered_with_the_known() {
        assert!(event_refusal(r#""a", verison = 2"#).contains("did you mean `version`?"));
        let message = event_refusal(r#""a", durable"#);
        assert!(message.contains("takes `version`, `local`, `codec` and `crate`"), "{message}");
        assert!(event_refusal(r#""a", response = X"#).contains("an option of `#[request(…)]`"));
        assert!(request_refusal(r#""a", local"#).contains("an option of `#[event(…)]`"));
    }

    #[test]
    fn each_option_is_given_once() {
        for option in ["version = 2", "local", "codec = \"json\"", "crate = x"] {
            let message = event_refusal(&format!("\"a\", {option}, {option}"));
            assert!(message.ends_with("is given twice"), "{message}");
        }
        for option in ["response = X", "error = X"] {
            let message = request_refusal(&format!("\"a\", {option}, {option}"));
            assert!(message.ends_with("is given twice"), "{message}");
        }
    }

    #[test]
    fn values_are_of_their_kind() {
        for version in ["-1", "1.5", "\"2\"", "x", "4294967296", "true"] {
            let message = event_refusal(&format!("\"a\", version = {version}"));
            assert!(message.contains("whole number from 1"), "{version}: {message}");
        }
        assert!(event_refusal(r#""a", version = 0"#).contains("start at 1"));
        for codec in ["\"yaml\"", "\"JSON\"", "\"\"", "Json", "1"] {
            let message = event_refusal(&format!("\"a\", codec = {codec}"));
            assert!(message.contains(r#""json", "msgpack" and "bincode""#), "{codec}: {message}");
        }
        assert!(event_refusal(r#""a", local = true"#).contains("takes no value"));
        assert!(event_refusal(r#""a", crate = "b""#).contains("without quotes"));
        assert!(request_refusal(r#""a", response = "B""#).contains("without quotes"));
        for missing in ["version", "version =", "version, local", "version = , local", "codec(1)"] {
            let message = event_refusal(&format!("\"a\", {missing}"));
            assert!(message.contains("needs a value"), "{missing}: {message}");
        }
    }
}
