//! YAML 1.2's core schema: which plain scalars are null, booleans and numbers. Every value keeps its spelling.

use dagrun_model::Value;

/// The value of a plain scalar.
///
/// Everything that is not exactly one of the core schema's forms is a string, so `no`, `12:30:00` and `1_000` are what
/// they look like. A number beyond 64 bits is a float, and one beyond floats stays a string.
pub(crate) fn core_schema(text: &str) -> Value {
    let typed = match text {
        "" | "~" | "null" | "Null" | "NULL" => Some(Value::Null),
        "true" | "True" | "TRUE" => Some(Value::Bool(true)),
        "false" | "False" | "FALSE" => Some(Value::Bool(false)),
        _ => number(text),
    };
    match typed {
        Some(value) => Value::spelled(value, text),
        None => Value::str(text),
    }
}

fn number(text: &str) -> Option<Value> {
    let first = *text.as_bytes().first()?;
    if !(first.is_ascii_digit() || matches!(first, b'-' | b'+' | b'.')) {
        return None;
    }
    if let Some(hex) = text.strip_prefix("0x") {
        return radix(hex, 16);
    }
    if let Some(octal) = text.strip_prefix("0o") {
        return radix(octal, 8);
    }
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    match digits {
        ".inf" | ".Inf" | ".INF" => {
            let sign = if first == b'-' { -1.0 } else { 1.0 };
            return Some(Value::Float(sign * f64::INFINITY));
        }
        ".nan" | ".NaN" | ".NAN" if digits.len() == text.len() => {
            return Some(Value::Float(f64::NAN));
        }
        _ => {}
    }
    if digits.bytes().all(|b| b.is_ascii_digit()) && !digits.is_empty() {
        if let Ok(int) = text.parse() {
            return Some(Value::Int(int));
        }
    } else if !is_float(digits) {
        return None;
    }
    let float: f64 = text.parse().ok()?;
    float.is_finite().then_some(Value::Float(float))
}

fn radix(digits: &str, radix: u32) -> Option<Value> {
    let plain = !digits.is_empty() && digits.bytes().all(|b| (b as char).is_digit(radix));
    let int = plain.then(|| i64::from_str_radix(digits, radix).ok())??;
    Some(Value::Int(int))
}

/// `(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`
fn is_float(text: &str) -> bool {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (text, None),
    };
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    let exponent_ok = exponent.is_none_or(|e| {
        let e = e.strip_prefix(['-', '+']).unwrap_or(e);
        !e.is_empty() && digits(e)
    });
    let mantissa_ok = match mantissa.split_once('.') {
        Some((whole, fraction)) => {
            digits(whole) && digits(fraction) && !(whole.is_empty() && fraction.is_empty())
        }
        None => !mantissa.is_empty() && digits(mantissa),
    };
    exponent_ok && mantissa_ok
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, type_name: &str) {
        let value = core_schema(text);
        assert_eq!(value.type_name(), type_name, "{text}");
        assert_eq!(value.to_text(), if text.is_empty() { "" } else { text });
    }

    #[test]
    fn scalars_are_what_they_look_like() {
        for text in [
            "no",
            "yes",
            "on",
            "off",
            "y",
            "n",
            "12:30:00",
            "1_000",
            "1e400",
            "-1e400",
            "0b11",
            "+",
            "-",
            ".",
            "e5",
            "1e",
            "0x",
            "0xZZ",
            "infinity",
            "nan",
            "-.nan",
            "1.2.3",
            "2024-01-01",
            "tRUE",
            "0o9",
            "inf",
            "+0x1F",
            "١",
        ] {
            check(text, "string");
        }
        for text in ["0", "3", "-3", "+3", "012", "08", "0x1F", "0o17", "-0"] {
            check(text, "integer");
        }
        for text in [
            "3.10",
            "1e3",
            "1E-3",
            ".5",
            "5.",
            "-.5",
            "+1.0",
            ".inf",
            "-.INF",
            ".nan",
            "18446744073709551616",
        ] {
            check(text, "float");
        }
        for text in ["", "~", "null", "Null"] {
            check(text, "null");
        }
        for text in ["true", "False", "TRUE"] {
            check(text, "boolean");
        }
    }

    #[test]
    fn values_are_read_in_full() {
        assert_eq!(core_schema("0x1F"), Value::Int(31));
        assert_eq!(core_schema("0o17"), Value::Int(15));
        assert_eq!(core_schema("012"), Value::Int(12));
        assert_eq!(core_schema("+3"), Value::Int(3));
        assert_eq!(core_schema("-9223372036854775808"), Value::Int(i64::MIN));
    }
}
