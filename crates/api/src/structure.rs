//! `google.protobuf.Struct` with its canonical JSON: any JSON object.
//!
//! The ready-made type (pbjson-types 0.9) writes whole numbers as `5.0`, which is another text than what the model
//! writes.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Number};

/// A JSON object.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Struct {
    /// Its fields.
    #[prost(btree_map = "string, message", tag = "1")]
    pub fields: BTreeMap<String, Value>,
}

/// A JSON value.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Value {
    /// What it is; absent only in a message that breaks the rules, and then as good as null.
    #[prost(oneof = "Kind", tags = "1, 2, 3, 4, 5, 6")]
    pub kind: Option<Kind>,
}

/// The kinds of JSON values.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Kind {
    /// Null; the number is always 0.
    #[prost(int32, tag = "1")]
    Null(i32),
    /// A number.
    #[prost(double, tag = "2")]
    Number(f64),
    /// A text.
    #[prost(string, tag = "3")]
    Text(String),
    /// True or false.
    #[prost(bool, tag = "4")]
    Bool(bool),
    /// An object.
    #[prost(message, tag = "5")]
    Struct(Struct),
    /// A list.
    #[prost(message, tag = "6")]
    List(List),
}

/// A JSON array: `google.protobuf.ListValue`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct List {
    /// Its items.
    #[prost(message, repeated, tag = "1")]
    pub values: Vec<Value>,
}

/// Up to here a float counts every whole number.
const WHOLE: f64 = 9_007_199_254_740_992.0;

impl From<&Value> for serde_json::Value {
    fn from(value: &Value) -> Self {
        match &value.kind {
            None | Some(Kind::Null(_)) => Self::Null,
            Some(Kind::Number(number)) if number.fract() == 0.0 && number.abs() <= WHOLE => {
                Self::from(*number as i64)
            }
            // Neither infinity nor NaN has a form in JSON.
            Some(Kind::Number(number)) => Number::from_f64(*number).map_or(Self::Null, Self::Number),
            Some(Kind::Text(text)) => Self::String(text.clone()),
            Some(Kind::Bool(value)) => Self::Bool(*value),
            Some(Kind::Struct(fields)) => Self::Object(fields.into()),
            Some(Kind::List(list)) => Self::Array(list.values.iter().map(Into::into).collect()),
        }
    }
}

impl From<&Struct> for Map<String, serde_json::Value> {
    fn from(object: &Struct) -> Self {
        object.fields.iter().map(|(name, value)| (name.clone(), value.into())).collect()
    }
}

impl From<serde_json::Value> for Value {
    fn from(value: serde_json::Value) -> Self {
        let kind = match value {
            serde_json::Value::Null => Kind::Null(0),
            serde_json::Value::Bool(value) => Kind::Bool(value),
            serde_json::Value::Number(number) => Kind::Number(number.as_f64().unwrap_or_default()),
            serde_json::Value::String(text) => Kind::Text(text),
            serde_json::Value::Array(items) => {
                Kind::List(List { values: items.into_iter().map(Into::into).collect() })
            }
            serde_json::Value::Object(fields) => Kind::Struct(fields.into()),
        };
        Self { kind: Some(kind) }
    }
}

impl From<Map<String, serde_json::Value>> for Struct {
    fn from(fields: Map<String, serde_json::Value>) -> Self {
        Self { fields: fields.into_iter().map(|(name, value)| (name, value.into())).collect() }
    }
}

impl Serialize for Struct {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        Map::<String, serde_json::Value>::from(self).serialize(to)
    }
}

impl<'de> Deserialize<'de> for Struct {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Map::<String, serde_json::Value>::deserialize(from).map(Into::into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;
    use serde_json::json;

    #[test]
    fn any_object_survives_the_wire() {
        let document = json!({
            "text": "it's\n", "whole": 5, "negative": -7, "part": 0.5, "yes": true, "nothing": null,
            "list": [1, "two", {"three": [3]}], "object": {"a": {"b": {}}},
        });
        let message: Struct = serde_json::from_value(document.clone()).unwrap();
        let back = Struct::decode(message.encode_to_vec().as_slice()).unwrap();
        assert_eq!(serde_json::to_value(&back).unwrap(), document);
        assert!(serde_json::from_value::<Struct>(json!([1])).is_err());
    }

    #[test]
    fn what_json_cannot_say_is_null() {
        for odd in [Some(Kind::Number(f64::NAN)), Some(Kind::Number(f64::INFINITY)), None] {
            assert_eq!(serde_json::Value::from(&Value { kind: odd }), serde_json::Value::Null);
        }
    }
}
