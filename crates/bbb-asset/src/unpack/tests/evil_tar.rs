use std::io;

use proptest::prelude::*;

use super::{
    make::{directory, entry, file, gzip, header, link, records, sum, symlink, tar, zstd},
    *,
};

#[track_caller]
fn assert_refused(entries: &[Vec<u8>], entry: &str, what: &str) {
    let error = unpacked(&tar(entries)).unwrap_err();
    let UnpackError::Entry { entry: named, what: story } = &error else { panic!("{error:?}") };
    assert_eq!(named, entry);
    assert!(story.contains(what), "{error}");
}

#[test]
fn a_tree_is_told_with_parents_first() {
    let mut executable = header(b'0', b"bin/run", b"", 0);
    executable[100..108].copy_from_slice(b"0000755\0");
    sum(&mut executable);
    let archive = tar(&[
        directory("./"),
        file("a/b/c", b"hello"),
        directory("a/"),
        executable,
        symlink("a/up", "../bin/run"),
        link("d", "./a/b/c"),
        directory("./empty/"),
        entry(0, b"old/", b"", b""),
        entry(b'7', b"old/file", b"", b"1"),
        entry(b'V', b"a label", b"", b""),
        entry(b'g', b"pax_global_header", b"", b"16 comment=abcd\n"),
    ]);
    let expected = [
        "a/",
        "a/b/",
        "a/b/c = hello",
        "bin/",
        "bin/run* = ",
        "a/up -> ../bin/run",
        "d == a/b/c",
        "empty/",
        "old/",
        "old/file = 1",
    ];
    assert_eq!(unpacked(&archive).unwrap(), expected);
    assert_eq!(unpacked(&gzip(&archive)).unwrap(), expected);
    assert_eq!(unpacked(&zstd(&archive)).unwrap(), expected);
    assert_eq!(unpacked(&tar(&[])).unwrap(), [""; 0]);
}

#[test]
fn long_names_come_by_gnu_and_by_posix() {
    let long = format!("{}/{}", "d".repeat(200), "f".repeat(200));
    let deep = format!("{}/x", "d".repeat(150));
    let mut prefixed = header(b'0', b"name", b"", 0);
    prefixed[345..349].copy_from_slice(b"a/bc");
    sum(&mut prefixed);
    let archive = tar(&[
        entry(b'L', b"././@LongLink", b"", format!("{long}\0").as_bytes()),
        file("cut off", b"1"),
        records(&[("path", &deep), ("size", "3"), ("mtime", "1.5")]),
        [header(b'0', b"cut off", b"", 0), entry(b'0', b"", b"", b"abc")[512..].to_vec()].concat(),
        records(&[("linkpath", &deep)]),
        link("same", "cut off"),
        entry(b'K', b"././@LongLink", b"", deep.as_bytes()),
        symlink("sym", "cut off"),
        prefixed,
    ]);
    assert_eq!(
        unpacked(&archive).unwrap(),
        [
            format!("{}/", "d".repeat(200)),
            format!("{long} = 1"),
            format!("{}/", "d".repeat(150)),
            format!("{deep} = abc"),
            format!("same == {deep}"),
            format!("sym -> {deep}"),
            "a/".into(),
            "a/bc/".into(),
            "a/bc/name = ".into(),
        ]
    );
}

#[test]
fn names_that_lead_out_are_refused() {
    for (name, what) in [
        ("/etc/passwd", "absolute"),
        ("//x", "absolute"),
        ("..", "goes up"),
        ("../x", "goes up"),
        ("a/../../x", "goes up"),
        ("a/../x", "goes up"),
        ("", "and the root"),
        ("./", "and the root"),
    ] {
        // What ends with a slash would be a directory, which the root may be.
        let kind = if name.ends_with('/') { b'2' } else { b'0' };
        assert_refused(&[entry(kind, name.as_bytes(), b"x", b"")], name, what);
    }
    assert_refused(&[entry(b'0', b"a\xff", b"", b"")], "a\u{fffd}", "UTF-8");
    let long = "n".repeat(300);
    let told = format!("{}…", "n".repeat(200));
    assert_refused(&[records(&[("path", &long)]), file("x", b"")], &told, "segment");
    let long = "n/".repeat(3000);
    let told = format!("{}…", "n/".repeat(100));
    assert_refused(&[records(&[("path", &long)]), file("x", b"")], &told, "4096 bytes");
    let deep = "n/".repeat(200);
    assert_refused(&[records(&[("path", &deep)]), directory("x")], &told, "128 directories");
    // It would be another name to whoever reads it as C does.
    let text = b"16 path=a\0/../b\n";
    let hidden = [entry(b'x', b"x", b"", text), file("x", b"")];
    assert_refused(&hidden, "x", "broken record");
}

