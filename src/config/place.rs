//! Where to listen, as `-l` says it: a host with or without a port, or the path of a unix socket.
//!
//! Only the form is checked here: whether a name is known, or a path can be used, shows when it is listened on. Invariant: a
//! path is absolute, so that it does not matter later where the process stands.

use std::fmt;
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::str::FromStr;

/// One `-l`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// `HOST`, `HOST:PORT`, or an IPv6 address, which is in brackets when a port follows.
    Host {
        /// A name or an address, without brackets.
        host: String,
        /// `None`: that of `-p`.
        port: Option<u16>,
    },
    /// Anything with a slash, or `unix:PATH`.
    Unix(PathBuf),
}

impl Place {
    /// The host without the port. `None`: it has none.
    pub fn without_port(&self) -> Option<Place> {
        match self {
            Place::Host { host, .. } => Some(Place::Host { host: host.clone(), port: None }),
            Place::Unix(_) => None,
        }
    }
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Place, String> {
        let path = text.strip_prefix("unix:");
        if path.is_some() || text.contains('/') {
            return match path.unwrap_or(text) {
                "" => Err("the path is missing".into()),
                path => std::path::absolute(path).map(Place::Unix).map_err(|error| error.to_string()),
            };
        }
        let (host, port) = match (text.strip_prefix('['), text.matches(':').count()) {
            (Some(rest), _) => {
                let (host, port) = rest.split_once(']').ok_or("the `]` is missing")?;
                check_ipv6(host)?;
                let port = match port {
                    "" => None,
                    port => Some(port.strip_prefix(':').ok_or("after `]` comes :PORT")?),
                };
                (host, port)
            }
            (None, 0) => (text, None),
            (None, 1) => text.split_once(':').map(|(host, port)| (host, Some(port))).expect("counted"),
            (None, _) => {
                check_ipv6(text)?;
                (text, None)
            }
        };
        if host.is_empty() {
            return Err("the host is missing; all addresses are [::], all of IPv4 0.0.0.0".into());
        }
        let port = port.map(|port| port.parse().map_err(|_| format!("`{port}` is no port, which is from 0 to 65535")));
        Ok(Place::Host { host: host.into(), port: port.transpose()? })
    }
}

/// An address of the link may end with its interface: `fe80::1%eth0`.
fn check_ipv6(host: &str) -> Result<(), String> {
    let address = host.split_once('%').map_or(host, |(address, _)| address);
    match address.parse::<Ipv6Addr>() {
        Ok(_) => Ok(()),
        Err(_) => Err(format!("`{host}` is no IPv6 address; allowed are HOST, HOST:PORT, [IPV6]:PORT and a path")),
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Host { host, port: None } => f.write_str(host),
            Place::Host { host, port: Some(port) } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Place::Host { host, port: Some(port) } => write!(f, "{host}:{port}"),
            Place::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_ports_and_paths_are_told_apart() {
        for (text, host, port) in [
            ("127.0.0.1", "127.0.0.1", None),
            ("127.0.0.1:80", "127.0.0.1", Some(80)),
            ("mq.example:0", "mq.example", Some(0)),
            ("localhost", "localhost", None),
            ("::1", "::1", None),
            ("[::1]", "::1", None),
            ("[::1]:80", "::1", Some(80)),
            ("fe80::1%eth0", "fe80::1%eth0", None),
            ("[fe80::1%eth0]:65535", "fe80::1%eth0", Some(65535)),
        ] {
            assert_eq!(text.parse(), Ok(Place::Host { host: host.into(), port }), "{text}");
        }
        for (text, path) in [("/run/q", "/run/q"), ("unix:/run/q", "/run/q"), ("/run/a:80", "/run/a:80")] {
            assert_eq!(text.parse(), Ok(Place::Unix(path.into())), "{text}");
        }
        for (text, end) in [("./q", "/q"), ("a/q", "/a/q"), ("unix:q", "/q")] {
            let Ok(Place::Unix(path)) = text.parse::<Place>() else { panic!("{text} is a path") };
            assert!(path.is_absolute() && path.to_str().unwrap().ends_with(end), "{text}: {path:?}");
        }
    }

    #[test]
    fn garbage_is_refused_with_its_reason() {
        for (text, reason) in [
            ("", "host"),
            (":80", "host"),
            ("unix:", "path"),
            ("h:", "port"),
            ("h:port", "port"),
            ("h:65536", "65536"),
            ("h:-1", "-1"),
            ("1:2:3", "IPv6"),
            ("[::1", "]"),
            ("[::1]80", ":PORT"),
            ("[h]:80", "IPv6"),
            ("[]:80", "IPv6"),
        ] {
            let error = text.parse::<Place>().expect_err(text);
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn what_is_shown_can_be_given_again() {
        for text in ["h", "h:1", "::1", "[::1]:1", "unix:/run/q"] {
            assert_eq!(text.parse::<Place>().unwrap().to_string(), text);
        }
    }
}
