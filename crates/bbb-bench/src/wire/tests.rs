use bbb_reapi::proto::bytestream::ReadResponse;
use proptest::prelude::*;

use super::*;

fn body(outgoing: Outgoing) -> Vec<u8> {
    outgoing.0.iter().flat_map(|piece| piece.iter().copied()).collect()
}

fn messages(body: &[u8]) -> Vec<Bytes> {
    let mut messages = Messages::default();
    messages.push(body);
    let mut out = Vec::new();
    while let Some(message) = messages.pop().unwrap() {
        out.push(message);
    }
    assert!(messages.is_empty());
    out
}

proptest! {
    #[test]
    fn writes_say_offsets_and_carry_all_bytes(
        parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20_000), 0..4),
        message_bytes in 1usize..30_000,
    ) {
        let parts: Vec<Bytes> = parts.into_iter().map(Bytes::from).filter(|p| !p.is_empty()).collect();
        let whole: Vec<u8> = parts.iter().flatten().copied().collect();
        let outgoing = Outgoing::write("name".into(), &parts, message_bytes).unwrap();
        let mut seen = Vec::new();
        let messages = messages(&body(outgoing));
        for (index, message) in messages.iter().enumerate() {
            let request = WriteRequest::decode(message.clone()).unwrap();
            prop_assert_eq!(request.resource_name.as_str(), if index == 0 { "name" } else { "" });
            prop_assert_eq!(request.write_offset, seen.len() as i64);
            prop_assert_eq!(request.finish_write, index + 1 == messages.len());
            prop_assert!(request.data.len() <= message_bytes);
            seen.extend(request.data);
        }
        prop_assert_eq!(seen, whole);
    }

    #[test]
    fn the_scanner_finds_the_payload_however_it_is_cut(
        payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..600), 0..5),
        cut in 1usize..700,
    ) {
        let mut bytes = Vec::new();
        for data in &payloads {
            bytes.extend(body(Outgoing::message(&ReadResponse { data: data.clone() }).unwrap()));
        }
        let mut scanner = DataScanner::default();
        let mut seen = Vec::new();
        for piece in bytes.chunks(cut) {
            scanner.push(piece, |run| { seen.extend_from_slice(run); Ok(()) }).unwrap();
        }
        prop_assert!(scanner.is_whole());
        prop_assert_eq!(seen, payloads.concat());
    }

    #[test]
    fn the_scanner_survives_anything(bytes in prop::collection::vec(any::<u8>(), 0..300), cut in 1usize..50) {
        let mut scanner = DataScanner::default();
        for piece in bytes.chunks(cut) {
            if scanner.push(piece, |_| Ok(())).is_err() {
                break;
            }
        }
    }
}

#[test]
fn the_scanner_steps_over_other_fields() {
    // Field 1 as a number, field 2 as text, field 10 as payload, field 3 as fixed 32 bits.
    let message = [8, 0x96, 1, 18, 2, b'h', b'i', 82, 3, 1, 2, 3, 29, 9, 9, 9, 9];
    let mut bytes = vec![0, 0, 0, 0, message.len() as u8];
    bytes.extend(message);
    let mut seen = Vec::new();
    let mut scanner = DataScanner::default();
    scanner
        .push(&bytes, |run| {
            seen.extend_from_slice(run);
            Ok(())
        })
        .unwrap();
    assert_eq!(seen, [1, 2, 3]);
    assert!(scanner.is_whole());
}

#[test]
fn a_field_longer_than_its_message_is_refused() {
    let mut scanner = DataScanner::default();
    assert!(scanner.push(&[0, 0, 0, 0, 4, 82, 9, 1, 2, 3], |_| Ok(())).is_err());
}

#[test]
fn compressed_messages_are_refused() {
    let mut messages = Messages::default();
    messages.push(&[1, 0, 0, 0, 0]);
    assert!(messages.pop().is_err());
}
