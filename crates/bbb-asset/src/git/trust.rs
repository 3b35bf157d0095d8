//! Whom git trusts: whom this process trusts, which is what `SSL_CERT_FILE` and `SSL_CERT_DIR` name, where they name anything.

use std::{
    env,
    ffi::OsString,
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

/// How much certificates may be, in bytes; the system's are some 200 KiB.
const MAX_BYTES: u64 = 16 << 20;

/// Writes the certificates that the environment names to `into`, one after the other: git takes one file, and both variables
/// count. False if it names none; the system's are trusted then.
pub(super) fn write_trusted(into: &Path) -> io::Result<bool> {
    write(&env::var_os("SSL_CERT_FILE"), &env::var_os("SSL_CERT_DIR"), into)
}

fn write(file: &Option<OsString>, folders: &Option<OsString>, into: &Path) -> io::Result<bool> {
    if file.is_none() && folders.is_none() {
        return Ok(false);
    }
    let mut paths: Vec<PathBuf> = file.iter().map(PathBuf::from).collect();
    let folders = folders.iter().flat_map(env::split_paths);
    for folder in folders.filter(|folder| !folder.as_os_str().is_empty()) {
        let entries = fs::read_dir(folder)?.map(|entry| Ok(entry?.path()));
        paths.extend(entries.collect::<io::Result<Vec<_>>>()?);
    }
    let mut all = File::create(into)?;
    let mut left = MAX_BYTES;
    // Links that lead nowhere, and folders, are passed over, as they are by our own client.
    for path in paths.iter().filter(|path| path.is_file()) {
        left -= io::copy(&mut File::open(path)?.take(left), &mut all)?;
        all.write_all(b"\n")?;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_named_is_trusted_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for (name, text) in [("file", "one"), ("a/x", "two\n"), ("b/y", "three")] {
            fs::create_dir_all(at(name).parent().unwrap()).unwrap();
            fs::write(at(name), text).unwrap();
        }
        std::os::unix::fs::symlink("nowhere", at("a/dangling")).unwrap();
        let both = Some(env::join_paths([at("a"), PathBuf::new(), at("b")]).unwrap());
        let written = |file: &Option<OsString>, folders: &Option<OsString>| {
            let is_written = write(file, folders, &at("into")).unwrap();
            is_written.then(|| fs::read_to_string(at("into")).unwrap())
        };
        assert_eq!(written(&None, &None), None);
        let file = Some(at("file").into_os_string());
        assert_eq!(written(&file, &None).unwrap(), "one\n");
        assert_eq!(written(&file, &both).unwrap(), "one\ntwo\n\nthree\n");
        assert_eq!(written(&None, &both).unwrap(), "two\n\nthree\n");
        assert!(write(&None, &Some(at("none").into_os_string()), &at("into")).is_err());
    }
}
