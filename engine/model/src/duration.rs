//! Durations and sizes as people write them.

use std::time::Duration;

/// Reads `90s`, `5m`, `1h30m`, `250ms`, `2d`, or a bare number of seconds.
///
/// # Errors
/// What was expected instead.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let expected = || {
        format!(
            "`{text}` is not a duration; write a number with ms, s, m, h or d, such as `90s` or `1h30m`"
        )
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
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{bytes} B")
    } else {
        format!("{value:.1} {}", UNITS[unit])
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
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_bytes("500MiB").unwrap(), 500 << 20);
        assert_eq!(parse_bytes("2 GB").unwrap(), 2_000_000_000);
        assert_eq!(parse_bytes("1.5G").unwrap(), 3 << 29);
        assert!(parse_bytes("lots").is_err());
        assert_eq!(format_bytes(1536), "1.5 KiB");
    }

    #[test]
    fn seconds_read_well() {
        assert_eq!(format_seconds(0.008), "8 ms");
        assert_eq!(format_seconds(185.0), "3m 05s");
        assert_eq!(format_seconds(7440.0), "2h 04m");
    }
}
