//! The guest's kernel and the modules it needs, in the order in which they are loaded.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::program::target_dir;

/// A kernel with its modules, as `tests/guest/fetch-kernel` lays them out.
#[derive(Debug)]
pub(super) struct Kernel {
    /// What QEMU boots.
    pub(super) image: PathBuf,
    /// Files by the names that modules have in `depends=`.
    modules: BTreeMap<String, PathBuf>,
    /// Modules that this kernel has built in, one path a line.
    built_in: String,
}

impl Kernel {
    /// The kernel of `CAIRN_GUEST_KERNEL`, else the one that `./test` fetched.
    #[track_caller]
    pub(super) fn find() -> Kernel {
        let folder = std::env::var_os("CAIRN_GUEST_KERNEL")
            .map_or_else(|| target_dir().join("guest-kernel"), PathBuf::from);
        let image = folder.join("vmlinuz");
        assert!(
            image.is_file(),
            "{} is not there: run ./test, or tests/guest/fetch-kernel {}",
            image.display(),
            folder.display()
        );
        let versions = list(&folder.join("modules"));
        let [version] = versions.as_slice() else { panic!("not the modules of one kernel: {versions:?}") };
        let mut modules = BTreeMap::new();
        collect(&version.join("kernel"), &mut modules);
        let built_in = version.join("modules.builtin");
        let built_in =
            fs::read_to_string(&built_in).unwrap_or_else(|e| panic!("{}: {e}", built_in.display()));
        Kernel { image, modules, built_in }
    }

    /// The modules by these names and what they depend on, as (name, contents), in the order to load them. What the
    /// kernel has built in is left out.
    #[track_caller]
    pub(super) fn load_order(&self, wanted: &[&str]) -> Vec<(String, Vec<u8>)> {
        let mut order = Vec::new();
        for name in wanted {
            self.append(name, &mut order);
        }
        order
    }

    fn append(&self, name: &str, order: &mut Vec<(String, Vec<u8>)>) {
        if order.iter().any(|(present, _)| present == name) {
            return;
        }
        let Some(path) = self.modules.get(name) else {
            let file = format!("/{name}.ko");
            let built_in = self.built_in.lines().any(|line| line.replace('-', "_").ends_with(&file));
            assert!(built_in, "this kernel has no {name}");
            return;
        };
        let contents = read_module(path);
        for dependency in dependencies(&contents) {
            self.append(&dependency, order);
        }
        order.push((name.to_owned(), contents));
    }
}

fn list(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    entries.map(|entry| entry.expect("a folder can be read").path()).collect()
}

fn collect(folder: &Path, modules: &mut BTreeMap<String, PathBuf>) {
    for path in list(folder) {
        if path.is_dir() {
            collect(&path, modules);
        } else if let Some((name, _)) =
            path.file_name().and_then(|name| name.to_str()).and_then(|name| name.split_once(".ko"))
        {
            // Files have hyphens where modules have underscores.
            modules.insert(name.replace('-', "_"), path);
        }
    }
}

/// A module as `insmod` takes it. Some distributions compress them.
fn read_module(path: &Path) -> Vec<u8> {
    let unpack = match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => return fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())),
    };
    let output = Command::new(unpack).arg("-dc").arg(path).output();
    let output = output.unwrap_or_else(|e| panic!("cannot run {unpack}: {e}"));
    assert!(output.status.success(), "{unpack} cannot unpack {}", path.display());
    output.stdout
}

/// What a module says it depends on: a NUL-terminated `depends=one,two` among the strings of its `.modinfo`.
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|window| window == KEY) else { return Vec::new() };
    let value = module[at + KEY.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    let value = String::from_utf8_lossy(value);
    value.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_read_from_a_module() {
        assert_eq!(
            dependencies(b"\x7fELF\0license=GPL\0depends=virtio,virtio-ring\0name=x\0"),
            ["virtio", "virtio_ring"]
        );
        assert_eq!(dependencies(b"\x7fELF\0depends=\0name=x\0"), Vec::<String>::new());
        assert_eq!(dependencies(b"\x7fELF without any"), Vec::<String>::new());
    }
}
