//! `cairn console` as a browser sees it, and as others do who must not.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use cairnd::control::{ControlThread, Engine as _};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

#[path = "../../daemon/tests/api/world.rs"]
#[expect(dead_code, reason = "the daemon's own tests use all of it")]
mod world;
use world::World;

/// How long anything here may take, on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(60);

/// A daemon, a console, and the browser of whoever has read what the console printed.
struct Console {
    world: World,
    daemon: Option<ControlThread>,
    child: Child,
    /// Kept, so that the console is never without somebody who reads.
    _stdout: BufReader<ChildStdout>,
    address: SocketAddr,
    token: String,
    folder: tempfile::TempDir,
}

/// What was answered.
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    #[track_caller]
    fn json(&self, status: u16) -> Value {
        assert_eq!(
            (self.status, self.header("content-type")),
            (status, Some("application/json")),
            "{}",
            self.body
        );
        serde_json::from_str(&self.body).expect("JSON")
    }
}

fn cairn(folder: &Path, args: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cairn"));
    command.env_remove("CAIRN_DEV").env_remove("CAIRN_SOCKET").stdin(Stdio::null());
    command.arg("--dev").arg(folder).args(args.split_whitespace());
    command
}

impl Console {
    fn start() -> Console {
        let folder = tempfile::tempdir().expect("a folder");
        let world = World::in_folder(folder.path());
        let daemon = Some(world.serve());
        let mut command = cairn(folder.path(), "--json console --listen 127.0.0.1:0");
        let mut child = command.stdout(Stdio::piped()).spawn().expect("runs");
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("a line");
        let told: Value = serde_json::from_str(&line).expect("JSON");
        let url = told["url"].as_str().expect("a URL").strip_prefix("http://").expect("HTTP");
        let (address, token) = url.split_once("/?token=").expect("a token");
        let (address, token) = (address.parse().expect("an address"), token.to_owned());
        Console { world, daemon, child, _stdout: stdout, address, token, folder }
    }

    /// What the browser sends from then on.
    fn cookie(&self) -> String {
        format!("cairn-console-{}={}", self.address.port(), self.token)
    }

    /// Sends a request with these headers and no others.
    fn send(&self, request: &str, headers: &[(&str, &str)], body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).expect("is reached");
        stream.set_read_timeout(Some(PATIENCE)).expect("is set");
        let mut text = format!("{request} HTTP/1.1\r\n");
        for (name, value) in headers {
            text += &format!("{name}: {value}\r\n");
        }
        if !body.is_empty() {
            text += &format!("Content-Length: {}\r\n", body.len());
        }
        stream.write_all(format!("{text}\r\n{body}").as_bytes()).expect("is sent");
        stream
    }

    fn exchange(&self, request: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let closing = [headers, &[("Connection", "close")]].concat();
        let mut text = String::new();
        self.send(request, &closing, body).read_to_string(&mut text).expect("an answer");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        let status = head.split(' ').nth(1).expect("a status").parse().expect("a number");
        let answer = Answer { status, head: head.to_owned(), body: body.to_owned() };
        let policy = answer.header("content-security-policy").unwrap_or_default();
        assert!(policy.starts_with("default-src 'none'; script-src 'self'"), "{request}: {head}");
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("cache-control", "no-store"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{request}");
        }
        answer
    }

    /// As the page asks.
    fn ask(&self, method: &str, path: &str, body: &str) -> Answer {
        let (host, origin) = (self.address.to_string(), format!("http://{}", self.address));
        let mut headers = vec![("Host", &*host), ("Accept", "application/json")];
        let cookie = self.cookie();
        headers.push(("Cookie", &cookie));
        if !body.is_empty() {
            headers.extend([("Content-Type", "application/json")]);
        }
        if method != "GET" {
            headers.extend([("Origin", &*origin), ("Sec-Fetch-Site", "same-origin")]);
        }
        self.exchange(&format!("{method} {path}"), &headers, body)
    }

    /// Ends the console by a signal; returns its exit code.
    fn end(mut self, signal: Signal) -> Option<i32> {
        kill(Pid::from_raw(i32::try_from(self.child.id()).expect("an id")), signal).expect("is sent");
        self.child.wait().expect("ends").code()
    }

    fn volumes(&self) -> Vec<String> {
        let list = self.world.ok(self.world.engine.volumes(<_>::default()));
        list.volumes.into_iter().map(|volume| volume.name).collect()
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        // One that has ended already cannot be killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(daemon) = self.daemon.take() {
            daemon.stop();
        }
    }
}

