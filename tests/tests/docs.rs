//! README.md and docs/: links that lead somewhere, and commands that exist.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cairn_tests::program::{binary, run_command, workspace};

/// README.md and all of docs/.
fn documents() -> Vec<PathBuf> {
    let root = workspace();
    let docs = fs::read_dir(root.join("docs")).expect("there is a folder of documents");
    let mut all: Vec<PathBuf> = docs
        .map(|entry| entry.expect("the folder can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect();
    all.push(root.join("README.md"));
    all.sort();
    all
}

/// A document's lines with whether each is inside a code block, and of which language.
fn lines(text: &str) -> Vec<(usize, Option<String>, &str)> {
    let mut block: Option<String> = None;
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            block = if block.is_some() { None } else { Some(language.trim().to_owned()) };
            continue;
        }
        found.push((index + 1, block.clone(), line));
    }
    found
}

/// The anchor that a heading gets: lower case, spaces to hyphens, punctuation gone.
fn anchor(heading: &str) -> String {
    heading
        .trim_start_matches('#')
        .trim()
        .chars()
        .filter_map(|c| match c {
            ' ' => Some('-'),
            '-' | '_' => Some(c),
            c if c.is_alphanumeric() => Some(c.to_ascii_lowercase()),
            _ => None,
        })
        .collect()
}

fn anchors(path: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let headings =
        lines(&text).into_iter().filter(|(_, block, line)| block.is_none() && line.starts_with('#'));
    headings.map(|(_, _, line)| anchor(line)).collect()
}

/// The targets of `[text](target)` and `![text](target)`; code in backquotes is no link.
fn links(line: &str) -> Vec<String> {
    let mut prose = String::new();
    for (index, piece) in line.split('`').enumerate() {
        // What stands between backquotes may still be the text of a link, so that a placeholder takes its place.
        prose.push_str(if index % 2 == 0 { piece } else { "code" });
    }
    let mut found = Vec::new();
    let mut rest = prose.as_str();
    while let Some(start) = rest.find("](") {
        rest = &rest[start + 2..];
        let Some(end) = rest.find(')') else { break };
        found.push(rest[..end].split(' ').next().unwrap_or("").to_owned());
        rest = &rest[end..];
    }
    found
}

#[test]
fn relative_links_lead_somewhere() {
    let mut broken = Vec::new();
    let mut seen = 0;
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap_or_else(|e| panic!("{}: {e}", document.display()));
        for (number, block, line) in lines(&text) {
            for target in links(line).into_iter().filter(|_| block.is_none()) {
                if target.contains("://") || target.starts_with("mailto:") {
                    continue;
                }
                seen += 1;
                let (file, heading) = target.split_once('#').unwrap_or((&target, ""));
                let folder = document.parent().expect("a document is in a folder");
                let path = if file.is_empty() { document.clone() } else { folder.join(file) };
                let exists = path.exists() && (heading.is_empty() || anchors(&path).contains(heading));
                if !exists {
                    broken.push(format!("{}:{number}: {target}", document.display()));
                }
            }
        }
    }
    assert!(seen > 0, "no links found: this checks nothing");
    assert!(broken.is_empty(), "links that lead nowhere:\n{}", broken.join("\n"));
}

/// Calls of our own programs in `sh` blocks: the program, its arguments, and where.
fn calls() -> Vec<(String, Vec<String>, String)> {
    let mut found = Vec::new();
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap_or_else(|e| panic!("{}: {e}", document.display()));
        let mut continued = String::new();
        for (number, block, line) in lines(&text) {
            if !matches!(block.as_deref(), Some("sh" | "bash" | "console")) {
                continue;
            }
            if let Some(start) = line.trim_end().strip_suffix('\\') {
                continued.push_str(start);
                continue;
            }
            let line = format!("{}{line}", std::mem::take(&mut continued));
            for command in split(&line) {
                let place = format!("{}:{number}: {}", document.display(), command.join(" "));
                if let Some((program, arguments)) = ours(&command) {
                    found.push((program, arguments, place));
                }
            }
        }
    }
    found
}

