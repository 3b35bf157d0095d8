//! Archives that well-known programs made of one tree: see `../fixtures/make`.

use super::*;

/// What is in all of them; the order is the program's.
fn tree(long: &str) -> Vec<String> {
    let mut tree: Vec<String> =
        ["run* = #!/bin/sh", "dir/", "dir/empty = ", "empty/", "to -> dir/../run", "größe = 5 µm"]
            .map(String::from)
            .into();
    tree.push(format!("dir/{long}/"));
    tree.push(format!("dir/{long}/{long} = 20000 bytes"));
    tree.sort();
    tree
}

#[track_caller]
fn assert_is_tree(archive: &[u8], name_bytes: usize, has_link: bool) {
    let mut told = unpacked(archive).unwrap();
    let is_link = |line: &String| line.contains("==") || line.starts_with("same");
    assert_eq!(told.iter().filter(|line| is_link(line)).count(), usize::from(has_link), "{told:?}");
    told.retain(|line| !is_link(line));
    told.sort();
    assert_eq!(told, tree(&"n".repeat(name_bytes)));
}

#[test]
fn what_programs_make_is_unpacked() {
    assert_is_tree(include_bytes!("../fixtures/gnu.tar.gz"), 150, true);
    assert_is_tree(include_bytes!("../fixtures/pax.tar.xz"), 150, true);
    assert_is_tree(include_bytes!("../fixtures/ustar.tar.zst"), 80, true);
    assert_is_tree(include_bytes!("../fixtures/oldgnu.tar.xz"), 150, true);
    assert_is_tree(include_bytes!("../fixtures/python.tar.gz"), 150, true);
    assert_is_tree(include_bytes!("../fixtures/info.zip"), 150, false);
    assert_is_tree(include_bytes!("../fixtures/zip64.zip"), 150, false);
    assert_is_tree(include_bytes!("../fixtures/streamed.zip"), 150, false);
}

#[test]
fn no_part_of_what_programs_make_is_taken_for_it() {
    assert_no_part_is_taken(include_bytes!("../fixtures/pax.tar.xz"));
    assert_no_part_is_taken(include_bytes!("../fixtures/zip64.zip"));
    assert_no_part_is_taken(include_bytes!("../fixtures/streamed.zip"));
}

#[test]
fn xz_may_come_in_parts_and_not_ask_for_much_memory() {
    let parts: &[u8] = include_bytes!("../fixtures/parts.tar.xz");
    assert_is_tree(parts, 150, true);
    assert_is_tree(&[parts, &[0; 8]].concat(), 150, true);
    assert!(refused(&[parts, b"garb"].concat()).contains("damaged"));
    let greedy = refused(include_bytes!("../fixtures/greedy.tar.xz"));
    assert!(greedy.contains("memory"), "{greedy}");
}

#[test]
fn what_programs_make_and_nobody_takes_is_told() {
    let story = refused(include_bytes!("../fixtures/encrypted.zip"));
    assert!(story.contains("\"secret\" is encrypted"), "{story}");
    let story = refused(include_bytes!("../fixtures/sparse.tar.gz"));
    assert!(story.contains("\"sparse\" is a sparse file"), "{story}");
    let story = refused(include_bytes!("../fixtures/sparse-pax.tar.gz"));
    assert!(story.contains("is about a sparse file"), "{story}");
}
