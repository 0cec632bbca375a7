//! `cargo xtask dist`: what goes with the programs, written by them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const PROGRAMS: [&str; 2] = ["cairn", "cairnd"];

/// Shell completions and manual pages.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask dist                         to target/dist: completions/SHELL, man/man1, man/man8
  cargo xtask dist out --programs target/debug")]
pub(crate) struct Arguments {
    /// Where to
    folder: Option<PathBuf>,
    #[command(flatten)]
    programs: Programs,
}

/// Where the programs come from.
#[derive(clap::Args)]
pub(crate) struct Programs {
    /// Take cairn and cairnd from this folder instead of building them
    #[arg(long, value_name = "FOLDER")]
    programs: Option<PathBuf>,
}

impl Programs {
    /// The folder that they are in.
    pub(crate) fn folder(&self) -> Result<PathBuf, String> {
        if let Some(folder) = &self.programs {
            return std::path::absolute(folder).map_err(|e| format!("{}: {e}", folder.display()));
        }
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = Command::new(cargo);
        build.current_dir(workspace()).args(["build", "--locked", "--release"]);
        output_of(build.args(PROGRAMS.iter().flat_map(|program| ["--bin", program])))?;
        Ok(target().join("release"))
    }
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let folder = arguments.folder.clone().unwrap_or_else(|| target().join("dist"));
    let done = arguments.programs.folder().and_then(|programs| write(&programs, &folder));
    said(done.map(|()| folder))
}

/// Prints where the result is, or why there is none.
pub(crate) fn said(done: Result<PathBuf, String>) -> ExitCode {
    match done {
        Ok(path) => {
            println!("{}", path.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Writes completions and manual pages of the programs in one folder to another.
pub(crate) fn write(programs: &Path, folder: &Path) -> Result<(), String> {
    for (program, section) in PROGRAMS.into_iter().zip(["man1", "man8"]) {
        let pages = folder.join("man").join(section);
        make_folder(&pages)?;
        output_of(Command::new(programs.join(program)).arg("man-pages").arg(&pages))?;
        for (shell, file) in [
            ("bash", program.to_owned()),
            ("fish", format!("{program}.fish")),
            ("zsh", format!("_{program}")),
        ] {
            let text = output_of(Command::new(programs.join(program)).args(["completions", shell]))?;
            let completions = folder.join("completions").join(shell);
            make_folder(&completions)?;
            write_file(&completions.join(file), &text)?;
        }
    }
    Ok(())
}

/// The root of the workspace.
pub(crate) fn workspace() -> PathBuf {
    // Where it was built: cargo builds it anew when it is elsewhere.
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).unwrap_or_default()
}

/// The folder that cargo builds into.
pub(crate) fn target() -> PathBuf {
    workspace().join(std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
}

/// Runs a command to its end; what it prints. What it says else goes where this program's does.
pub(crate) fn output_of(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stderr(std::process::Stdio::inherit())
        .output()
        .map_err(|e| format!("{name} cannot be run: {e}"))?;
    if !output.status.success() {
        return Err(format!("{name} ended with {}", output.status));
    }
    String::from_utf8(output.stdout).map_err(|_| format!("{name} prints no text"))
}

pub(crate) fn make_folder(path: &Path) -> Result<(), String> {
    fs::create_dir_all(path).map_err(|e| format!("cannot make {}: {e}", path.display()))
}

pub(crate) fn write_file(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|e| format!("cannot write {}: {e}", path.display()))
}
