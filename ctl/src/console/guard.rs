//! Who is let in. The port is open to every user of this machine, and to every page that their browsers show.
//!
//! | who | what keeps them out |
//! |---|---|
//! | another host | the server listens on loopback addresses only |
//! | another user of this machine | the token: 128 random bits, in the URL that is printed, and in a cookie from then on |
//! | another site in the same browser | the cookie is `SameSite=Strict`; what changes anything must come from this origin |
//! | a site whose name is made to mean 127.0.0.1 (DNS rebinding) | `Host` must name a loopback address, or `localhost` |
//!
//! A cookie goes to all ports of its host: a browser shows it to whatever else is opened there. So one that listens on a
//! port of this machine and is visited in the same browser learns the token, as long as this process lives.

use std::net::{IpAddr, SocketAddr};

use hyper::http::request::Parts;
use hyper::http::uri::Authority;
use hyper::{HeaderMap, Method, header};

use crate::failure::Failure;

/// Bytes of the token.
const TOKEN_BYTES: usize = 16;
/// The port that `Host` leaves out.
const HTTP_PORT: u16 = 80;

/// What becomes of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// It is let in.
    In,
    /// It has the token in its URL: it is given the cookie.
    Welcome,
    /// It is not, with the reason.
    Out(&'static str),
}

/// What is compared with.
#[derive(Debug)]
pub(super) struct Guard {
    address: SocketAddr,
    token: String,
}

impl Guard {
    /// For a server at this address.
    pub(super) fn new(address: SocketAddr) -> Result<Guard, Failure> {
        let mut bytes = [0; TOKEN_BYTES];
        getrandom::fill(&mut bytes).map_err(|e| {
            Failure::local("internal", format!("the system gives no random bytes for a token: {e}"))
        })?;
        let token = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Guard { address, token })
    }

    /// What to open.
    pub(super) fn url(&self) -> String {
        format!("http://{}/?token={}", self.address, self.token)
    }

    /// The cookie that opens the door from then on, until the browser is closed.
    pub(super) fn cookie(&self) -> String {
        format!("{}={}; HttpOnly; SameSite=Strict; Path=/", self.cookie_name(), self.token)
    }

    /// With the port, so that two consoles do not take each other's cookie away.
    fn cookie_name(&self) -> String {
        format!("cairn-console-{}", self.address.port())
    }

    /// Decides by a request's head.
    pub(super) fn judge(&self, head: &Parts) -> Verdict {
        let Some(host) = self.host(&head.headers) else {
            return Verdict::Out(
                "This is not the console's address: open the URL that cairn console has printed.",
            );
        };
        let reads = matches!(head.method, Method::GET | Method::HEAD);
        if !reads && !from_here(&head.headers, host) {
            return Verdict::Out("Another page has sent this.");
        }
        if reads && head.uri.path() == "/" && self.has_token(head.uri.query().unwrap_or_default()) {
            return Verdict::Welcome;
        }
        if !self.has_cookie(&head.headers) {
            return Verdict::Out(
                "Open the URL that cairn console has printed, with the token in it: paste it where addresses are typed.",
            );
        }
        Verdict::In
    }

    /// What the browser takes this server for, if that is right.
    fn host<'a>(&self, headers: &'a HeaderMap) -> Option<&'a str> {
        let mut hosts = headers.get_all(header::HOST).iter();
        let (Some(host), None) = (hosts.next(), hosts.next()) else { return None };
        let host = host.to_str().ok()?;
        let authority: Authority = host.parse().ok()?;
        let name = authority.host();
        let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        let is_local = name.eq_ignore_ascii_case("localhost") || address.is_ok_and(|ip| ip.is_loopback());
        let port = authority.port_u16().unwrap_or(HTTP_PORT);
        (is_local && port == self.address.port()).then_some(host)
    }

    fn has_token(&self, query: &str) -> bool {
        query.split('&').filter_map(|pair| pair.strip_prefix("token=")).any(|token| self.is_token(token))
    }

    fn has_cookie(&self, headers: &HeaderMap) -> bool {
        let name = self.cookie_name();
        let cookies = headers.get_all(header::COOKIE).iter().filter_map(|cookies| cookies.to_str().ok());
        let mut pairs =
            cookies.flat_map(|cookies| cookies.split(';')).filter_map(|pair| pair.trim().split_once('='));
        pairs.any(|(key, value)| key == name && self.is_token(value))
    }

    /// Takes as long for one that is nearly right as for one that is not.
    fn is_token(&self, given: &str) -> bool {
        let differ = self.token.bytes().zip(given.bytes()).fold(0, |differ, (a, b)| differ | (a ^ b));
        given.len() == self.token.len() && differ == 0
    }
}

