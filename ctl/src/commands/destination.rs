//! Where a disk's bytes go: standard output, or a file that appears when it is complete.

use std::fs::{File, Permissions};
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::failure::Failure;

/// Where the bytes go.
pub(super) enum Destination {
    /// A pipe, or whatever standard output is redirected to.
    Stdout(File),
    /// A file beside the one that is wanted, which it becomes at the end.
    Beside(NamedTempFile, PathBuf),
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

impl Destination {
    pub(super) fn stdout() -> Result<Destination, Failure> {
        if io::stdout().is_terminal() {
            return Err(Failure::local("refused", "a disk is nothing for a terminal")
                .with_hint("give a file, or a pipe"));
        }
        // Past the buffer that ends at every line.
        let stdout = io::stdout().as_fd().try_clone_to_owned().map(File::from);
        stdout
            .map(Destination::Stdout)
            .map_err(|e| Failure::local("io", format!("cannot write to standard output: {e}")))
    }

    pub(super) fn file(path: &Path) -> Result<Destination, Failure> {
        let shown = path.display();
        let Some(name) = path.file_name() else {
            return Err(Failure::Usage(format!("{shown} is not the name of a file")));
        };
        if std::fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
            let failure = Failure::local("refused", format!("{shown} is there and is not a file"));
            return Err(failure.with_hint("to write to a device or a pipe, give - as the file: ... - > PATH"));
        }
        let folder = folder_of(path);
        let mut builder = tempfile::Builder::new();
        let prefix = format!(".{}.", name.to_string_lossy());
        // As any new file: less what the umask takes away.
        builder.prefix(&prefix).suffix(".part").permissions(Permissions::from_mode(0o666));
        let made = builder.tempfile_in(folder);
        let made =
            made.map_err(|e| Failure::local("io", format!("cannot write into {}: {e}", folder.display())))?;
        Ok(Destination::Beside(made, path.to_owned()))
    }

    /// What to write to.
    pub(super) fn handle(&self) -> Result<File, Failure> {
        let cloned = match self {
            Destination::Stdout(file) => file.try_clone(),
            Destination::Beside(file, _) => file.as_file().try_clone(),
        };
        cloned.map_err(|e| Failure::local("io", format!("cannot write the disk: {e}")))
    }

    /// Gives the file, which is complete and durable, its name.
    pub(super) fn keep(self) -> Result<(), Failure> {
        let Destination::Beside(file, path) = self else { return Ok(()) };
        let unnamed = |e: io::Error| Failure::local("io", format!("cannot write {}: {e}", path.display()));
        file.persist(&path).map_err(|e| unnamed(e.error))?;
        File::open(folder_of(&path)).and_then(|folder| folder.sync_all()).map_err(unnamed)
    }
}
