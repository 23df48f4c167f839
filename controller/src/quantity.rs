//! Durations and shares as Istio writes them.

use std::time::Duration;

/// Parses Go's duration syntax, which Istio and Aeraki use: `300ms`, `1.5s`, `1m30s`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a duration; write a number with a unit, such as `500ms`, `5s` or `1m30s`");
    if text == "0" {
        return Ok(Duration::ZERO);
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
        let too_long = || format!("`{text}` is too long a time");
        let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| too_long())? };
        total = whole.checked_mul(nanoseconds).and_then(|part| total.checked_add(part)).ok_or_else(too_long)?;
        let mut scale = nanoseconds;
        for digit in fraction.bytes() {
            scale /= 10;
            total += u128::from(digit - b'0') * scale;
        }
        rest = after;
        // A hundred years: far below what any of our consumers would overflow at.
        if total > 100 * 366 * 24 * 3_600_000_000_000 {
            return Err(too_long());
        }
    }
    if text.is_empty() {
        return Err(wrong());
    }
    Ok(Duration::new((total / 1_000_000_000) as u64, (total % 1_000_000_000) as u32))
}

/// As Envoy's JSON wants it: seconds, with as many decimals as it takes.
pub fn seconds(duration: Duration) -> String {
    let nanoseconds = format!("{:09}", duration.subsec_nanos());
    match nanoseconds.trim_end_matches('0') {
        "" => format!("{}s", duration.as_secs()),
        fraction => format!("{}.{fraction}s", duration.as_secs()),
    }
}

/// Percent to parts per million. A share above zero never becomes zero.
pub fn per_million(percent: f64) -> Result<u32, String> {
    if !(0.0..=100.0).contains(&percent) {
        return Err(format!("{percent} is not a percentage; write a number from 0 to 100"));
    }
    let rounded = (percent * 10_000.0).round() as u32;
    Ok(if percent > 0.0 { rounded.max(1) } else { 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

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
            assert_eq!(duration(text).map(|d| d.as_millis()), Ok(milliseconds), "{text}");
        }
        assert_eq!(duration("1.5us"), Ok(Duration::from_nanos(1500)));
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
            assert_eq!(duration(text).map(seconds).as_deref(), Ok(expected));
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