#[test]
fn links_that_lead_out_or_are_walked_through_are_refused() {
    for target in ["/etc", "../..", "a/../../..", "./../.."] {
        assert_refused(&[symlink("d/l", target)], "d/l", "leads out");
    }
    assert_refused(&[symlink("l", "..")], "l", "leads out");
}

#[test]
fn a_link_may_lead_as_far_as_the_root() {
    let archive =
        tar(&[symlink("d/l", ".."), symlink("d/m", "../d/../d/l"), symlink("n", "nowhere")]);
    assert_eq!(
        unpacked(&archive).unwrap(),
        ["d/", "d/l -> ..", "d/m -> ../d/../d/l", "n -> nowhere"]
    );
    assert_refused(&[symlink("l", "d"), file("l/x", b"")], "l/x", "which is a symbolic link");
    assert_refused(&[symlink("l", "d"), directory("l")], "l", "before, as a symbolic link");
    assert_refused(&[symlink("l", "d"), file("l", b"")], "l", "before, as a symbolic link");
    assert_refused(&[file("f", b""), file("f/x", b"")], "f/x", "which is a file");
    assert_refused(&[symlink("l", "")], "l", "target is empty");
}

#[test]
fn what_is_there_is_not_there_twice() {
    assert_refused(&[file("f", b"1"), file("f", b"2")], "f", "before, as a file");
    assert_refused(&[file("f", b"1"), file("./f", b"2")], "./f", "before, as a file");
    assert_refused(&[directory("d"), file("d", b"2")], "d", "before, as a directory");
    assert_refused(&[file("d/x", b""), symlink("d", "x")], "d", "before, as a directory");
    assert!(unpacked(&tar(&[directory("d"), file("d/f", b""), directory("d/")])).is_ok());
}

#[test]
fn hard_links_lead_to_files_that_came_before() {
    let target = "is a hard link to nothing that came before";
    assert_refused(&[link("l", "f"), file("f", b"")], "l", target);
    assert_refused(&[link("l", "l")], "l", target);
    assert_refused(&[directory("d"), link("l", "d")], "l", "to a directory");
    assert_refused(&[symlink("s", "x"), link("l", "s")], "l", "to a symbolic link");
    assert_refused(&[symlink("s", "d"), file("d/f", b""), link("l", "s/f")], "l", target);
    assert_refused(&[link("l", "/etc/passwd")], "l", "absolute");
    assert_refused(&[link("l", "../x")], "l", "goes up");
    assert_refused(&[file("f", b""), entry(b'1', b"l", b"f", b"more")], "l", "has content");
}

#[test]
fn what_is_no_file_is_refused() {
    for (kind, what) in [
        (b'3', "device"),
        (b'4', "device"),
        (b'6', "pipe"),
        (b'S', "sparse"),
        (b'M', "volume"),
        (b'D', "nobody knows"),
        (b'A', "nobody knows"),
    ] {
        assert_refused(&[entry(kind, b"x", b"", b"")], "x", what);
    }
    assert_refused(
        &[records(&[("GNU.sparse.major", "1")]), file("x", b"")],
        "PaxHeaders/x",
        "sparse",
    );
    let all = entry(b'g', b"g", b"", b"11 path=ab\n");
    assert_refused(&[all, file("x", b"")], "g", "all entries");
}

#[test]
fn damage_is_seen_and_told() {
    let mut archive = tar(&[file("a", b"x"), file("b", b"y")]);
    archive[1024] ^= 1;
    assert!(refused(&archive).contains("behind the entry \"a\""), "{}", refused(&archive));
    let mut archive = gzip(&tar(&[file("a", b"x")]));
    let last = archive.len() - 6;
    archive[last] ^= 1;
    assert!(refused(&archive).contains("damaged"), "{}", refused(&archive));
    let announced = tar(&[records(&[("path", "x")])]);
    assert!(refused(&announced).contains("announced"), "{}", refused(&announced));
    let mut archive = gzip(&tar(&[file("a", b"x")]));
    archive.extend_from_slice(&[0; 1000]);
    assert!(unpacked(&archive).is_ok());
    archive.push(b'x');
    assert!(refused(&archive).contains("something comes behind"), "{}", refused(&archive));
    let mut archive = zstd(&tar(&[file("a", b"x")]));
    archive.extend_from_slice(b"garbage");
    assert!(refused(&archive).contains("damaged"), "{}", refused(&archive));
}