/// Whether what changes something was sent by the page itself, or by no page at all.
fn from_here(headers: &HeaderMap, host: &str) -> bool {
    let says = |name: &str, right: &dyn Fn(&str) -> bool| {
        headers.get_all(name).iter().all(|value| value.to_str().is_ok_and(right))
    };
    let own = format!("http://{host}");
    // Of a page that sends no referrers, some browsers call the origin "null"; then they must say it in the other way.
    let nameless = headers.contains_key("sec-fetch-site");
    says("origin", &|origin| origin.eq_ignore_ascii_case(&own) || nameless && origin == "null")
        && says("sec-fetch-site", &|site| site == "same-origin")
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;

    fn guard() -> Guard {
        Guard::new("127.0.0.1:7676".parse().expect("an address")).expect("a token")
    }

    fn judged(guard: &Guard, method: &str, path: &str, headers: &[(&str, &str)]) -> Verdict {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        guard.judge(&request.body(()).expect("a request").into_parts().0)
    }

    #[test]
    fn tokens_differ_and_have_128_bits() {
        let (one, other) = (guard(), guard());
        assert_eq!(one.token.len(), 32);
        assert_ne!(one.token, other.token);
        assert_eq!(one.url(), format!("http://127.0.0.1:7676/?token={}", one.token));
        let v6 = Guard::new("[::1]:80".parse().expect("an address")).expect("a token");
        assert!(v6.url().starts_with("http://[::1]:80/?token="));
        assert_eq!(
            judged(&v6, "GET", &format!("/?token={}", v6.token), &[("host", "[::1]")]),
            Verdict::Welcome
        );
    }

    #[test]
    fn the_token_opens_the_door_and_the_cookie_keeps_it_open() {
        let guard = guard();
        let host = ("host", "127.0.0.1:7676");
        let right = format!("/?a=b&token={}", guard.token);
        assert_eq!(judged(&guard, "GET", &right, &[host]), Verdict::Welcome);
        let almost = guard.token.replace(|c| c != '0', "0");
        for wrong in ["/", "/?token=", "/?token=0", &format!("/?token={almost}"), &format!("{right}0")] {
            assert!(matches!(judged(&guard, "GET", wrong, &[host]), Verdict::Out(_)), "{wrong}");
        }
        assert!(
            matches!(
                judged(&guard, "GET", &format!("/v1/volumes?token={}", guard.token), &[host]),
                Verdict::Out(_)
            ),
            "a URL of the API would stay in logs and histories"
        );
        let name = guard.cookie_name();
        let cookie = format!("other=1; {name}={}; more=2", guard.token);
        assert_eq!(judged(&guard, "GET", "/v1/volumes", &[host, ("cookie", &cookie)]), Verdict::In);
        for wrong in
            [format!("{name}="), format!("{name}={}0", guard.token), format!("x{cookie}").replace(' ', "x")]
        {
            let verdict = judged(&guard, "GET", "/", &[host, ("cookie", &wrong)]);
            assert!(matches!(verdict, Verdict::Out(_)), "{wrong}");
        }
        assert!(guard.cookie().starts_with(&format!("cairn-console-7676={};", guard.token)));
    }

    #[test]
    fn only_names_of_this_machine_are_taken() {
        let guard = guard();
        let cookie = format!("{}={}", guard.cookie_name(), guard.token);
        let of = |hosts: &[&str]| {
            let hosts = hosts.iter().map(|host| ("host", *host));
            judged(&guard, "GET", "/", &hosts.chain([("cookie", &*cookie)]).collect::<Vec<_>>())
        };
        for right in ["127.0.0.1:7676", "localhost:7676", "LocalHost:7676", "[::1]:7676", "127.0.0.2:7676"] {
            assert_eq!(of(&[right]), Verdict::In, "{right}");
        }
        for wrong in [
            "evil.example:7676",
            "127.0.0.1",
            "127.0.0.1:80",
            "localhost.evil.example:7676",
            "10.0.0.1:7676",
            "",
        ] {
            assert!(matches!(of(&[wrong]), Verdict::Out(_)), "{wrong}");
        }
        assert!(matches!(of(&[]), Verdict::Out(_)));
        assert!(matches!(of(&["127.0.0.1:7676", "evil.example"]), Verdict::Out(_)));
    }

    #[test]
    fn what_changes_something_comes_from_the_page() {
        let guard = guard();
        let cookie = format!("{}={}", guard.cookie_name(), guard.token);
        let with = |method: &str, headers: &[(&str, &str)]| {
            let always = [("host", "localhost:7676"), ("cookie", &*cookie)];
            judged(&guard, method, "/v1/volumes", &[&always, headers].concat())
        };
        let own = ("origin", "http://localhost:7676");
        let (same, nameless) = (("sec-fetch-site", "same-origin"), ("origin", "null"));
        for right in [&[own][..], &[own, same], &[nameless, same], &[same], &[]] {
            assert_eq!(with("POST", right), Verdict::In, "{right:?}");
        }
        for wrong in [
            &[("origin", "http://evil.example")][..],
            &[nameless],
            &[nameless, ("sec-fetch-site", "cross-site")],
            &[("origin", "http://evil.example"), same],
            &[("origin", "http://localhost:7677")],
            &[("origin", "http://127.0.0.1:7676")],
            &[own, ("sec-fetch-site", "cross-site")],
            &[("sec-fetch-site", "same-site")],
            &[own, ("origin", "http://evil.example")],
        ] {
            for method in ["POST", "DELETE", "PATCH", "OPTIONS"] {
                assert!(matches!(with(method, wrong), Verdict::Out(_)), "{method} {wrong:?}");
            }
            assert_eq!(with("GET", wrong), Verdict::In, "nobody else can read the answer");
        }
    }
}
