//! Spans of time as people write them: `90s`, `30m`, `1h`, `7d`.

use std::time::Duration;

/// For clap.
pub fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no span of time: 90s, 30m, 1h, 7d");
    let split = text.find(|letter: char| !letter.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        _ => return Err(wrong()),
    };
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans() {
        for (text, seconds) in [("90s", 90), ("30m", 1800), ("1h", 3600), ("7d", 604_800)] {
            assert_eq!(parse(text), Ok(Duration::from_secs(seconds)));
        }
        for text in ["", "5", "h", "1y", "-1h", "1.5h", "99999999999999999999s", "99999999999999999d"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
