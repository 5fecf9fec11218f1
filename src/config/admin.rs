//! Where the admin listener is, as `--admin` says it.

use super::Place;
use std::fmt;
use std::str::FromStr;

/// `--admin`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Admin {
    /// There is none.
    Off,
    /// There.
    At {
        /// A name or an address, without brackets.
        host: String,
        /// 0: the system chooses.
        port: u16,
    },
}

impl Admin {
    /// Default port.
    pub const PORT: u16 = 22280;
    /// Default host: this machine alone.
    pub const HOST: &str = "127.0.0.1";
}

impl FromStr for Admin {
    type Err = String;

    fn from_str(text: &str) -> Result<Admin, String> {
        match text {
            "off" => Ok(Admin::Off),
            text => match text.parse()? {
                Place::Host { host, port } => Ok(Admin::At { host, port: port.unwrap_or(Admin::PORT) }),
                Place::Unix(_) => Err("allowed are HOST, HOST:PORT, [IPV6]:PORT and off".into()),
            },
        }
    }
}

impl fmt::Display for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Admin::Off => f.write_str("off"),
            Admin::At { host, port } => Place::Host { host: host.clone(), port: Some(*port) }.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn off_hosts_and_ports_are_told_apart() {
        for (text, shown) in
            [("off", "off"), ("h", "h:22280"), ("h:1", "h:1"), ("::1", "[::1]:22280"), ("[::1]:0", "[::1]:0")]
        {
            assert_eq!(text.parse::<Admin>().unwrap().to_string(), shown);
        }
        for text in ["", "/run/q", "h:x", "h:65536"] {
            assert!(text.parse::<Admin>().is_err(), "{text}");
        }
    }
}
