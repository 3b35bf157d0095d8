//! `--sandbox_folder`: folders of the host that actions see besides the system's.

use std::path::{Component, Path, PathBuf};

use super::refusal::Refusal;

const FLAG: &str = "sandbox_folder";

/// Where actions find something of their own, whatever the host has there.
const PRIVATE: [&str; 5] = ["/proc", "/dev", "/sys", "/tmp", "/build"];

/// The folders that were asked for, in order and each once.
///
/// # Errors
/// If one is not there, would be hidden by what actions have of their own, or would show the store.
pub(super) fn parse(given: &[String], cache_dir: &Path) -> Result<Vec<PathBuf>, Refusal> {
    let mut folders = Vec::new();
    for text in given {
        let folder = folder(text, cache_dir).map_err(|right| Refusal::value(FLAG, text, right))?;
        if !folders.contains(&folder) {
            folders.push(folder);
        }
    }
    Ok(folders)
}

fn folder(text: &str, cache_dir: &Path) -> Result<PathBuf, String> {
    let path = Path::new(text);
    let is_plain = |part| matches!(part, Component::RootDir | Component::Normal(_));
    if !path.is_absolute() || !path.components().all(is_plain) {
        return Err("use an absolute path without '..'".to_owned());
    }
    // Without what a path may have too much of.
    let path: PathBuf = path.components().collect();
    if path == Path::new("/") {
        return Err("would show the whole machine: name what actions need".to_owned());
    }
    let found = path.symlink_metadata().map_err(|error| format!("cannot be looked at: {error}"))?;
    if found.is_symlink() {
        return Err("is a symlink: name the folder that it leads to".to_owned());
    }
    if !found.is_dir() {
        return Err("is no folder".to_owned());
    }
    let real = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let (shown, cache) = (real(&path), real(cache_dir));
    if let Some(own) = PRIVATE.iter().find(|own| path.starts_with(own) || shown.starts_with(own)) {
        return Err(format!("actions have a {own} of their own, which would hide it"));
    }
    if shown.starts_with(&cache) || cache.starts_with(&shown) {
        return Err(format!("would show the store in {} (--cache_dir)", cache_dir.display()));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str, cache_dir: &Path) -> String {
        parse(&[text.to_owned()], cache_dir).unwrap_err().to_string()
    }

    #[test]
    fn folders_are_taken_once_and_without_frills() {
        let given = ["/usr/share", "/usr//share/", "/usr/lib"].map(str::to_owned);
        let folders = parse(&given, Path::new("/nowhere/cache")).unwrap();
        assert_eq!(folders, ["/usr/share", "/usr/lib"].map(PathBuf::from));
    }

    #[test]
    fn what_is_no_folder_or_would_be_hidden_is_refused() {
        let cache = Path::new("/nowhere/cache");
        for (text, right) in [
            ("usr/share", "use an absolute path"),
            ("", "use an absolute path"),
            ("/usr/../etc", "without '..'"),
            ("/", "would show the whole machine"),
            ("/nowhere", "cannot be looked at"),
            ("/etc/passwd", "is no folder"),
            ("/proc/sys", "a /proc of their own"),
            ("/dev", "a /dev of their own"),
        ] {
            let told = told(text, cache);
            assert!(told.starts_with(&format!("--sandbox_folder={text}: ")), "{told}");
            assert!(told.contains(right), "{told}");
        }
    }

    #[test]
    fn the_store_is_never_shown() {
        // Not below /tmp, where nothing may be shown anyway, nor beside this file, which may lie there.
        let base = tempfile::tempdir_in("/var/tmp").unwrap();
        let (cache, other) = (base.path().join("cache"), base.path().join("cached"));
        let (below, link) = (cache.join("below"), base.path().join("link"));
        std::fs::create_dir_all(&below).unwrap();
        std::fs::create_dir(&other).unwrap();
        std::os::unix::fs::symlink(&cache, &link).unwrap();
        for folder in [base.path(), &cache, &below, &link.join("below")] {
            let told = told(folder.to_str().unwrap(), &cache);
            assert!(told.contains("would show the store"), "{told}");
        }
        assert!(told(link.to_str().unwrap(), &cache).contains("is a symlink"));
        // The store by another name is the store.
        assert!(told(cache.to_str().unwrap(), &link).contains("would show the store"));
        let shown = [other.to_str().unwrap().to_owned()];
        assert_eq!(parse(&shown, &cache).unwrap(), [other]);
    }
}
