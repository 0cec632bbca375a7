//! `cargo xtask deb`: a Debian package of the programs, their units, manual and completions.
//!
//! The package is what `debian/` and `systemd/` say, laid out as it will be installed and handed to `dpkg-deb`; what it
//! depends on is what `dpkg-shlibdeps` finds the programs linked to.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use crate::dist::{self, Programs, make_folder, output_of, target, workspace, write_file};

/// Who answers for a package unless `DEBFULLNAME` and `DEBEMAIL` say somebody else, as for Debian's own tools.
const MAINTAINER: (&str, &str) = ("The cairn authors", "cairn@example.invalid");

/// A Debian package, for the machine that it is built on.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask deb                          target/debian/cairn_VERSION_ARCHITECTURE.deb
  apt install ./target/debian/cairn_*.deb")]
pub(crate) struct Arguments {
    /// Another version than the workspace's
    #[arg(long, value_name = "VERSION", default_value = env!("CARGO_PKG_VERSION"))]
    version: String,
    /// Where to, instead of target/debian
    #[arg(long, value_name = "FOLDER")]
    output: Option<PathBuf>,
    #[command(flatten)]
    programs: Programs,
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    dist::said(build(arguments))
}

fn build(arguments: &Arguments) -> Result<PathBuf, String> {
    let programs = arguments.programs.folder()?;
    let output = arguments.output.clone().unwrap_or_else(|| target().join("debian"));
    let output = std::path::absolute(&output).map_err(|e| format!("{}: {e}", output.display()))?;
    let work = output.join(format!("work-{}", std::process::id()));
    let built = lay_out(&work, &programs, &arguments.version).and_then(|architecture| {
        let package = output.join(format!("cairn_{}_{architecture}.deb", arguments.version));
        let mut pack = Command::new("dpkg-deb");
        pack.args(["--build", "--root-owner-group"]).arg(work.join("root")).arg(&package);
        output_of(&mut pack).map(|_| package)
    });
    let _ = fs::remove_dir_all(&work);
    built
}

/// Puts everything into `work/root` as it will be installed; the architecture that it is for.
fn lay_out(work: &Path, programs: &Path, version: &str) -> Result<String, String> {
    let (root, source) = (work.join("root"), workspace());
    for program in ["cairn", "cairnd"] {
        let to = root.join("usr/bin").join(program);
        install(&programs.join(program), &to)?;
        output_of(Command::new("strip").args(["--strip-unneeded", "--remove-section=.comment"]).arg(&to))?;
    }
    for unit in files(&source.join("systemd"))? {
        let folder = if unit.ends_with("cairnd.toml") { "etc/cairn" } else { "lib/systemd/system" };
        install(&unit, &root.join(folder).join(name(&unit)))?;
    }
    let extras = work.join("dist");
    dist::write(programs, &extras)?;
    for (from, to) in [
        ("completions/bash", "usr/share/bash-completion/completions"),
        ("completions/fish", "usr/share/fish/vendor_completions.d"),
        ("completions/zsh", "usr/share/zsh/vendor-completions"),
        ("man/man1", "usr/share/man/man1"),
        ("man/man8", "usr/share/man/man8"),
    ] {
        for file in files(&extras.join(from))? {
            let to = root.join(to).join(name(&file));
            install(&file, &to)?;
            if from.starts_with("man") {
                compress(&to)?;
            }
        }
    }
    let documents = root.join("usr/share/doc/cairn");
    install(&source.join("debian/copyright"), &documents.join("copyright"))?;
    let changes = documents.join("changelog");
    write_file(&changes, &changelog(version)?)?;
    compress(&changes)?;

    let architecture = output_of(Command::new("dpkg").arg("--print-architecture"))?.trim().to_owned();
    let about = root.join("DEBIAN");
    for script in ["postinst", "prerm", "postrm"] {
        install(&source.join("debian").join(script), &about.join(script))?;
    }
    write_file(&about.join("conffiles"), "/etc/cairn/cairnd.toml\n")?;
    let fields = fs::read_to_string(source.join("debian/control"))
        .map_err(|e| format!("cannot read debian/control: {e}"))?;
    let fields = fields
        .replace("@VERSION@", version)
        .replace("@ARCHITECTURE@", &architecture)
        .replace("@MAINTAINER@", &maintainer())
        .replace("@LIBRARIES@", &libraries(work, &root)?)
        .replace("@KIB@", &kib(&root)?.to_string());
    write_file(&about.join("control"), &fields)?;
    // Whatever the umask was.
    output_of(Command::new("chmod").args(["--recursive", "u=rwX,go=rX"]).arg(&root))?;
    Ok(architecture)
}

/// What the programs are linked to, as `Depends:` has it.
fn libraries(work: &Path, root: &Path) -> Result<String, String> {
    // It wants to be run in a source package.
    make_folder(&work.join("debian"))?;
    write_file(&work.join("debian/control"), "Source: cairn\n\nPackage: cairn\nArchitecture: any\n")?;
    let mut look = Command::new("dpkg-shlibdeps");
    look.current_dir(work).arg("-O").args([root.join("usr/bin/cairn"), root.join("usr/bin/cairnd")]);
    let found = output_of(&mut look)?;
    let libraries = found.lines().find_map(|line| line.strip_prefix("shlibs:Depends="));
    libraries.map(str::to_owned).ok_or_else(|| format!("dpkg-shlibdeps says nothing of libraries: {found}"))
}

fn maintainer() -> String {
    let or = |name, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
    format!("{} <{}>", or("DEBFULLNAME", MAINTAINER.0), or("DEBEMAIL", MAINTAINER.1))
}

fn changelog(version: &str) -> Result<String, String> {
    let date = output_of(Command::new("date").arg("--rfc-email"))?;
    let (by, date) = (maintainer(), date.trim());
    Ok(format!(
        "cairn ({version}) unstable; urgency=medium\n\n  * Built from its source.\n\n -- {by}  {date}\n"
    ))
}

/// What it takes when it is installed.
fn kib(root: &Path) -> Result<u64, String> {
    let said = output_of(
        Command::new("du").args(["--summarize", "--apparent-size", "--block-size=1024"]).arg(root),
    )?;
    let number = said.split_whitespace().next().and_then(|number| number.parse().ok());
    number.ok_or_else(|| format!("du does not say how large it is: {said}"))
}

fn install(from: &Path, to: &Path) -> Result<(), String> {
    to.parent().map_or(Ok(()), make_folder)?;
    let copied = fs::copy(from, to).map(drop);
    copied.map_err(|e| format!("cannot copy {} to {}: {e}", from.display(), to.display()))
}

fn compress(path: &Path) -> Result<(), String> {
    output_of(Command::new("gzip").args(["-9", "--no-name"]).arg(path)).map(drop)
}

/// The files in a folder, in the order of their names.
fn files(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = fs::read_dir(folder).and_then(|entries| entries.map(|e| Ok(e?.path())).collect());
    let mut all: Vec<PathBuf> = entries.map_err(|e| format!("cannot read {}: {e}", folder.display()))?;
    all.sort();
    Ok(all)
}

fn name(path: &Path) -> &std::ffi::OsStr {
    path.file_name().unwrap_or(path.as_os_str())
}
