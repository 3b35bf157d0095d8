use std::fs;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use super::*;
use crate::remove_tree;
use rustix::fs::FileType;

/// Two lower layers and an upper one.
struct Tree(tempfile::TempDir);

impl Tree {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["upper", "one", "two"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        Tree(folder)
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn write(&self, path: &str, content: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn view(&self) -> View {
        let root = ExecRoot::Overlay {
            lowers: vec![self.path("one"), self.path("two")],
            upper: self.path("upper"),
            work: self.path("work"),
        };
        View::new(&root, Path::new("/build"))
    }
}

fn read(view: &View, path: &str) -> Option<String> {
    let mut text = String::new();
    view.open(Path::new(path)).unwrap()?.read_to_string(&mut text).unwrap();
    Some(text)
}

fn names(view: &View, path: &str) -> Vec<String> {
    let entries = view.list(Path::new(path)).unwrap().unwrap();
    entries.into_iter().map(|(name, _)| name.into_string().unwrap()).collect()
}

fn kind(view: &View, path: &str) -> Option<Kind> {
    view.look_up(Path::new(path)).unwrap().map(|entry| entry.kind)
}

#[test]
fn upper_layers_hide_lower_ones() {
    let tree = Tree::new();
    for layer in ["upper", "one", "two"] {
        tree.write(&format!("{layer}/{layer}"), layer);
        tree.write(&format!("{layer}/dir/all"), layer);
    }
    tree.write("one/dir/two", "one");
    tree.write("two/dir/two", "two");
    tree.write("two/file-above/x", "hidden");
    tree.write("one/file-above", "file");
    tree.write("two/dir-above", "hidden");
    tree.write("one/dir-above/x", "shown");
    let view = tree.view();
    assert_eq!(names(&view, ""), ["dir", "dir-above", "file-above", "one", "two", "upper"]);
    assert_eq!(names(&view, "dir"), ["all", "two"]);
    assert_eq!(read(&view, "dir/all").as_deref(), Some("upper"));
    assert_eq!(read(&view, "dir/two").as_deref(), Some("one"));
    assert_eq!(read(&view, "file-above").as_deref(), Some("file"));
    assert_eq!(kind(&view, "file-above/x"), None);
    assert_eq!(names(&view, "dir-above"), ["x"]);
    let origin = |path: &str| view.look_up(Path::new(path)).unwrap().unwrap().origin;
    assert_eq!(origin("dir/all"), Origin::Upper(tree.path("upper/dir/all")));
    assert_eq!(origin("dir/two"), Origin::Lower(tree.path("one/dir/two")));
}

#[test]
fn whiteouts_and_opaque_folders_hide() {
    let tree = Tree::new();
    for path in ["one/gone", "one/dir/gone", "one/opaque/gone", "two/opaque/gone"] {
        tree.write(path, "hidden");
    }
    tree.write("two/dir/gone", "hidden");
    tree.write("upper/opaque/new", "shown");
    tree.write("upper/dir/gone", "");
    tree.write("upper/empty", "");
    let flags = rustix::fs::XattrFlags::empty();
    if rustix::fs::setxattr(tree.path("upper/opaque"), "user.overlay.opaque", b"y", flags).is_err()
    {
        return;
    }
    rustix::fs::setxattr(tree.path("upper/dir/gone"), "user.overlay.whiteout", b"y", flags)
        .unwrap();
    let null = rustix::fs::makedev(0, 0);
    let made = rustix::fs::mknodat(
        rustix::fs::CWD,
        tree.path("upper/gone"),
        FileType::CharacterDevice,
        rustix::fs::Mode::empty(),
        null,
    );
    made.unwrap();
    let view = tree.view();
    assert_eq!(names(&view, ""), ["dir", "empty", "opaque"]);
    assert_eq!(names(&view, "dir"), [] as [&str; 0]);
    assert_eq!(names(&view, "opaque"), ["new"]);
    assert_eq!(kind(&view, "gone"), None);
    assert_eq!(read(&view, "dir/gone"), None);
    assert_eq!(read(&view, "empty").as_deref(), Some(""));
}

#[test]
fn links_are_followed_inside_only() {
    let tree = Tree::new();
    tree.write("one/dir/file", "inside");
    tree.write("secret/file", "secret");
    for (link, target) in [
        ("upper/to-dir", "dir"),
        ("upper/chain", "./to-dir"),
        ("upper/absolute", "/build/dir"),
        ("upper/out", "../secret"),
        ("upper/out-absolute", "/etc"),
        ("upper/out-below", "dir/../../secret"),
        ("upper/loop", "loop"),
        ("upper/around", "../upper/dir"),
    ] {
        symlink(target, tree.path(link)).unwrap();
    }
    symlink(tree.path("secret"), tree.path("upper/host")).unwrap();
    let view = tree.view();
    for inside in ["dir/file", "to-dir/file", "chain/file", "absolute/file", "dir/../to-dir/./file"]
    {
        assert_eq!(read(&view, inside).as_deref(), Some("inside"), "{inside}");
    }
    for outside in ["out", "out-absolute", "out-below", "loop", "around", "host"] {
        assert_eq!(kind(&view, &format!("{outside}/file")), None, "{outside}");
        assert_eq!(read(&view, &format!("{outside}/passwd")), None, "{outside}");
        assert!(matches!(kind(&view, outside), Some(Kind::Link(_))), "{outside}");
        assert_eq!(view.list(Path::new(outside)).unwrap(), None, "{outside}");
    }
    for outside in
        ["..", "../secret/file", "dir/../../secret/file", "/etc/passwd", "/build/dir/file"]
    {
        assert_eq!(kind(&view, outside), None, "{outside}");
    }
    assert_eq!(kind(&view, ""), Some(Kind::Folder));
    assert_eq!(kind(&view, "dir/.."), Some(Kind::Folder));
    assert_eq!(kind(&view, "to-dir"), Some(Kind::Link("dir".into())));
    assert_eq!(kind(&view, &"x".repeat(300)), None);
}

#[test]
fn special_files_are_never_opened() {
    let tree = Tree::new();
    let fifo = tree.path("upper/fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
    let _listener = UnixListener::bind(tree.path("upper/socket")).unwrap();
    let view = tree.view();
    for path in ["fifo", "socket"] {
        assert_eq!(kind(&view, path), Some(Kind::Special));
        assert_eq!(read(&view, path), None);
        assert_eq!(kind(&view, &format!("{path}/x")), None);
    }
    assert_eq!(names(&view, ""), ["fifo", "socket"]);
}

#[test]
fn what_cannot_be_read_is_made_readable() {
    let tree = Tree::new();
    tree.write("upper/closed/deep/file", "content");
    tree.write("upper/closed/unsearchable/file", "content");
    let mode = |path: &str, mode| {
        fs::set_permissions(tree.path(path), fs::Permissions::from_mode(mode)).unwrap();
    };
    mode("upper/closed/deep/file", 0);
    mode("upper/closed/deep", 0);
    mode("upper/closed/unsearchable", 0o400);
    mode("upper/closed", 0);
    let view = tree.view();
    assert_eq!(names(&view, "closed"), ["deep", "unsearchable"]);
    assert_eq!(read(&view, "closed/deep/file").as_deref(), Some("content"));
    assert_eq!(names(&view, "closed/unsearchable"), ["file"]);
    for path in ["closed", "closed/deep", "closed/deep/file"] {
        assert_eq!(view.look_up(Path::new(path)).unwrap().unwrap().mode, 0, "{path}");
    }
    remove_tree(&tree.path("upper")).unwrap();
}

#[test]
fn unreadable_trees_are_removed() {
    let tree = Tree::new();
    tree.write("upper/a/b/c", "");
    tree.write("secret/file", "kept");
    symlink(tree.path("secret"), tree.path("upper/a/link")).unwrap();
    for path in ["upper/a/b", "upper/a", "upper"] {
        fs::set_permissions(tree.path(path), fs::Permissions::from_mode(0o0)).unwrap();
    }
    remove_tree(&tree.path("upper")).unwrap();
    assert!(!tree.path("upper").exists());
    assert!(tree.path("secret/file").exists());
    remove_tree(&tree.path("upper")).unwrap();
}

#[test]
fn a_plain_root_that_is_gone_or_replaced_has_nothing_in_it() {
    let tree = Tree::new();
    tree.write("outside/o", "outside");
    symlink(tree.path("outside"), tree.path("link")).unwrap();
    tree.write("file", "");
    for root in ["gone", "link", "file"] {
        let view = View::new(&ExecRoot::Plain(tree.path(root)), &tree.path(root));
        for path in ["", "o", "a/b"] {
            assert_eq!(view.look_up(Path::new(path)).unwrap(), None, "{root} {path}");
            assert_eq!(view.list(Path::new(path)).unwrap(), None, "{root} {path}");
        }
    }
    // That a layer of an overlay is gone is a fault of ours.
    fs::remove_dir(tree.path("two")).unwrap();
    assert!(tree.view().look_up(Path::new("o")).is_err());
}
