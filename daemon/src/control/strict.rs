//! JSON as JSON Schema has it, where serde has something else: an object is an object, and serde's derived types take a list
//! of their fields' values for one; and 5.0 is an integer.

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{Deserializer, Error as _, IntoDeserializer, Unexpected, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::{Error, Value};

/// A value from which lists are not read as objects.
pub(super) struct Strict(pub(super) Value);

impl<'de> Deserializer<'de> for Strict {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Array(items) => visitor.visit_seq(SeqDeserializer::new(items.into_iter().map(Strict))),
            Value::Object(fields) => {
                let fields = fields.into_iter().map(|(key, value)| (key, Strict(value)));
                visitor.visit_map(MapDeserializer::new(fields))
            }
            other => other.deserialize_any(visitor),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.0 {
            Value::Array(_) => Err(Error::invalid_type(Unexpected::Seq, &"an object")),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.0.deserialize_enum(name, variants, visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map identifier ignored_any
    }
}

/// Makes integers of the numbers that are written as fractions and are none. Whether there were any.
pub(super) fn make_whole(value: &mut Value) -> bool {
    /// The least fraction that is no u64.
    const END: f64 = 18_446_744_073_709_551_616.0;
    match value {
        Value::Number(number) if number.is_f64() => {
            let whole = number.as_f64().filter(|x| x.fract() == 0.0 && (0.0..END).contains(x));
            whole.is_some_and(|whole| {
                *value = Value::from(whole as u64);
                true
            })
        }
        Value::Array(items) => items.iter_mut().map(make_whole).filter(|made| *made).count() > 0,
        Value::Object(fields) => fields.values_mut().map(make_whole).filter(|made| *made).count() > 0,
        _ => false,
    }
}

impl IntoDeserializer<'_, Error> for Strict {
    type Deserializer = Strict;

    fn into_deserializer(self) -> Strict {
        self
    }
}

#[cfg(test)]
mod tests {
    use cairn_api::image::{CreateImage, ImageFormat, ImageStatus};
    use cairn_api::volume::EditVolume;
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[test]
    fn objects_are_read_as_everywhere() {
        let edit = json!({"name": "a", "shared": true, "tags": {"x": null, "y": "z"}, "project": null});
        let expected: EditVolume = serde_json::from_value(edit.clone()).expect("parses");
        assert_eq!(EditVolume::deserialize(Strict(edit)).expect("parses"), expected);
        assert_eq!(Option::<EditVolume>::deserialize(Strict(Value::Null)).expect("parses"), None);
        let words = Vec::<ImageFormat>::deserialize(Strict(json!(["raw", "vhd"]))).expect("parses");
        assert_eq!(words, [ImageFormat::Raw, ImageFormat::Vhd]);
        assert_eq!(
            ImageStatus::deserialize(Strict(json!("available"))).expect("parses"),
            ImageStatus::Available
        );
    }

    #[test]
    fn a_whole_number_is_an_integer_however_it_is_written() {
        let mut written =
            json!({"a": [1.0, {"b": 1.844_674_407_370_955e19}], "c": 4503599627370496.0, "d": 7});
        assert!(make_whole(&mut written));
        let whole = json!({"a": [1, {"b": 18446744073709549568u64}], "c": 4503599627370496u64, "d": 7});
        assert_eq!(written, whole);
        let mut others = json!([0.5, -1.0, 1.8446744073709552e19, 7, "1.0", null]);
        assert!(!make_whole(&mut others));
    }

    #[test]
    fn a_list_is_no_object_at_any_depth() {
        for wrong in [json!([]), json!({"name": "a", "volume": "v", "fields": []})] {
            let error = CreateImage::deserialize(Strict(wrong)).expect_err("a list");
            assert!(error.to_string().contains("expected an object"), "{error}");
        }
    }
}
