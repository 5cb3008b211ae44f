//! Docker's moments (`2026-11-22T23:24:05.123456789Z`) as milliseconds.

/// Milliseconds since 1970; `None` for what is no moment, and for the year 1, which is how Docker says "never".
pub(super) fn milliseconds(text: &str) -> Option<i64> {
    let text = text.strip_suffix('Z').or_else(|| text.strip_suffix("+00:00"))?;
    let (date, clock) = text.split_once('T')?;
    let mut date = date.split('-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, ""));
    let mut clock = clock.split(':').map(|part| part.parse::<i64>().ok());
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    if year < 1970 || !(1..=12).contains(&month) || !(1..=31).contains(&day) || !fraction.is_ascii() {
        return None;
    }
    // Days since 1970-01-01, counted in years that begin in March, so that the leap day is a year's last.
    let from_march = (month + 9) % 12;
    let years = if month <= 2 { year - 1 } else { year };
    let days = 365 * years + years / 4 - years / 100 + years / 400 + (from_march * 306 + 5) / 10 + day - 1 - 719_468;
    let milliseconds: i64 = format!("{fraction:0<3}").get(..3)?.parse().ok()?;
    Some((((days * 24 + hour) * 60 + minute) * 60 + second) * 1000 + milliseconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_date_has_them() {
        // date -u -d … +%s
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T12:00:00Z", 951_825_600),
            ("2024-12-31T23:59:59Z", 1_735_689_599),
            ("2026-11-22T23:24:05Z", 1_795_389_845),
            ("2100-03-01T00:00:00Z", 4_107_542_400),
        ] {
            assert_eq!(milliseconds(text), Some(seconds * 1000), "{text}");
        }
        assert_eq!(milliseconds("2026-11-22T23:24:05.5Z"), Some(1_795_389_845_500));
        assert_eq!(milliseconds("2026-11-22T23:24:05.123456789Z"), Some(1_795_389_845_123));
        for text in ["0001-01-01T00:00:00Z", "", "now", "2026-11-22T23:24Z", "2026-13-01T00:00:00Z"] {
            assert_eq!(milliseconds(text), None, "{text}");
        }
    }
}
