//! Durations and sizes as people write them.

use std::time::Duration;

/// Reads `90s`, `5m`, `1h30m`, `250ms`, `2d`, or a bare number of seconds.
///
/// # Errors
/// What was expected instead.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let expected = || match in_units(text) {
        Some(meant) => format!("`{text}` is not a duration; write `{meant}`"),
        None => format!(
            "`{text}` is not a duration; write a number with ms, s, m, h or d, such as `90s` or `1h30m`"
        ),
    };
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(expected());
    }
    let mut total = 0.0_f64;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !(c.is_ascii_digit() || c == '.'))
            .unwrap_or(rest.len());
        let number: f64 = rest[..digits].parse().map_err(|_| expected())?;
        let after = &rest[digits..];
        let letters = after
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(after.len());
        let unit = match &after[..letters] {
            "ms" => 0.001,
            "s" | "" => 1.0,
            "m" | "min" => 60.0,
            "h" => 3600.0,
            "d" => 86400.0,
            _ => return Err(expected()),
        };
        total += number * unit;
        rest = after[letters..].trim_start();
    }
    Duration::try_from_secs_f64(total).map_err(|_| expected())
}

/// A duration whose units are written out, such as `5 minutes`, with those that [`parse_duration`] knows; nothing where it is none.
fn in_units(text: &str) -> Option<String> {
    let text = text.to_lowercase();
    let mut rest = text.trim();
    let mut out = String::new();
    while !rest.is_empty() {
        let at = rest.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
        let (number, after) = rest.split_at(at);
        number.parse::<f64>().ok()?;
        let after = after.trim_start();
        let end = after.find(|c: char| !c.is_ascii_alphabetic());
        let (word, further) = after.split_at(end.unwrap_or(after.len()));
        let unit = match word {
            "ms" | "msec" | "msecs" | "millisecond" | "milliseconds" => "ms",
            "s" | "sec" | "secs" | "second" | "seconds" => "s",
            "m" | "min" | "mins" | "minute" | "minutes" => "m",
            "h" | "hr" | "hrs" | "hour" | "hours" => "h",
            "d" | "day" | "days" => "d",
            _ => return None,
        };
        out.push_str(number);
        out.push_str(unit);
        rest = further.trim_start_matches([' ', ',']);
    }
    (!out.is_empty()).then_some(out)
}

/// Reads `500MiB`, `2GB`, `1024`, `1.5G` into bytes. `K`, `M`, `G`, `T` and `KiB`... are powers of 1024, `kB`, `MB`... of 1000.
///
/// # Errors
/// What was expected instead.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let expected = || {
        format!(
            "`{text}` is not a size; write a number of bytes or one with KiB, MiB, GiB, kB, MB or GB"
        )
    };
    let text_trimmed = text.trim();
    let digits = text_trimmed
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .unwrap_or(text_trimmed.len());
    let number: f64 = text_trimmed[..digits].parse().map_err(|_| expected())?;
    let factor: f64 = match text_trimmed[digits..].trim() {
        "" | "B" => 1.0,
        "K" | "k" | "Ki" | "KiB" => 1024.0,
        "M" | "Mi" | "MiB" => 1024.0_f64.powi(2),
        "G" | "Gi" | "GiB" => 1024.0_f64.powi(3),
        "T" | "Ti" | "TiB" => 1024.0_f64.powi(4),
        "kB" | "KB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        "TB" => 1e12,
        _ => return Err(expected()),
    };
    let bytes = number * factor;
    if bytes >= 0.0 && bytes < u64::MAX as f64 {
        Ok(bytes.round() as u64)
    } else {
        Err(expected())
    }
}

/// Bytes for people: `0 B`, `1.5 KiB`, `2.0 GiB`.
pub fn format_bytes(bytes: u64) -> String {
    in_unit(bytes, unit(bytes))
}

/// Several sizes that are to be compared, all in the unit of the smallest that has one.
pub fn format_bytes_alike<const N: usize>(sizes: [u64; N]) -> [String; N] {
    let smallest = sizes.iter().filter(|bytes| **bytes >= 1024).min();
    let unit = smallest.map_or(0, |bytes| unit(*bytes));
    sizes.map(|bytes| in_unit(bytes, unit))
}

const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

/// The largest unit of which there is one at least.
fn unit(bytes: u64) -> usize {
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    unit
}

fn in_unit(bytes: u64, unit: usize) -> String {
    match unit {
        0 => format!("{bytes} B"),
        _ => {
            let value = (0..unit).fold(bytes as f64, |value, _| value / 1024.0);
            format!("{value:.1} {}", UNITS[unit])
        }
    }
}

/// Seconds for people: `8 ms`, `1.2 s`, `3m 05s`, `2h 04m`.
pub fn format_seconds(seconds: f64) -> String {
    if seconds < 0.9995 {
        format!("{:.0} ms", seconds * 1e3)
    } else if seconds < 60.0 {
        format!("{seconds:.1} s")
    } else if seconds < 3600.0 {
        let whole = seconds.round() as u64;
        format!("{}m {:02}s", whole / 60, whole % 60)
    } else {
        let minutes = (seconds / 60.0).round() as u64;
        format!("{}h {:02}m", minutes / 60, minutes % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(parse_duration("1h30m").unwrap(), Duration::from_secs(5400));
        assert_eq!(parse_duration("250ms").unwrap(), Duration::from_millis(250));
        assert_eq!(parse_duration("20").unwrap(), Duration::from_secs(20));
        for bad in ["", "5 parsecs", "-1s", "1e400", "."] {
            let said = parse_duration(bad).unwrap_err();
            assert!(said.ends_with("such as `90s` or `1h30m`"), "{said}");
        }
        for (bad, meant) in [
            ("5 minutes", "5m"),
            ("1 Hour, 30 mins", "1h30m"),
            ("0.5days", "0.5d"),
            ("2 hr", "2h"),
        ] {
            let said = parse_duration(bad).unwrap_err();
            assert!(said.ends_with(&format!("; write `{meant}`")), "{said}");
            assert!(parse_duration(meant).is_ok());
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_bytes("500MiB").unwrap(), 500 << 20);
        assert_eq!(parse_bytes("2 GB").unwrap(), 2_000_000_000);
        assert_eq!(parse_bytes("1.5G").unwrap(), 3 << 29);
        assert!(parse_bytes("lots").is_err());
        assert_eq!(format_bytes(1536), "1.5 KiB");
        assert_eq!(
            format_bytes_alike([500 << 20, 3 << 30]),
            ["500.0 MiB", "3072.0 MiB"]
        );
        assert_eq!(format_bytes_alike([1 << 30, 0]), ["1.0 GiB", "0.0 GiB"]);
        assert_eq!(format_bytes_alike([12, 3]), ["12 B", "3 B"]);
    }

    #[test]
    fn seconds_read_well() {
        assert_eq!(format_seconds(0.008), "8 ms");
        assert_eq!(format_seconds(185.0), "3m 05s");
        assert_eq!(format_seconds(7440.0), "2h 04m");
    }
}
