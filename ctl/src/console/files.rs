//! The page's files, built into the program: it needs nothing but itself.

use hyper::StatusCode;

use super::{Answer, HTML, answer};

const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

struct File {
    path: &'static str,
    kind: &'static str,
    text: &'static str,
}

macro_rules! scripts {
    ($($name:literal),* $(,)?) => {
        [$(File {
            path: concat!("/js/", $name, ".js"),
            kind: SCRIPT,
            text: include_str!(concat!("page/js/", $name, ".js")),
        }),*]
    };
}

static PAGE: [File; 2] = [
    File { path: "/", kind: HTML, text: include_str!("page/index.html") },
    File { path: "/style.css", kind: CSS, text: include_str!("page/style.css") },
];

static SCRIPTS: [File; 29] = scripts![
    "api",
    "dialog",
    "dom",
    "events",
    "fields",
    "format",
    "image-actions",
    "images",
    "jobs",
    "limits",
    "live",
    "log",
    "main",
    "menu",
    "new-volume",
    "notices",
    "parts",
    "pools",
    "rates",
    "recycle",
    "route",
    "session",
    "snapshot-actions",
    "snapshots",
    "tree",
    "types",
    "volume",
    "volume-actions",
    "volumes",
];

/// The file at a path, if there is one.
pub(super) fn at(path: &str) -> Option<Answer> {
    let file = PAGE.iter().chain(&SCRIPTS).find(|file| file.path == path)?;
    Some(answer(StatusCode::OK, file.kind, file.text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_page_names_is_there() {
        let served: Vec<_> = PAGE.iter().chain(&SCRIPTS).map(|file| file.path).collect();
        let named = |text: &'static str, before: &'static str| {
            text.split(before).skip(1).filter_map(|rest| rest.split(['"', '\'']).next())
        };
        let index = PAGE[0].text;
        let mut seen = 0;
        for path in named(index, "href=\"/").chain(named(index, "src=\"/")) {
            assert!(served.contains(&&*format!("/{path}")), "index.html: {path}");
            seen += 1;
        }
        for script in &SCRIPTS {
            for path in named(script.text, "from './") {
                assert!(served.contains(&&*format!("/js/{path}")), "{}: {path}", script.path);
                seen += 1;
            }
        }
        assert!(seen > SCRIPTS.len(), "{seen} names: this checks nothing");
    }

    /// A volume's description is whatever somebody has written there.
    #[test]
    fn no_text_is_ever_taken_for_html_or_script() {
        for script in &SCRIPTS {
            for way in
                ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function("]
            {
                assert!(!script.text.contains(way), "{} has {way}", script.path);
            }
        }
        // What the policy of all answers forbids, and would silently not work.
        for way in ["<style", "style=\"", "onclick=", "http://", "https://"] {
            assert!(!PAGE[0].text.contains(way), "index.html has {way}");
        }
    }
}