#[test]
fn the_url_that_is_printed_opens_the_page() {
    let console = Console::start();
    let host = console.address.to_string();
    let token = format!("GET /?token={}", console.token);
    let welcome = console.exchange(&token, &[("Host", &host)], "");
    assert_eq!((welcome.status, welcome.header("location"), &*welcome.body), (303, Some("/"), ""));
    let cookie = welcome.header("set-cookie").expect("a cookie");
    assert_eq!(cookie, format!("{}; HttpOnly; SameSite=Strict; Path=/", console.cookie()));

    let pair = cookie.split(';').next().expect("a pair");
    let page = console.exchange("GET /", &[("Host", &host), ("Cookie", pair)], "");
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert!(page.body.starts_with("<!doctype html>"), "{}", page.body);
    for (path, kind) in [("/style.css", "text/css"), ("/js/main.js", "text/javascript")] {
        assert!(page.body.contains(path), "{path}");
        let file = console.ask("GET", path, "");
        assert_eq!(
            (file.status, file.header("content-type")),
            (200, Some(&*format!("{kind}; charset=utf-8")))
        );
    }
    assert_eq!(console.ask("HEAD", "/", "").body, "");
    assert_eq!(console.ask("GET", "/js/../main.js", "").status, 404);
    assert_eq!(console.ask("GET", "/v2/volumes", "").status, 404);
    let posted = console.ask("POST", "/", "x");
    assert_eq!((posted.status, posted.header("allow")), (405, Some("GET, HEAD")));

    let forwarded = console.exchange(
        "GET /",
        &[("Host", &format!("localhost:{}", console.address.port())), ("Cookie", pair)],
        "",
    );
    assert_eq!(forwarded.status, 200, "as after ssh -L");
}

#[test]
fn nobody_else_is_let_in() {
    let console = Console::start();
    let (host, cookie) = (console.address.to_string(), console.cookie());
    let (own, origin) = (("Host", &*host), format!("http://{host}"));
    let refused = |request: &str, headers: &[(&str, &str)]| {
        let answer = console.exchange(request, headers, "");
        assert_eq!(answer.status, 403, "{request} {headers:?}: {}", answer.body);
        assert_eq!(answer.header("content-type"), Some("text/html; charset=utf-8"));
        assert_eq!(answer.header("set-cookie"), None);
        assert!(!answer.body.contains(&console.token));
    };
    let wrong = cookie.replace('=', "=0");
    for path in ["/", "/js/main.js", "/style.css", "/v1/volumes", "/v1/events", "/nothing", "/?token=0123"] {
        refused(&format!("GET {path}"), &[own]);
        refused(&format!("GET {path}"), &[own, ("Cookie", &wrong)]);
    }
    // A name that was made to mean this machine.
    refused("GET /v1/volumes", &[("Host", "evil.example"), ("Cookie", &cookie)]);
    refused(
        &format!("GET /?token={}", console.token),
        &[("Host", &format!("evil.example:{}", console.address.port()))],
    );
    refused("GET /v1/volumes", &[("Cookie", &cookie)]);
    // Other pages in the same browser.
    for elsewhere in [("Origin", "http://evil.example"), ("Origin", "null"), ("Sec-Fetch-Site", "same-site")]
    {
        for request in ["POST /v1/volumes", "DELETE /v1/volumes/demo", "OPTIONS /v1/volumes"] {
            refused(request, &[own, ("Cookie", &cookie), elsewhere]);
        }
    }
    console.world.create("demo", 1 << 30);
    let deleted =
        console.exchange("DELETE /v1/volumes/demo", &[own, ("Cookie", &cookie), ("Origin", &origin)], "");
    assert_eq!(deleted.status, 204, "{}", deleted.body);
    assert!(console.volumes().is_empty());
}

