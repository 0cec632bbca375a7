//! Where a disk's bytes go: standard output, or a file that appears when it is complete.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, AtFlags, OFlag};
use tempfile::NamedTempFile;

use crate::failure::Failure;

/// Where the bytes go.
pub(super) enum Destination {
    /// A pipe, or whatever standard output is redirected to.
    Stdout(File),
    /// A file that becomes the one that is wanted at the end.
    File(Unfinished, PathBuf),
}

/// A file that is gone if it is not finished.
pub(super) enum Unfinished {
    /// Without a name, whatever ends this process takes it away.
    Unnamed(File),
    /// Where the file system has no such thing: beside the one that is wanted.
    Named(NamedTempFile),
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
        let unnamed = OpenOptions::new()
            .read(true)
            .write(true)
            .mode(MODE)
            .custom_flags(OFlag::O_TMPFILE.bits())
            .open(folder);
        let made = match unnamed {
            Ok(file) => Ok(Unfinished::Unnamed(file)),
            Err(_) => beside(name, |builder| builder.tempfile_in(folder)).map(Unfinished::Named),
        };
        let made =
            made.map_err(|e| Failure::local("io", format!("cannot write into {}: {e}", folder.display())))?;
        Ok(Destination::File(made, path.to_owned()))
    }

    /// What to write to.
    pub(super) fn handle(&self) -> Result<File, Failure> {
        let cloned = match self {
            Destination::Stdout(file) => file.try_clone(),
            Destination::File(Unfinished::Unnamed(file), _) => file.try_clone(),
            Destination::File(Unfinished::Named(file), _) => file.as_file().try_clone(),
        };
        cloned.map_err(|e| Failure::local("io", format!("cannot write the disk: {e}")))
    }

    /// Gives the file, which is complete and durable, its name.
    pub(super) fn keep(self) -> Result<(), Failure> {
        let Destination::File(file, path) = self else { return Ok(()) };
        let folder = folder_of(&path);
        let kept = match file {
            Unfinished::Named(file) => file.persist(&path).map(drop).map_err(|e| e.error),
            Unfinished::Unnamed(file) => name(&file, &path),
        };
        kept.and_then(|()| File::open(folder)?.sync_all())
            .map_err(|e| Failure::local("io", format!("cannot write {}: {e}", path.display())))
    }
}

/// As any new file: less what the umask takes away.
const MODE: u32 = 0o666;

/// Makes a file beside the one that is to be called `name`.
fn beside<T>(name: &OsStr, make: impl FnOnce(&tempfile::Builder<'_, '_>) -> T) -> T {
    let prefix = format!(".{}.", name.to_string_lossy());
    let mut builder = tempfile::Builder::new();
    make(builder.prefix(&prefix).suffix(".part").permissions(Permissions::from_mode(MODE)))
}

/// Gives an unnamed file a name, in place of whatever has it.
fn name(file: &File, path: &Path) -> io::Result<()> {
    let this = format!("/proc/self/fd/{}", file.as_raw_fd());
    let link = |path: &Path| {
        let follow = AtFlags::AT_SYMLINK_FOLLOW;
        nix::unistd::linkat(AT_FDCWD, this.as_str(), AT_FDCWD, path, follow).map_err(io::Error::from)
    };
    match link(path) {
        // Only a rename replaces a file.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            let name = path.file_name().unwrap_or_default();
            let linked = beside(name, |builder| builder.make_in(folder_of(path), link))?;
            linked.into_temp_path().persist(path).map_err(|e| e.error)
        }
        linked => linked,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Both ways to a file, whatever this file system can do.
    fn ways(path: &Path) -> [Unfinished; 2] {
        let named =
            beside(path.file_name().unwrap(), |builder| builder.tempfile_in(folder_of(path))).unwrap();
        let Destination::File(file, _) = Destination::file(path).unwrap() else { panic!("a file") };
        [file, Unfinished::Named(named)]
    }

    #[test]
    fn files_appear_when_they_are_complete_and_replace_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.img");
        let entries = || fs::read_dir(folder.path()).unwrap().count();
        for (text, unfinished) in ["first", "second"].into_iter().zip(ways(&path)) {
            let (before, destination) = (fs::read(&path).ok(), Destination::File(unfinished, path.clone()));
            io::Write::write_all(&mut destination.handle().unwrap(), text.as_bytes()).unwrap();
            assert_eq!(fs::read(&path).ok(), before, "it is as it was until the end");
            destination.keep().unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        // And one in place of another without ever being beside it under a name.
        let again = Destination::file(&path).unwrap();
        again.keep().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"");
        drop(ways(&path));
        assert_eq!(entries(), 1, "nothing is left beside it");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o600, 0o600);
        assert_eq!(mode & 0o111, 0);
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &Path| Destination::file(path).map(drop).unwrap_err();
        assert!(at(folder.path()).to_string().contains("not a file"));
        assert!(at(Path::new("/")).to_string().contains("not"));
        assert!(at(&folder.path().join("none/disk.img")).to_string().contains("cannot write into"));
    }
}
