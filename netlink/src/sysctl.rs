//! Settings under /proc/sys/net, written only where they differ.
//!
//! /proc/sys/net shows the network namespace of the thread that looks. For another namespace, run these inside
//! [`crate::namespace::run_in`].

use std::{fs, path::PathBuf};

use crate::{Error, link::check_name};

/// The family a setting belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// /proc/sys/net/ipv4
    Ipv4,
    /// /proc/sys/net/ipv6
    Ipv6,
}

impl Family {
    fn name(self) -> &'static str {
        match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        }
    }
}

/// One setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Setting<'a> {
    /// `net/<family>/<name>`, such as `ip_forward`.
    Global(Family, &'a str),
    /// `net/<family>/conf/<interface>/<name>`: `proxy_arp`, `proxy_arp_pvlan`, `send_redirects`, `forwarding`, `rp_filter`.
    Interface(Family, &'a str, &'a str),
    /// `net/<family>/neigh/<interface>/<name>`: `proxy_delay`.
    Neighbour(Family, &'a str, &'a str),
}

impl Setting<'_> {
    fn path(&self) -> Result<PathBuf, Error> {
        let mut path = PathBuf::from("/proc/sys/net");
        let name = match self {
            Self::Global(family, name) => {
                path.push(family.name());
                name
            }
            Self::Interface(family, interface, name) => {
                check_name(interface)?;
                path.extend([family.name(), "conf", interface]);
                name
            }
            Self::Neighbour(family, interface, name) => {
                check_name(interface)?;
                path.extend([family.name(), "neigh", interface]);
                name
            }
        };
        // A name is a file or, as `route/flush`, one below; it does not lead elsewhere.
        if name.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
            return Err(Error::InvalidName { name: (*name).to_owned() });
        }
        path.push(name);
        Ok(path)
    }

    /// The value, without the line's end.
    pub fn read(&self) -> Result<String, Error> {
        let path = self.path()?;
        let text = fs::read_to_string(&path).map_err(|source| Error::Sysctl {
            action: "read",
            path: path.display().to_string(),
            source,
        })?;
        Ok(text.trim_end().to_owned())
    }

    /// Writes the value unless it is there; whether it was written.
    ///
    /// # Errors
    /// [`Error::Sysctl`]: the interface or the setting is not there, or /proc/sys is mounted read-only.
    pub fn ensure(&self, value: &str) -> Result<bool, Error> {
        let before = self.read()?;
        if before == value {
            return Ok(false);
        }
        let path = self.path()?;
        fs::write(&path, value).map_err(|source| Error::Sysctl {
            action: "write",
            path: path.display().to_string(),
            source,
        })?;
        tracing::info!(path = %path.display(), before, value, "kernel setting changed");
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_where_they_belong() {
        let setting = Setting::Interface(Family::Ipv4, "stampede0", "proxy_arp_pvlan");
        assert_eq!(setting.path().unwrap().to_str(), Some("/proc/sys/net/ipv4/conf/stampede0/proxy_arp_pvlan"));
        assert!(Setting::Interface(Family::Ipv4, "../all", "proxy_arp").path().is_err());
        assert!(Setting::Global(Family::Ipv4, "../../kernel/panic").path().is_err());
        // An interface name may hold a dot; the path keeps it.
        assert!(Setting::Neighbour(Family::Ipv6, "eth0.7", "proxy_delay").path().is_ok());
    }
}
