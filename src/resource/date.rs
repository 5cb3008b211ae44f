//! Dates on the wire: UTC, to the second: `2014-03-04T22:27:42Z`.

use crate::environment::Timestamp;

const DAY: i64 = 86_400_000;

/// As on the wire; the part below a second is cut off.
pub fn format(moment: Timestamp) -> String {
    let (days, rest) = (moment.0.div_euclid(DAY), moment.0.rem_euclid(DAY) / 1000);
    let (year, month, day) = civil(days);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

/// Reads `2014-03-04T22:27:42Z`, also with a fraction of a second, an offset (`+01:00`) or a blank for the `T`; a date
/// alone is its midnight.
pub fn parse(text: &str) -> Option<Timestamp> {
    let text = text.trim();
    let (date, time) = match text.find(['T', 't', ' ']) {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => (text, "00:00:00Z"),
    };
    let [year, month, day] = numbers(date, '-')?;
    if date.len() != 10 || !(1..=12).contains(&month) || !(1..=length(year, month)).contains(&day) {
        return None;
    }
    let (time, offset) = split_offset(time)?;
    let (whole, fraction) = time.split_once('.').unwrap_or((time, ""));
    let [hour, minute, second] = numbers(whole, ':')?;
    if hour > 23 || minute > 59 || second > 60 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let millis = fraction.bytes().chain(*b"000").take(3).fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0'));
    let seconds = hour * 3600 + minute * 60 + second - offset * 60;
    Some(Timestamp(days(year, month, day) * DAY + seconds * 1000 + millis))
}

/// A time and its offset from UTC in minutes.
fn split_offset(time: &str) -> Option<(&str, i64)> {
    if let Some(time) = time.strip_suffix(['Z', 'z']) {
        return Some((time, 0));
    }
    let Some(at) = time.find(['+', '-']) else { return Some((time, 0)) };
    let (time, offset) = time.split_at(at);
    let sign = if offset.starts_with('-') { -1 } else { 1 };
    let digits: String = offset.chars().filter(char::is_ascii_digit).collect();
    if digits.len() != 4 {
        return None;
    }
    let (hours, minutes) = digits.split_at(2);
    Some((time, sign * (hours.parse::<i64>().ok()? * 60 + minutes.parse::<i64>().ok()?)))
}

fn numbers(text: &str, separator: char) -> Option<[i64; 3]> {
    let mut parts = text.split(separator).map(|part| {
        let digits = !part.is_empty() && part.len() <= 4 && part.bytes().all(|byte| byte.is_ascii_digit());
        part.parse().ok().filter(|_| digits)
    });
    let found = [parts.next()??, parts.next()??, parts.next()??];
    parts.next().is_none().then_some(found)
}

const fn leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

const fn length(year: i64, month: i64) -> i64 {
    match month {
        2 if leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 of a date (the era method: years begin in March, so that leap days come last).
const fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// The date of a number of days since 1970-01-01.
const fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + if month <= 2 { 1 } else { 0 };
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn as_the_contract_has_them() {
        assert_eq!(format(Timestamp(1_393_972_062_000)), "2014-03-04T22:27:42Z");
        assert_eq!(parse("2014-03-04T22:27:42Z"), Some(Timestamp(1_393_972_062_000)));
        assert_eq!(parse("2014-03-04 23:27:42.5+01:00"), Some(Timestamp(1_393_972_062_500)));
        assert_eq!(parse("1970-01-01"), Some(Timestamp(0)));
        for text in ["", "today", "2014-02-29", "2014-13-01", "2014-1-1", "2014-03-04T25:00:00Z", "2014-03-04T", "é"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn written_and_read_it_is_the_same(seconds in -62_135_596_800_i64..253_402_300_800) {
            prop_assert_eq!(parse(&format(Timestamp(seconds * 1000))), Some(Timestamp(seconds * 1000)));
        }

        #[test]
        fn nothing_breaks_it(text in "\\PC{0,30}") {
            let _ = parse(&text);
        }
    }
}
