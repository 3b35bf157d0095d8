//! Any body is cut into the same messages however it comes, or is refused; and fields of any message are
//! read or refused.
#![no_main]

use bbb_grpc::wire::{Fields, Frames};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fn messages(body: &[u8], cut: usize) -> Vec<Bytes> {
    let mut frames = Frames::new(1 << 16);
    let mut messages = Vec::new();
    for piece in body.chunks(cut) {
        frames.push(Bytes::copy_from_slice(piece));
        while let Ok(Some(message)) = frames.next_message() {
            messages.push(message.into_bytes());
        }
    }
    messages
}

fuzz_target!(|input: (u8, &[u8])| {
    let (cut, body) = input;
    let cut = messages(body, usize::from(cut) + 1);
    if !body.is_empty() {
        assert_eq!(cut, messages(body, body.len()));
    }
    for message in cut {
        let _ = Fields::new(&message).count();
    }
});
