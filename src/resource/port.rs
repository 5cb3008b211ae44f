//! Published ports as clients write them: `[public:]private[/protocol]`.

use super::validation::{Invalid, InvalidCode};

/// One of an instance's ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// On the host; chosen by the cluster where absent.
    pub public: Option<u16>,
    pub private: u16,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
}

impl Port {
    /// Reads `80`, `8080:80`, `53:53/udp`.
    ///
    /// # Errors
    /// Says which part is wrong, with the contract's code.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let invalid = |code, what: &str| {
            Invalid::new(code, "ports", format!("{text:?}: {what}; write [public:]private[/tcp or /udp], like 8080:80"))
        };
        let (numbers, protocol) = text.trim().split_once('/').unwrap_or((text.trim(), "tcp"));
        let (public, private) = match numbers.split_once(':') {
            Some((public, private)) => (Some(public), private),
            None => (None, numbers),
        };
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(private) || public.is_some_and(|public| !digits(public)) {
            return Err(invalid(InvalidCode::PortWrongFormat, "that is not how a port is written"));
        }
        let number = |part: &str| part.parse::<u16>().ok().filter(|&port| port != 0);
        let protocol = match protocol {
            protocol if protocol.eq_ignore_ascii_case("tcp") => "tcp",
            protocol if protocol.eq_ignore_ascii_case("udp") => "udp",
            _ => return Err(invalid(InvalidCode::PortInvalidProtocol, "the protocol is tcp or udp")),
        };
        let private = number(private)
            .ok_or_else(|| invalid(InvalidCode::PortInvalidPrivatePort, "the private port is 1 to 65535"))?;
        let public = match public {
            None => None,
            Some(public) => Some(
                number(public)
                    .ok_or_else(|| invalid(InvalidCode::PortInvalidPublicPort, "the public port is 1 to 65535"))?,
            ),
        };
        Ok(Self { public, private, protocol })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_in_all_ways() {
        assert_eq!(Port::parse("80").unwrap(), Port { public: None, private: 80, protocol: "tcp" });
        assert_eq!(Port::parse("8080:80").unwrap(), Port { public: Some(8080), private: 80, protocol: "tcp" });
        assert_eq!(Port::parse("53:53/UDP").unwrap(), Port { public: Some(53), private: 53, protocol: "udp" });
        for (text, code) in [
            ("", InvalidCode::PortWrongFormat),
            ("a:80", InvalidCode::PortWrongFormat),
            ("1:2:3", InvalidCode::PortWrongFormat),
            ("-80", InvalidCode::PortWrongFormat),
            ("80/sctp", InvalidCode::PortInvalidProtocol),
            ("0", InvalidCode::PortInvalidPrivatePort),
            ("70000:80", InvalidCode::PortInvalidPublicPort),
        ] {
            assert_eq!(Port::parse(text).unwrap_err().code, code, "{text}");
        }
    }
}
