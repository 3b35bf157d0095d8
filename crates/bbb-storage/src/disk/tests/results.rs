//! Results that are replaced while they are read.

use super::*;
use crate::one_thread;

const ACTION: &[u8] = b"action";

/// One that is read from its file on a thread that may wait.
fn result(byte: u8) -> ActionResult {
    ActionResult { stdout_raw: vec![byte; 2 * SMALL_BLOB_BYTES as usize], ..Default::default() }
}

/// Stores one result, and another one after a reader has read the file of the first and before it does anything with it:
/// there is one thread that may wait, and this one. `spoil` changes the first one's file. Gives what was read, and what is
/// read afterwards, by its byte.
fn replace_while_read(spoil: fn(&Path)) -> [Option<u8>; 2] {
    one_thread::run(async {
        let dir = TempDir::new().unwrap();
        let settings =
            DiskSettings { memory_bytes: 1 << 30, ..DiskSettings::new(dir.path(), 1 << 30) };
        let store = Store::open_with(DiskSettings { scrub_bytes_per_second: 0, ..settings });
        store.until_complete().await;
        let (action, results) = (Digest::of(Function::Sha256, ACTION), store.results());
        results.put(action, result(1)).await.unwrap();
        spoil(&store.path(Kind::Result, action));
        store.disk.results.clear();
        let byte = |found: Result<Option<Arc<ActionResult>>>| {
            found.unwrap().map(|result| result.stdout_raw[0])
        };
        let held = one_thread::hold_up();
        let mut reading = results.get(action);
        assert!(futures::poll!(&mut reading).is_pending());
        drop(held);
        results.put(action, result(2)).await.unwrap();
        [byte(reading.await), byte(results.get(action).await)]
    })
}

#[test]
fn what_was_read_before_does_not_hide_what_was_stored_since() {
    let [read, left] = replace_while_read(|_| {});
    assert_eq!((read, left), (Some(1), Some(2)));
}

#[test]
fn a_good_result_does_not_go_for_a_damaged_one_that_it_replaced() {
    let [read, left] = replace_while_read(change_unseen);
    assert_eq!((read, left), (Some(2), Some(2)));
}
