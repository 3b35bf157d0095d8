use proptest::prelude::*;

use super::{
    make::{Zipped, deflated, stored, zip},
    *,
};

#[track_caller]
fn assert_refused(files: &[Zipped], entry: &str, what: &str) {
    let error = unpacked(&zip(files)).unwrap_err();
    let UnpackError::Entry { entry: named, what: story } = &error else { panic!("{error:?}") };
    assert_eq!(named, entry);
    assert!(story.contains(what), "{error}");
}

fn symlink(name: &str, target: &str) -> Zipped {
    Zipped { mode: 0o120_777, ..stored(name, target.as_bytes()) }
}

#[test]
fn files_links_and_directories_are_told() {
    let text = "hello ".repeat(100);
    let archive = zip(&[
        stored("d/", b""),
        deflated("d/text", text.as_bytes()),
        Zipped { mode: 0o100_755, ..stored("d/run", b"#!") },
        symlink("l", "d/run"),
        stored("e/f/empty", b""),
        Zipped { mode: 0, ..deflated("no mode", b"x") },
        Zipped { mode: 0o040_755, ..stored("g", b"") },
    ]);
    let expected = [
        "d/",
        "d/text = 600 bytes",
        "d/run* = #!",
        "l -> d/run",
        "e/",
        "e/f/",
        "e/f/empty = ",
        "no mode = x",
        "g/",
    ];
    assert_eq!(unpacked(&archive).unwrap(), expected);
    assert_eq!(unpacked(&zip(&[])).unwrap(), [""; 0]);
    assert_no_part_is_taken(&archive);
}

#[test]
fn evil_names_and_links_are_refused() {
    for (name, what) in [
        ("/x", "absolute"),
        ("../x", "goes up"),
        ("a/../../x", "goes up"),
        ("..\\x", "backslash"),
        ("C:\\x", "backslash"),
        ("", "and the root"),
    ] {
        assert_refused(&[stored(name, b"")], name, what);
    }
    assert_refused(&[symlink("l", "../x")], "l", "leads out");
    assert_refused(&[symlink("l", "/x")], "l", "leads out");
    assert_refused(&[symlink("l", &"x/".repeat(3000))], "l", "too long");
    assert_refused(&[symlink("l", "d"), stored("l/x", b"")], "l/x", "a symbolic link");
    assert_refused(&[stored("a", b""), stored("a", b"")], "a", "before, as a file");
    assert_refused(&[Zipped { mode: 0o020_644, ..stored("dev", b"") }], "dev", "neither");
    assert_refused(&[Zipped { mode: 0o120_777, ..stored("l/", b"x") }], "l/", "neither");
    assert_refused(&[stored("d/", b"content")], "d/", "has content");
}

#[test]
fn what_cannot_be_read_is_refused() {
    for flags in [1, 1 << 5, 1 << 6, 1 << 13] {
        assert_refused(&[Zipped { flags, ..stored("a", b"x") }], "a", "encrypted");
    }
    assert_refused(&[Zipped { method: 12, ..stored("a", b"x") }], "a", "method 12");
    assert_refused(&[Zipped { method: 99, ..stored("a", b"x") }], "a", "method 99");
}

#[test]
fn the_directory_and_what_it_tells_of_are_the_same() {
    let hidden = Zipped { local_name: b"b".into(), ..stored("a", b"x") };
    assert_refused(&[hidden], "a", "another one where it lies");
    let both = Zipped { at_of: Some(0), ..stored("a", b"x") };
    assert_refused(&[stored("a", b"x"), both], "a", "overlaps");
    let shorter = Zipped { packed: b"xy".into(), size_bytes: 2, ..stored("a", b"x") };
    assert_refused(&[shorter], "a", "checksum");
    assert_refused(&[Zipped { size_bytes: 1, ..deflated("a", b"xy") }], "a", "longer");
    assert_refused(&[Zipped { size_bytes: 3, ..deflated("a", b"xy") }], "a", "shorter");
    assert_refused(&[Zipped { size_bytes: 3, ..stored("a", b"xy") }], "a", "another size");
    let mut archive = zip(&[stored("a", b"x")]);
    archive.extend_from_slice(b"garbage");
    assert!(refused(&archive).contains("no end"), "{}", refused(&archive));
}

/// The trap of one kernel that many files share, each with the header of the next one before it (Fifield, 2019).
#[test]
fn files_within_files_are_refused() {
    let inner = zip(&[deflated("b", &[0; 10_000])]);
    let outer = stored("a", &inner);
    let mut archive = zip(&[outer, deflated("b", &[0; 10_000])]);
    // What the directory says of b leads to the one within a.
    let at = archive.windows(4).rposition(|four| four == b"PK\x01\x02").unwrap();
    archive[at + 42..at + 46].copy_from_slice(&31_u32.to_le_bytes());
    assert!(refused(&archive).contains("\"b\" overlaps another one"), "{}", refused(&archive));
}

#[test]
fn there_is_a_bound_to_everything() {
    let archive = zip(&[deflated("a", &vec![0; 2 << 20]), deflated("b", &vec![0; 2 << 20])]);
    assert!(unpacked(&archive).is_ok());
    let limits = UnpackLimits { free_bytes: 3 << 20, ..LIMITS };
    let error = unpacked_within(&archive, &limits).unwrap_err();
    assert!(matches!(&error, UnpackError::TooMuch(what) if what.contains("trap")), "{error:?}");
    let limits = UnpackLimits { entries: 1, ..LIMITS };
    let error = unpacked_within(&archive, &limits).unwrap_err();
    assert!(matches!(error, UnpackError::TooMuch(_)), "{error:?}");
    // That many are only claimed.
    let mut archive = zip(&[stored("a", b"x")]);
    let end = archive.len() - 22;
    archive[end + 8..end + 12].copy_from_slice(&[0xff; 4]);
    assert!(matches!(unpacked(&archive).unwrap_err(), UnpackError::Damaged(_)));
    archive[end + 12..end + 16].copy_from_slice(&[0xff; 4]);
    assert!(unpacked(&archive).is_err());
}

proptest! {
    #[test]
    fn nothing_that_can_be_in_an_archive_panics(
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..12),
    ) {
        let mut archive = zip(&[deflated("a", &[b'a'; 100]), symlink("l", "a"), stored("d/b", b"x")]);
        for (at, byte) in changes {
            let at = at.index(archive.len());
            archive[at] = byte;
        }
        let _ = unpacked(&archive);
    }
}
