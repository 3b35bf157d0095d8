//! Any bytes are an archive or are refused, and what an archive has in it is a tree: of plain names, parents first, each once.
#![no_main]

use std::{
    collections::HashSet,
    io::{self, Cursor, Read},
};

use bbb_asset::{EntryPath, Sink, UnpackLimits, unpack, unpack_tar};
use libfuzzer_sys::fuzz_target;

/// Little, so that a trap is noticed and does not take the time of many others.
const LIMITS: UnpackLimits = UnpackLimits {
    entries: 100,
    bytes: 1 << 20,
    ratio: 50,
    free_bytes: 64 << 10,
    depth: 10,
    path_bytes: 300,
};

#[derive(Default)]
struct Tree {
    directories: HashSet<String>,
    files: HashSet<String>,
    symlinks: HashSet<String>,
}

impl Tree {
    /// Holds the name of a new entry against what came before.
    fn check(&self, path: &EntryPath) -> String {
        let names = path.names();
        assert!(!names.is_empty() && names.len() <= LIMITS.depth);
        for name in names {
            let name = name.as_str();
            assert!(!matches!(name, "" | "." | "..") && !name.contains(['/', '\0']));
        }
        let path = path.to_string();
        assert!(path.len() <= LIMITS.path_bytes);
        if let Some((parent, _)) = path.rsplit_once('/') {
            assert!(self.directories.contains(parent), "{path} has no parent");
        }
        let all = [&self.directories, &self.files, &self.symlinks];
        assert!(!all.iter().any(|names| names.contains(&path)), "{path} is there twice");
        assert!(all.iter().map(|names| names.len()).sum::<usize>() < LIMITS.entries);
        path
    }
}

impl Sink for Tree {
    fn directory(&mut self, path: &EntryPath) -> io::Result<()> {
        let path = self.check(path);
        self.directories.insert(path);
        Ok(())
    }

    fn file(&mut self, path: &EntryPath, _: bool, content: &mut dyn Read) -> io::Result<()> {
        assert!(io::copy(content, &mut io::sink())? <= LIMITS.bytes);
        let path = self.check(path);
        self.files.insert(path);
        Ok(())
    }

    fn link(&mut self, path: &EntryPath, to: &EntryPath) -> io::Result<()> {
        assert!(self.files.contains(&to.to_string()), "{path} is a link to nothing");
        let path = self.check(path);
        self.files.insert(path);
        Ok(())
    }

    fn symlink(&mut self, path: &EntryPath, target: &str) -> io::Result<()> {
        let path = self.check(path);
        let mut depth = path.matches('/').count();
        assert!(!target.is_empty() && !target.starts_with('/'));
        for segment in target.split('/') {
            match segment {
                "" | "." => {}
                ".." => depth = depth.checked_sub(1).expect("no link leads out"),
                _ => depth += 1,
            }
        }
        self.symlinks.insert(path);
        Ok(())
    }
}

fuzz_target!(|bytes: &[u8]| {
    let _ = unpack(Cursor::new(bytes), &LIMITS, &mut Tree::default());
    let _ = unpack_tar(bytes, &LIMITS, &mut Tree::default());
});
