//! Texts of the configuration that go into messages as they are.
//!
//! A field's value is copied or counted for each message it goes into, and the count of one that all
//! shards use is a cache line that all shards write. These have no count: a text is kept for as long as
//! the process lives, once however often it is configured, so the memory is bounded by what was ever
//! configured.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use http::{
    HeaderName, HeaderValue,
    header::{InvalidHeaderName, InvalidHeaderValue},
};
use serde::{Deserialize, Serialize};

fn interned(text: &str) -> &'static str {
    static TEXTS: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let mut texts = TEXTS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = texts.get(text) {
        return known;
    }
    let kept: &'static str = Box::leak(text.into());
    texts.insert(kept);
    kept
}

/// A field's value; where it is ASCII a copy of it costs nothing.
///
/// # Errors
/// What cannot stand in a field.
pub fn value(text: &str) -> Result<HeaderValue, InvalidHeaderValue> {
    let made = HeaderValue::from_str(text)?;
    // What the type takes of texts that are kept.
    let is_plain = |byte: u8| byte == b'\t' || (b' '..0x7f).contains(&byte);
    if !text.bytes().all(is_plain) {
        return Ok(made);
    }
    Ok(HeaderValue::from_static(interned(text)))
}

/// The name of a field, checked where it was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FieldName(pub HeaderName);

impl TryFrom<String> for FieldName {
    type Error = InvalidHeaderName;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        let name = HeaderName::try_from(name)?;
        Ok(Self(HeaderName::from_static(interned(name.as_str()))))
    }
}

impl From<FieldName> for String {
    fn from(name: FieldName) -> Self {
        name.0.as_str().to_owned()
    }
}

/// The value of a field, the same for every message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FieldText(pub HeaderValue);

impl TryFrom<String> for FieldText {
    type Error = InvalidHeaderValue;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        value(&text).map(Self)
    }
}

impl From<FieldText> for String {
    fn from(text: FieldText) -> Self {
        String::from_utf8_lossy(text.0.as_bytes()).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_kept_once() {
        let (first, second) = (value("max-age=1").expect("value"), value("max-age=1"));
        assert!(std::ptr::eq(
            first.as_bytes(),
            second.expect("value").as_bytes()
        ));
        assert_ne!(first, value("max-age=2").expect("value"));
    }

    #[test]
    fn what_no_field_can_hold_is_refused() {
        for text in ["a\r\nb", "a\0", "\u{7f}"] {
            assert!(value(text).is_err(), "{text:?}");
        }
        for text in ["caf\u{e9}", "a\tb", ""] {
            assert_eq!(value(text).expect("value").as_bytes(), text.as_bytes());
        }
        assert!(FieldName::try_from("a b".to_owned()).is_err());
    }

    #[test]
    fn names_are_the_same_however_they_are_written() {
        let name = |text: &str| FieldName::try_from(text.to_owned()).expect("name");
        assert_eq!(name("X-Proto"), name("x-proto"));
        assert_eq!(name("HOST").0, http::header::HOST);
        let written = serde_json::to_string(&name("X-Proto")).expect("json");
        assert_eq!(written, "\"x-proto\"");
        let read: FieldName = serde_json::from_str(&written).expect("name");
        assert_eq!(read, name("x-proto"));
    }
}