#[test]
fn what_the_page_asks_the_daemon_answers() {
    let console = Console::start();
    assert_eq!(console.ask("GET", "/v1/volumes", "").json(200), json!({ "volumes": [] }));
    let created =
        console.ask("POST", "/v1/volumes", r#"{"name":"demo","size":1073741824,"tags":{"env":"<b>"}}"#);
    assert_eq!(created.json(201)["size"], 1 << 30);
    assert_eq!(console.volumes(), ["demo"]);
    let listed = console.ask("GET", "/v1/volumes?search=DEM&tag=env%3D%3Cb%3E&limit=5", "").json(200);
    assert_eq!(listed["volumes"][0]["tags"]["env"], "<b>");
    assert_eq!(
        console.ask("PATCH", "/v1/volumes/demo", r#"{"description":"d"}"#).json(200)["description"],
        "d"
    );
    assert_eq!(console.ask("GET", "/v1/whoami", "").json(200)["uid"], nix::unistd::Uid::effective().as_raw());

    // What the daemon refuses is refused in its words.
    let again = console.ask("POST", "/v1/volumes", r#"{"name":"demo","size":1}"#).json(409);
    assert_eq!(again["error"]["code"], "exists");
    assert_eq!(console.ask("GET", "/v1/nothing", "").json(404)["error"]["code"], "no-such-route");
    assert_eq!(console.ask("POST", "/v1/volumes", "{").json(400)["error"]["code"], "bad-request");
    assert_eq!(console.ask("PUT", "/v1/volumes", "").json(405)["error"]["code"], "method-not-allowed");

    let gone = console.ask("DELETE", "/v1/volumes/demo", "");
    assert_eq!((gone.status, &*gone.body), (204, ""));
    assert!(console.volumes().is_empty());

    let large = console.ask("POST", "/v1/volumes", &" ".repeat((1 << 20) + 1)).json(413);
    assert_eq!(large["error"]["message"], "the request's body is larger than 1.0 MiB");
}

#[test]
fn events_come_as_they_happen() {
    let console = Console::start();
    let (host, cookie) = (console.address.to_string(), console.cookie());
    let headers = [("Host", &*host), ("Cookie", &*cookie), ("Accept", "text/event-stream")];
    let listen = |more: &[(&str, &str)]| {
        let mut lines =
            BufReader::new(console.send("GET /v1/events", &[&headers, more].concat(), "")).lines();
        let mut until = move |part: &str| {
            let mut seen = Vec::new();
            loop {
                let line = lines.next().expect("more is to come").expect("text");
                let found = line.to_ascii_lowercase().contains(part);
                seen.push(line);
                if found {
                    return seen;
                }
            }
        };
        until("content-type: text/event-stream");
        until
    };
    let mut live = listen(&[]);
    console.world.create("one", 1 << 30);
    let seen = live("\"volume\":\"one\"");
    assert!(seen.iter().any(|line| line == "event: volume.created"), "{seen:?}");
    let id = seen.iter().find_map(|line| line.strip_prefix("id: ")).expect("an id").to_owned();
    console.world.create("two", 1 << 30);
    live("\"volume\":\"two\"");
    // Where a browser was that comes back.
    let seen = listen(&[("Last-Event-ID", &id)])("\"volume\":\"two\"");
    assert!(!seen.iter().any(|line| line.contains("\"one\"")), "{seen:?}");
}

#[test]
fn the_daemon_may_come_and_go() {
    let mut console = Console::start();
    console.world.create("demo", 1 << 30);
    console.daemon.take().expect("runs").stop();
    let gone = console.ask("GET", "/v1/volumes", "").json(502);
    assert_eq!(gone["error"]["code"], "unreachable");
    assert!(
        gone["error"]["message"].as_str().expect("a message").starts_with("no cairnd is listening on"),
        "{gone}"
    );
    assert!(gone["error"]["hint"].as_str().expect("a hint").contains("cairnd --dev"), "{gone}");
    assert_eq!(console.ask("GET", "/", "").status, 200);
    console.daemon = Some(console.world.serve());
    assert_eq!(console.ask("GET", "/v1/volumes", "").json(200)["volumes"][0]["name"], "demo");
}

#[test]
fn it_ends_when_it_is_told_to() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let console = Console::start();
        // With somebody who listens, and somebody who says nothing.
        let (host, cookie) = (console.address.to_string(), console.cookie());
        let listening = console.send(
            "GET /v1/events",
            &[("Host", &host), ("Cookie", &cookie), ("Accept", "text/event-stream")],
            "",
        );
        let silent = TcpStream::connect(console.address).expect("is reached");
        assert_eq!(console.end(signal), Some(0), "{signal}");
        drop((listening, silent));
    }
}

#[test]
fn people_are_told_what_to_open_and_what_is_wrong() {
    let console = Console::start();
    let mut second = cairn(console.folder.path(), "console --listen localhost:0")
        .stdout(Stdio::piped())
        .spawn()
        .expect("runs");
    let mut line = String::new();
    BufReader::new(second.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
    second.kill().expect("is ended");
    second.wait().expect("ends");
    assert!(line.starts_with("open http://127.0.0.1:") && line.contains("/?token="), "{line}");
    assert!(line.ends_with(" in a browser; Ctrl-C ends it\n"), "{line}");

    let fails = |folder: &Path, args: &str, code: i32, part: &str| {
        let ran = cairn(folder, args).output().expect("runs");
        let stderr = String::from_utf8(ran.stderr).expect("text");
        assert_eq!((ran.status.code(), &*ran.stdout), (Some(code), &b""[..]), "{stderr}");
        assert!(stderr.contains(part), "{args}: {stderr}");
    };
    let folder = console.folder.path();
    fails(folder, "console --listen 0.0.0.0:7676", 2, "ssh -L 7676:localhost:7676 HOST");
    fails(folder, &format!("console --listen {}", console.address), 1, "--listen 127.0.0.1:0");
    fails(
        &folder.join("nowhere"),
        "console --listen 127.0.0.1:0",
        1,
        "(unreachable)\nhint: start it: cairnd --dev",
    );
}

#[test]
fn who_is_slow_or_never_done_is_cut_off() {
    let console = Console::start();
    let mut half = TcpStream::connect(console.address).expect("is reached");
    half.write_all(b"GET / HTTP/1.1\r\nHost: ").expect("is sent");
    half.set_read_timeout(Some(PATIENCE)).expect("is set");
    let mut answer = Vec::new();
    // Closed, whether or not with an answer.
    half.read_to_end(&mut answer).expect("is closed");
    // One that goes away amid its request is nobody's trouble.
    let host = console.address.to_string();
    let cookie = console.cookie();
    let cut = console.send(
        "POST /v1/volumes",
        &[("Host", &host), ("Cookie", &cookie), ("Content-Length", "100")],
        "",
    );
    cut.shutdown(Shutdown::Both).expect("is cut");
    assert_eq!(console.ask("GET", "/v1/volumes", "").status, 200);
}

/// There is no browser here that would say so.
#[test]
fn scripts_are_sound_where_there_is_node_to_ask() {
    if Command::new("node").arg("--version").output().is_err() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let scripts =
        fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/console/page/js")).expect("a folder");
    for script in scripts {
        let script = script.expect("a file").path();
        // By this name, node takes it for a module.
        let module = folder.path().join(script.file_name().expect("a name")).with_extension("mjs");
        fs::copy(&script, &module).expect("is copied");
        let checked = Command::new("node").arg("--check").arg(&module).output().expect("runs");
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    }
}