#[test]
fn packers_may_pack_in_parts() {
    let archive = tar(&[file("a", &[b'a'; 3000]), file("b", b"y")]);
    let expected = ["a = 3000 bytes", "b = y"];
    for cut in [1, 511, 700, 4000, archive.len()] {
        let (start, end) = archive.split_at(cut);
        let gzipped = [gzip(start), gzip(b""), gzip(end)].concat();
        assert_eq!(unpacked(&gzipped).unwrap(), expected);
        let skipped = [0x53, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3].to_vec();
        let zstd = [skipped, zstd(start), zstd(b""), zstd(end)].concat();
        assert_eq!(unpacked(&zstd).unwrap(), expected);
    }
}

#[test]
fn no_part_of_an_archive_is_taken_for_it() {
    let archive =
        tar(&[directory("d"), file("d/a", &[b'a'; 700]), symlink("s", "d"), link("l", "d/a")]);
    assert_no_part_is_taken(&archive);
    assert_no_part_is_taken(&gzip(&archive));
    assert_no_part_is_taken(&[gzip(&archive[..800]), gzip(&archive[800..])].concat());
    assert_no_part_is_taken(&zstd(&archive));
    assert_no_part_is_taken(&[zstd(&archive[..800]), zstd(&archive[800..])].concat());
}

#[test]
fn there_is_a_bound_to_everything() {
    let limits = UnpackLimits { entries: 5, ..LIMITS };
    let five = tar(&[file("a", b""), file("b/c", b""), file("b/d", b""), file("b/e", b"")]);
    assert!(unpacked_within(&five, &limits).is_ok());
    let six = tar(&[file("a", b""), file("b/c/d/e/f", b"")]);
    let error = unpacked_within(&six, &limits).unwrap_err();
    assert_eq!(error.to_string(), "the archive has more than 5 entries");

    let zeros = vec![0; 3 << 20];
    let archive = tar(&[file("a", &zeros)]);
    let limits = UnpackLimits { free_bytes: 1 << 20, ..LIMITS };
    assert!(unpacked_within(&archive, &limits).is_ok());
    for packed in [gzip(&archive), zstd(&archive)] {
        assert!(unpacked(&packed).is_ok());
        let error = unpacked_within(&packed, &limits).unwrap_err();
        assert!(matches!(&error, UnpackError::TooMuch(what) if what.contains("trap")), "{error:?}");
    }
    let limits = UnpackLimits { bytes: 1 << 20, ..LIMITS };
    let error = unpacked_within(&archive, &limits).unwrap_err();
    assert!(matches!(error, UnpackError::TooMuch(_)), "{error:?}");

    // Claimed, and not there.
    let error = unpacked(&header(b'L', b"", b"", 1 << 32)).unwrap_err();
    assert!(matches!(error, UnpackError::TooMuch(_)), "{error:?}");
    let error = unpacked(&header(b'0', b"a", b"", 1 << 32)).unwrap_err();
    assert!(matches!(error, UnpackError::Damaged(_)), "{error:?}");
}

#[test]
fn packers_cannot_ask_for_much_memory() {
    // A frame with a window of 2 GiB, of RFC 8878, section 3.1.1.1.2.
    let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3, 0x01, 0, 0];
    assert!(refused(&frame).contains("memory"), "{}", refused(&frame));
}

#[test]
fn a_stream_is_unpacked_as_it_comes() {
    let archive = tar(&[file("a", &[b'a'; 700])]);
    let mut told = Told::default();
    unpack_tar(&*archive, &LIMITS, &mut told).unwrap();
    assert_eq!(told.0, ["a = 700 bytes"]);
    let error = unpack_tar(&archive[..1024], &LIMITS, &mut Told::default()).unwrap_err();
    assert!(matches!(error, UnpackError::Damaged(_)), "{error:?}");
    let limits = UnpackLimits::of_bytes(100);
    let error = unpack_tar(io::repeat(0).take(1000), &limits, &mut Told::default()).unwrap_err();
    assert!(matches!(error, UnpackError::TooMuch(_)), "{error:?}");
}

proptest! {
    #[test]
    fn nothing_that_can_be_in_a_header_panics(
        changes in proptest::collection::vec((0..4096_usize, any::<u8>()), 1..20),
        right_sums in any::<bool>(),
    ) {
        let long = "d/".repeat(80);
        let mut archive = tar(&[
            records(&[("path", &long), ("size", "4")]), file("a", b"1234"), link("l", &long[..100]), symlink("s", "a"),
        ]);
        for (at, byte) in changes {
            archive[at] = byte;
        }
        for at in [0, 1024, 2048, 2560] {
            if right_sums {
                sum(&mut archive[at..]);
            }
        }
        let _ = unpacked(&archive);
    }
}
