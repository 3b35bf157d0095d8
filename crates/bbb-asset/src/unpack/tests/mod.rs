//! What archives say, and what must not come of it.

mod evil_tar;
mod evil_zip;
mod make;
mod real;

use std::io::{self, Cursor, Read};

use super::*;

/// What a sink is told, one line each.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told(Vec<String>);

impl Sink for Told {
    fn directory(&mut self, path: &EntryPath) -> io::Result<()> {
        self.0.push(format!("{path}/"));
        Ok(())
    }

    fn file(
        &mut self,
        path: &EntryPath,
        executable: bool,
        content: &mut dyn Read,
    ) -> io::Result<()> {
        let mut bytes = Vec::new();
        content.read_to_end(&mut bytes)?;
        let star = if executable { "*" } else { "" };
        let text = match bytes.len() {
            0..40 => String::from_utf8_lossy(&bytes).into_owned(),
            long => format!("{long} bytes"),
        };
        self.0.push(format!("{path}{star} = {text}"));
        Ok(())
    }

    fn link(&mut self, path: &EntryPath, to: &EntryPath) -> io::Result<()> {
        self.0.push(format!("{path} == {to}"));
        Ok(())
    }

    fn symlink(&mut self, path: &EntryPath, target: &str) -> io::Result<()> {
        self.0.push(format!("{path} -> {target}"));
        Ok(())
    }
}

const LIMITS: UnpackLimits = UnpackLimits::of_bytes(1 << 30);

fn unpacked_within(archive: &[u8], limits: &UnpackLimits) -> Result<Vec<String>, UnpackError> {
    let mut told = Told::default();
    unpack(Cursor::new(archive), limits, &mut told).map(|()| told.0)
}

fn unpacked(archive: &[u8]) -> Result<Vec<String>, UnpackError> {
    unpacked_within(archive, &LIMITS)
}

/// The story of an archive that is refused.
#[track_caller]
fn refused(archive: &[u8]) -> String {
    unpacked(archive).expect_err("it was unpacked").to_string()
}

/// Any beginning of an archive is refused, or is all of it.
#[track_caller]
fn assert_no_part_is_taken(archive: &[u8]) {
    let whole = unpacked(archive).unwrap();
    for len in 0..archive.len() {
        match unpacked(&archive[..len]) {
            Ok(part) => assert_eq!(part, whole, "cut off after {len} of {} bytes", archive.len()),
            Err(UnpackError::Damaged(_) | UnpackError::Format(_) | UnpackError::Entry { .. }) => {}
            Err(error) => panic!("cut off after {len} bytes: {error:?}"),
        }
    }
}

#[test]
fn what_is_no_archive_is_called_so() {
    for bytes in [
        b"".as_slice(),
        b"x",
        b"<!DOCTYPE html>",
        b"BZh91AY&SY",
        b"7z\xbc\xaf\x27\x1c",
        b"PK\x07\x08PK\x03\x04",
        &[b'a'; 10_000],
    ] {
        let error = unpacked(bytes).unwrap_err();
        assert!(matches!(error, UnpackError::Format(_)), "{bytes:?}: {error:?}");
    }
    let text = make::gzip(b"only a text, and packed");
    let error = unpacked(&text).unwrap_err();
    assert!(matches!(error, UnpackError::Damaged(_)), "{error:?}");
    let page = make::gzip(&[b'a'; 10_000]);
    assert!(matches!(unpacked(&page).unwrap_err(), UnpackError::Format(_)));
}

#[test]
fn faults_of_the_disk_and_of_the_sink_are_not_the_archive_s() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("the disk is broken"))
        }
    }
    impl Seek for Broken {
        fn seek(&mut self, _: SeekFrom) -> io::Result<u64> {
            Ok(0)
        }
    }
    let error = unpack(Broken, &LIMITS, &mut Told::default()).unwrap_err();
    assert!(matches!(error, UnpackError::Unreadable(_)), "{error:?}");
    let error = unpack_tar(Broken, &LIMITS, &mut Told::default()).unwrap_err();
    assert!(matches!(error, UnpackError::Unreadable(_)), "{error:?}");

    struct Full;
    impl Sink for Full {
        fn directory(&mut self, _: &EntryPath) -> io::Result<()> {
            Ok(())
        }
        fn file(&mut self, _: &EntryPath, _: bool, _: &mut dyn Read) -> io::Result<()> {
            Err(io::Error::other("no room"))
        }
        fn link(&mut self, _: &EntryPath, _: &EntryPath) -> io::Result<()> {
            Ok(())
        }
        fn symlink(&mut self, _: &EntryPath, _: &str) -> io::Result<()> {
            Ok(())
        }
    }
    for archive in [make::tar(&[make::file("a", b"x")]), make::zip(&[make::stored("a", b"x")])] {
        let error = unpack(Cursor::new(archive), &LIMITS, &mut Full).unwrap_err();
        assert!(matches!(error, UnpackError::Sink(_)), "{error:?}");
    }
}
