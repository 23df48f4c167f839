//! The shape of an object, checked against the schema by which an API server checks it.
//!
//! Deserialization stops at the first mistake. Here every mistake is reported and then taken out
//! of the object, so that the rest can be deserialized and its meaning checked in the same run.

use serde_json::{Map, Value};

use crate::diagnostic::{Code, FieldReporter, did_you_mean, nearest};

/// Reports everything that `schema` forbids in `value`, and leaves a value that it allows.
///
/// Returns false if the value itself is of no use; a placeholder then keeps the object
/// deserializable.
pub fn conform(value: &mut Value, schema: &Value, field: &mut FieldReporter<'_>) -> bool {
    if preserves_unknown(schema) {
        return true;
    }
    let expected = schema["type"].as_str().unwrap_or("object");
    if !has_type(value, expected) {
        let message = format!("must be {}, not {}", described(expected), found(value));
        field.report(Code::WrongType, message, remedy(value, expected));
        *value = placeholder(schema);
        return false;
    }
    match value {
        Value::Object(fields) => {
            object(fields, schema, field);
            true
        }
        Value::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                conform(item, &schema["items"], &mut field.at(format_args!("[{index}]")));
            }
            bounds(items.len(), schema, ("minItems", "maxItems"), "entries", field);
            true
        }
        Value::String(text) => string(text, schema, field),
        Value::Number(number) => {
            let value = number.as_f64().unwrap_or(f64::NAN);
            let (low, high) = (schema["minimum"].as_f64(), schema["maximum"].as_f64());
            if low.is_none_or(|low| value >= low) && high.is_none_or(|high| value <= high) {
                return true;
            }
            let range = match (low, high) {
                (Some(low), Some(high)) => format!("from {low} to {high}"),
                (Some(low), None) => format!("of at least {low}"),
                _ => format!("of at most {}", high.unwrap_or_default()),
            };
            field.report(Code::OutOfRange, format!("{value} is out of range"), format!("write a number {range}"));
            *number = low.map_or_else(|| 0.into(), |low| (low as i64).into());
            false
        }
        Value::Bool(_) | Value::Null => true,
    }
}

fn object(fields: &mut Map<String, Value>, schema: &Value, field: &mut FieldReporter<'_>) {
    let Some(properties) = schema["properties"].as_object() else { return };
    // Templates write null for fields without a value. Kubernetes drops these fields, too.
    fields.retain(|_, value| !value.is_null());
    let unknown: Vec<String> = fields.keys().filter(|name| !properties.contains_key(*name)).cloned().collect();
    for name in unknown {
        fields.shift_remove(&name);
        let absent = properties.keys().map(String::as_str).filter(|known| !fields.contains_key(*known));
        let known = || format!("known here: {}", properties.keys().map(String::as_str).collect::<Vec<_>>().join(", "));
        let remedy = did_you_mean(&name, absent).unwrap_or_else(known);
        field.at(format_args!(".{name}")).report(Code::UnknownField, "unknown field", remedy);
    }
    let is_required = |name: &str| {
        schema["required"].as_array().is_some_and(|required| required.iter().any(|required| required == name))
    };
    fields.retain(|name, value| {
        conform(value, &properties[name], &mut field.at(format_args!(".{name}"))) || is_required(name)
    });
    for required in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if !fields.contains_key(required) {
            field.at(format_args!(".{required}")).report(Code::MissingField, "is missing", "add it");
            fields.insert(required.to_owned(), placeholder(&properties[required]));
        }
    }
}

fn string(text: &mut String, schema: &Value, field: &mut FieldReporter<'_>) -> bool {
    if let Some(allowed) = schema["enum"].as_array() {
        let allowed: Vec<&str> = allowed.iter().filter_map(Value::as_str).collect();
        if !allowed.contains(&text.as_str()) {
            let remedy = did_you_mean(text, allowed.iter().copied());
            let remedy = remedy.unwrap_or_else(|| "write one of them".to_owned());
            field.report(Code::UnknownValue, format!("`{text}` is not one of {}", allowed.join(", ")), remedy);
            // The checks that follow go on with the word that was probably meant.
            let meant = nearest(text, allowed.iter().copied());
            *text = meant.or(allowed.first().copied()).unwrap_or_default().to_owned();
            return meant.is_some();
        }
        return true;
    }
    bounds(text.len(), schema, ("minLength", "maxLength"), "characters", field);
    true
}

fn bounds(length: usize, schema: &Value, (low, high): (&str, &str), unit: &str, field: &mut FieldReporter<'_>) {
    let bound = |name: &str| schema[name].as_u64().and_then(|bound| usize::try_from(bound).ok());
    if bound(low).is_some_and(|low| length < low) {
        field.report(Code::EmptyValue, "must not be empty", "write a value, or remove it");
    } else if let Some(high) = bound(high)
        && length > high
    {
        let message = format!("has {length} {unit}; at most {high} are possible");
        field.report(Code::TooLong, message, "make it shorter");
    }
}

fn preserves_unknown(schema: &Value) -> bool {
    schema["x-kubernetes-preserve-unknown-fields"] == true || schema["x-kubernetes-int-or-string"] == true
}

fn has_type(value: &Value, expected: &str) -> bool {
    match expected {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => {
            value.is_i64()
                || value.is_u64()
                || value.as_f64().is_some_and(|number| number.fract() == 0.0 && number.abs() < 1e15)
        }
        "number" => value.is_number(),
        _ => true,
    }
}

fn described(expected: &str) -> &str {
    match expected {
        "object" => "a mapping",
        "array" => "a list",
        "string" => "a text",
        "boolean" => "true or false",
        "integer" => "a whole number",
        "number" => "a number",
        other => other,
    }
}

/// The type of a value. The value itself is not shown: it may be a password in the wrong place.
fn found(value: &Value) -> &'static str {
    match value {
        Value::Null => "empty",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}

fn remedy(value: &Value, expected: &str) -> &'static str {
    match (expected, value) {
        ("string", Value::Number(_) | Value::Bool(_)) => "put it in quotes",
        ("array", Value::String(_) | Value::Object(_)) => "begin it with `- `",
        ("integer" | "number" | "boolean", Value::String(_)) => "write it without quotes",
        ("object", _) => "write its fields below it, one on each line",
        ("boolean", _) => "write true or false",
        ("integer" | "number", _) => "write a number",
        ("array", _) => "write its entries below it, each after `- `",
        _ => "write a text",
    }
}

/// The emptiest value of a type, so that an object with a mistake still deserializes. Null where
/// the field may be absent.
fn placeholder(schema: &Value) -> Value {
    match schema["type"].as_str() {
        Some("string") => match schema["enum"][0].as_str() {
            Some(first) => first.into(),
            None => "".into(),
        },
        Some("array") => Value::Array(Vec::new()),
        Some("boolean") => false.into(),
        Some("integer" | "number") => schema["minimum"].as_i64().unwrap_or_default().into(),
        _ => {
            let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
            Value::Object(required.map(|name| (name.to_owned(), placeholder(&schema["properties"][name]))).collect())
        }
    }
}
