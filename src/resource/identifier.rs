//! Ids on the wire: `1`, the initials of the base type in lower case, the number: `1i54`, `1il3`, `1ia9`.

/// The initials of a base type: its first letter and each capital after it, in lower case.
pub fn initials(base: &str) -> String {
    base.chars()
        .enumerate()
        .filter(|(at, letter)| *at == 0 || letter.is_ascii_uppercase())
        .map(|(_, letter)| letter.to_ascii_lowercase())
        .collect()
}

/// `format("instance", 54)` is `1i54`.
pub fn format(base: &str, id: u64) -> String {
    format!("1{}{id}", initials(base))
}

/// The number of an id of `base`; `None` where it is not one (a plain number is none).
pub fn parse(base: &str, text: &str) -> Option<u64> {
    let number = text.strip_prefix('1')?.strip_prefix(initials(base).as_str())?;
    // Only digits: "+5" and "05" are no ids.
    if number.starts_with('0') || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    number.parse().ok()
}

/// The id of an instance as its unit, claim and labels carry it.
pub fn instance(id: u64) -> String {
    format("instance", id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_the_contract_has_them() {
        assert_eq!(format("instance", 54), "1i54");
        assert_eq!(format("instanceLink", 3), "1il3");
        assert_eq!(format("ipAddress", 9), "1ia9");
        assert_eq!(parse("instance", "1i54"), Some(54));
        for text in ["54", "1il54", "1i", "1i-4", "1i054", "", "2i54", "1i99999999999999999999999"] {
            assert_eq!(parse("instance", text), None, "{text}");
        }
    }
}
