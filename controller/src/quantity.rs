//! Durations and shares, as Istio writes them.

use std::time::Duration;

use crate::diagnostic::{Code, Problem};

/// The longest duration in nanoseconds, a hundred years: far below what overflows in Envoy or
/// Istio.
const LONGEST: u128 = 100 * 366 * 24 * 3_600_000_000_000;

/// Reads a duration in the syntax of Go, which Istio and Aeraki use: `300ms`, `1.5s`, `1m30s`.
pub fn duration(text: &str) -> Result<Duration, Problem> {
    let remedy = "write a number with a unit, such as `500ms`, `5s` or `1m30s`";
    let wrong = || Problem::new(Code::InvalidDuration, format!("`{text}` is not a duration"), remedy);
    let too_long = || {
        Problem::new(
            Code::InvalidDuration,
            format!("`{text}` is too long a time"),
            "write a time below a hundred years",
        )
    };
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if text.is_empty() {
        return Err(wrong());
    }
    let mut rest = text;
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let (number, after) = rest.split_at(digits);
        let unit_length = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_length);
        let nanoseconds: u128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return Err(wrong()),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
            return Err(wrong());
        }
        let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| too_long())? };
        total = whole.checked_mul(nanoseconds).and_then(|part| total.checked_add(part)).ok_or_else(too_long)?;
        let mut scale = nanoseconds;
        for digit in fraction.bytes() {
            scale /= 10;
            total += u128::from(digit - b'0') * scale;
        }
        rest = after;
        if total > LONGEST {
            return Err(too_long());
        }
    }
    Ok(Duration::new((total / 1_000_000_000) as u64, (total % 1_000_000_000) as u32))
}

/// A duration in Envoy's JSON: seconds with as many decimals as are needed.
pub fn seconds(duration: Duration) -> String {
    let nanoseconds = format!("{:09}", duration.subsec_nanos());
    match nanoseconds.trim_end_matches('0') {
        "" => format!("{}s", duration.as_secs()),
        fraction => format!("{}.{fraction}s", duration.as_secs()),
    }
}

/// Converts percent to parts per million. A share above zero never becomes zero.
pub fn per_million(percent: f64) -> Result<u32, Problem> {
    if !(0.0..=100.0).contains(&percent) {
        let message = format!("{percent} is not a percentage");
        return Err(Problem::new(Code::InvalidPercentage, message, "write a number from 0 to 100"));
    }
    let rounded = (percent * 10_000.0).round() as u32;
    Ok(if percent > 0.0 { rounded.max(1) } else { 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<Duration> {
        duration(text).ok()
    }

    #[test]
    fn durations() {
        for (text, milliseconds) in [
            ("5s", 5_000),
            ("0.5s", 500),
            (".5s", 500),
            ("1m30s", 90_000),
            ("1h", 3_600_000),
            ("300ms", 300),
            ("1.s", 1_000),
            ("0", 0),
            ("0s", 0),
            ("1500us", 1),
        ] {
            assert_eq!(read(text).map(|d| d.as_millis()), Some(milliseconds), "{text}");
        }
        assert_eq!(read("1.5us"), Some(Duration::from_nanos(1500)));
        for text in
            ["", "5", "s", "5 s", "-5s", "5x", "1.2.3s", ".s", "5s5", "99999999999999999999h", "1e3s", "999999999h"]
        {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn seconds_for_envoy() {
        for (text, expected) in
            [("5s", "5s"), ("200ms", "0.2s"), ("1m0.05s", "60.05s"), ("1ns", "0.000000001s"), ("0", "0s")]
        {
            assert_eq!(read(text).map(seconds).as_deref(), Some(expected));
        }
    }

    #[test]
    fn percentages() {
        for (percent, expected) in
            [(0.0, 0), (100.0, 1_000_000), (50.0, 500_000), (0.1, 1_000), (33.3333, 333_333), (1e-9, 1)]
        {
            assert_eq!(per_million(percent), Ok(expected));
        }
        for percent in [-0.1, 100.1, f64::NAN, f64::INFINITY] {
            assert!(per_million(percent).is_err());
        }
    }
}
