//! Directories fetched: archives from a file server, unpacked into the store.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod rig;

use std::{fmt::Write as _, time::SystemTime};

use bbb_asset::{Failed, FetchError, Found, Kind};
use bbb_digest::{Digest, Function};
use bbb_reapi::Directory;
use bbb_storage::CasExt as _;
use rig::{Rig, Server, sri, wanted_as};

const LOOPBACK: &[&str] = &["127.0.0.1"];

/// A file of a tar archive, a directory where the name ends with a slash, or a link where there is a target.
fn entry(name: &str, mode: &str, target: &str, content: &[u8]) -> Vec<u8> {
    let mut entry = vec![0; 512];
    entry[..name.len()].copy_from_slice(name.as_bytes());
    entry[100..107].copy_from_slice(mode.as_bytes());
    entry[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
    entry[156] = match (target.is_empty(), name.ends_with('/')) {
        (true, true) => b'5',
        (true, false) => b'0',
        (false, true) => b'1',
        (false, false) => b'2',
    };
    entry[157..157 + target.len()].copy_from_slice(target.as_bytes());
    entry[148..156].copy_from_slice(b"        ");
    let sum: u32 = entry.iter().map(|byte: &u8| u32::from(*byte)).sum();
    entry[148..154].copy_from_slice(format!("{sum:06o}").as_bytes());
    entry.extend_from_slice(content);
    entry.resize(entry.len().next_multiple_of(512), 0);
    entry
}

fn tar(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut tar = entries.concat();
    tar.resize(tar.len() + 1024, 0);
    tar
}

/// A tree with everything that a tree has.
fn archive() -> Vec<u8> {
    tar(&[
        entry("z/last", "0000644", "", b"same"),
        entry("big", "0000644", "", &big()),
        entry("a/run", "0000755", "", b"#!/bin/sh"),
        entry("a/link", "0000777", "../z/last", b""),
        entry("a/empty/", "0000755", "", b""),
        entry("a/copy", "0000644", "", b"same"),
        entry("nothing", "0000644", "", b""),
    ])
}

/// More than goes through memory.
fn big() -> Vec<u8> {
    (0..1_500_000_u32).map(|number| (number.wrapping_mul(7919) >> 8) as u8).collect()
}

async fn fetch(rig: &Rig, url: &str, pairs: &[(&str, &str)]) -> Result<Found, FetchError> {
    rig.assets.fetch(wanted_as(Kind::Directory, &[url], pairs), SystemTime::now()).await
}

async fn failure(rig: &Rig, url: &str, pairs: &[(&str, &str)]) -> (Failed, String) {
    match fetch(rig, url, pairs).await {
        Err(FetchError::Outside { failed, what, .. }) => (failed, what),
        other => panic!("fetched {url}: {other:?}"),
    }
}

/// What the store has as a tree, one line for each entry; every message in it is canonical.
async fn tree(rig: &Rig, root: Digest) -> String {
    let (mut lines, mut left) = (String::new(), vec![(String::new(), root)]);
    while let Some((path, digest)) = left.pop() {
        let bytes = rig.stores.cas.get_bytes(digest, 1 << 20).await.unwrap();
        let directory = Directory::decode(Function::Sha256, &bytes).unwrap();
        let mut sorted = directory.clone();
        sorted.sort();
        assert_eq!(sorted, directory);
        for file in &directory.files {
            let bytes = rig.stores.cas.get_bytes(file.digest, 1 << 22).await.unwrap();
            let star = if file.is_executable { "*" } else { "" };
            let text = String::from_utf8_lossy(&bytes[..bytes.len().min(9)]).into_owned();
            let text = if bytes.len() > 9 { bytes.len().to_string() } else { text };
            writeln!(lines, "{path}{}{star} = {text}", file.name.as_str()).unwrap();
        }
        for link in &directory.symlinks {
            writeln!(lines, "{path}{} -> {}", link.name.as_str(), link.target).unwrap();
        }
        for below in directory.directories.iter().rev() {
            let path = format!("{path}{}/", below.name.as_str());
            left.push((path, below.digest));
        }
        writeln!(lines, "{path}.").unwrap();
    }
    lines
}

#[tokio::test]
async fn an_archive_becomes_a_tree() {
    let archive = archive();
    let (server, rig) = (Server::files(&[("/a.tar", &archive)]).await, Rig::new(LOOPBACK));
    let url = server.url("/a.tar");
    let found = fetch(&rig, &url, &[("checksum.sri", &sri(&archive))]).await.unwrap();
    let expected = "big = 1500000\nnothing = \n.\na/copy = same\na/run* = #!/bin/sh\na/link -> ../z/last\na/.\n\
                    a/empty/.\nz/last = same\nz/.\n";
    assert_eq!(tree(&rig, found.content).await, expected);
    // It is remembered, and the archive itself is not kept: four files, of which two are the same and one is empty, and four
    // directories, of which one is empty.
    let again = fetch(&rig, &url, &[("checksum.sri", &sri(&archive))]).await.unwrap();
    assert_eq!((again, server.asked().len()), (found, 1));
    assert_eq!(rig.holds(), (6, 1, 0));
}

#[tokio::test]
async fn one_tree_has_one_digest() {
    let other = tar(&[
        entry("./nothing", "0000600", "", b""),
        entry("./a/", "0000700", "", b""),
        entry("./a/run", "0000700", "", b"#!/bin/sh"),
        entry("./a/copy", "0000444", "", b"same"),
        entry("./a/empty/", "0000700", "", b""),
        entry("./a/link", "0000777", "../z/last", b""),
        entry("./z/last", "0000600", "", b"same"),
        entry("./big", "0000600", "", &big()),
    ]);
    let files: [(&str, &[u8]); 2] = [("/one", &archive()), ("/other", &other)];
    let (server, rig) = (Server::files(&files).await, Rig::new(LOOPBACK));
    let one = fetch(&rig, &server.url("/one"), &[]).await.unwrap();
    let other = fetch(&rig, &server.url("/other"), &[]).await.unwrap();
    assert_eq!(one.content, other.content);
}

#[tokio::test]
async fn a_part_of_an_archive_is_a_directory_too() {
    let (server, rig) = (Server::files(&[("/a.tar", &archive())]).await, Rig::new(LOOPBACK));
    let url = server.url("/a.tar");
    let found = fetch(&rig, &url, &[("directory", "./z/")]).await.unwrap();
    assert_eq!(tree(&rig, found.content).await, "last = same\n.\n");
    let found = fetch(&rig, &url, &[("directory", "a/empty")]).await.unwrap();
    assert!(found.content.is_empty());
    for (part, story) in [
        ("b", "no such directory"),
        ("a/run", "no such directory"),
        ("../z", "goes up"),
        ("/z", "absolute"),
    ] {
        let (failed, what) = failure(&rig, &url, &[("directory", part)]).await;
        assert_eq!(failed, Failed::NotFound);
        assert!(what.contains(story), "{what}");
    }
}

#[tokio::test]
async fn what_cannot_be_unpacked_is_told_and_not_kept() {
    let evil = tar(&[entry("fine", "0000644", "", &big()), entry("../evil", "0000644", "", b"")]);
    let cut = &archive()[..600_000];
    let full: Vec<Vec<u8>> = (0..6)
        .map(|number| entry(&number.to_string(), "0000644", "", &big()[number..1_000_000]))
        .collect();
    // It is within the limit as long as it is packed.
    let full = zstd::encode_all(&*tar(&full), 1).unwrap();
    let files: [(&str, &[u8]); 4] =
        [("/evil", &evil), ("/cut", cut), ("/page", b"<html>sign in</html>"), ("/full", &full)];
    let (server, rig) = (Server::files(&files).await, Rig::new(LOOPBACK));
    for (path, expected, story) in [
        ("/evil", Failed::Aborted, "the entry \"../evil\" has a path that goes up"),
        ("/cut", Failed::Aborted, "within the entry \"big\": it ends too early"),
        ("/page", Failed::Aborted, "is no archive"),
        ("/full", Failed::Exhausted, "more than 4194304 bytes"),
    ] {
        let (failed, what) = failure(&rig, &server.url(path), &[]).await;
        assert_eq!(failed, expected, "{what}");
        assert!(what.contains(story), "{what}");
        let (_, records, scratch) = rig.holds();
        assert_eq!((records, scratch), (0, 0));
    }
}