/// Splits a shell line into its commands and their words, as far as documents need it: quotes, comments, separators.
fn split(line: &str) -> Vec<Vec<String>> {
    let (mut commands, mut words) = (Vec::new(), Vec::new());
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in line.trim_start().trim_start_matches("$ ").chars() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => break,
            (None, '|' | ';' | '&' | '(' | ')') => {
                words.extend(word.take());
                commands.push(std::mem::take(&mut words));
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    commands.push(words);
    commands.retain(|command| !command.is_empty());
    commands
}

/// Which of our programs a command runs, be it by name, by path, or by `cargo run`.
fn ours(command: &[String]) -> Option<(String, Vec<String>)> {
    let command: Vec<&String> =
        command.iter().skip_while(|word| *word == "sudo" || is_assignment(word)).collect();
    let words: Vec<String> = command.into_iter().cloned().collect();
    let first = words.first()?;
    if first == "cargo" && words.get(1).is_some_and(|word| word == "run") {
        let program = words.iter().position(|word| word == "--bin").and_then(|at| words.get(at + 1))?.clone();
        let arguments = words.iter().skip_while(|word| *word != "--").skip(1).cloned().collect();
        return Some((program, arguments));
    }
    let name = first.rsplit('/').next().unwrap_or(first);
    matches!(name, "cairn" | "cairnd").then(|| (name.to_owned(), words[1..].to_vec()))
}

fn is_assignment(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| name.chars().all(|c| c.is_ascii_uppercase() || c == '_'))
}

/// The help texts asked for so far, by program and subcommands; `None` where there is no such subcommand.
type Helps = HashMap<Vec<String>, Option<String>>;

/// Walks down the subcommands that the arguments name, as far as `--help` knows them; the help of the last.
fn help_of(program: &str, arguments: &[String], known: &mut Helps) -> (Vec<String>, String) {
    let mut path = vec![program.to_owned()];
    let mut help = help_text(&path, known).unwrap_or_else(|| panic!("{program} --help fails"));
    for argument in arguments.iter().filter(|argument| !argument.starts_with('-')) {
        let is_listed = help.lines().any(|line| line.split_whitespace().next() == Some(argument.as_str()));
        let deeper = [path.as_slice(), std::slice::from_ref(argument)].concat();
        if let Some(text) = is_listed.then(|| help_text(&deeper, known)).flatten() {
            (path, help) = (deeper, text);
        }
    }
    (path, help)
}

fn help_text(path: &[String], known: &mut Helps) -> Option<String> {
    known
        .entry(path.to_vec())
        .or_insert_with(|| {
            let mut command = Command::new(binary(&path[0]));
            command.args(&path[1..]).arg("--help");
            let outcome = run_command(command);
            outcome.status.success().then_some(outcome.stdout)
        })
        .clone()
}

/// Whether nothing can be done without a subcommand: `Usage: cairn [OPTIONS] <COMMAND>`, and no other line of usage.
fn needs_subcommand(help: &str) -> bool {
    let usage = help.lines().skip_while(|line| !line.starts_with("Usage:"));
    let mut usage = usage.take_while(|line| !line.trim().is_empty()).peekable();
    usage.peek().is_some() && usage.all(|line| line.contains("COMMAND"))
}

/// Every call names a subcommand that exists down to its last level, and only options that its help knows.
#[test]
fn commands_in_documents_exist() {
    let calls = calls();
    assert!(!calls.is_empty(), "no commands found: this checks nothing");
    let mut known = Helps::new();
    let mut wrong = Vec::new();
    for (program, arguments, place) in calls {
        let (path, help) = help_of(&program, &arguments, &mut known);
        let asks_for_more = needs_subcommand(&help);
        let only_help = arguments.iter().any(|argument| argument == "--help" || argument == "--version");
        if asks_for_more && !only_help {
            wrong.push(format!("{place}\n    `{}` needs a subcommand that it has", path.join(" ")));
        }
        for option in arguments.iter().filter(|argument| argument.starts_with("--") && argument.len() > 2) {
            let name = option.split('=').next().unwrap_or(option);
            let has = help.split(|c: char| c.is_whitespace() || ",=[]".contains(c)).any(|word| word == name);
            if !has && name != "--version" {
                wrong.push(format!("{place}\n    `{}` has no {name}", path.join(" ")));
            }
        }
    }
    assert!(wrong.is_empty(), "commands that do not exist:\n{}", wrong.join("\n"));
}

#[test]
fn shell_lines_are_split_as_a_shell_would() {
    let words = |line: &str| split(line).into_iter().map(|words| words.join("|")).collect::<Vec<_>>();
    assert_eq!(words("$ cairn volume list # all"), ["cairn|volume|list"]);
    assert_eq!(words("cairn a 'b c' && cairnd \"d e\""), ["cairn|a|b c", "cairnd|d e"]);
    let run = split("cargo run --release --bin cairnd -- --dev ./dev");
    assert_eq!(ours(&run[0]), Some(("cairnd".into(), vec!["--dev".into(), "./dev".into()])));
    assert_eq!(anchor("## The pool: `O_DIRECT`, twice"), "the-pool-o_direct-twice");
    assert_eq!(links("see [`a`](b.md#c) and ![d](e.png \"title\"), not `[f](g)`"), ["b.md#c", "e.png"]);
}
