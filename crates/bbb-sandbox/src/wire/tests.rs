use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::message::{Call, Order, Report};
use crate::request::{ExecRoot, Limits};

fn text() -> impl Strategy<Value = OsString> {
    prop::collection::vec(any::<u8>(), 0..20).prop_map(OsString::from_vec)
}

fn path() -> impl Strategy<Value = PathBuf> {
    text().prop_map(PathBuf::from)
}

prop_compose! {
    fn orders()(
        (id, network, timeout) in any::<(u64, bool, Option<Duration>)>(),
        (memory_bytes, processes) in any::<(Option<u64>, Option<u32>)>(),
        arguments in prop::collection::vec(text(), 0..4),
        environment in prop::collection::vec((text(), text()), 0..4),
        lowers in prop::collection::vec(path(), 0..3),
        paths in prop::collection::vec(path(), 7),
    ) -> Order {
        Order {
            id,
            arguments,
            environment,
            root: if network {
                ExecRoot::Plain(paths[0].clone())
            } else {
                ExecRoot::Overlay { lowers, upper: paths[0].clone(), work: paths[1].clone() }
            },
            mount_point: paths[2].clone(),
            working_directory: paths[3].clone(),
            temporary: paths[4].clone(),
            stdout: paths[5].clone(),
            stderr: paths[6].clone(),
            network,
            timeout: timeout.map(|timeout| Duration::from_nanos(timeout.subsec_nanos().into())),
            grace: Duration::from_secs(1),
            limits: Limits { memory_bytes, processes, ..Limits::default() },
        }
    }
}

proptest! {
    #[test]
    fn orders_come_out_as_they_went_in(order in orders(), cut in any::<prop::sample::Index>()) {
        let told = format!("{order:?}");
        let frame = Call::Run(Box::new(order)).to_frame().unwrap();
        // The stream may be cut anywhere.
        let cut = cut.index(frame.len());
        let mut received = frame[..cut].to_vec();
        prop_assert!(next_body(&mut received).unwrap().is_none());
        received.extend_from_slice(&frame[cut..]);
        let body = next_body(&mut received).unwrap().unwrap();
        prop_assert!(received.is_empty());
        let Call::Run(order) = Call::from_body(&body).unwrap() else { panic!("another call") };
        prop_assert_eq!(format!("{order:?}"), told);
        // No part of a message is one.
        prop_assert!(Call::from_body(&body[..body.len() - 1]).is_err());
    }

    #[test]
    fn noise_is_refused_without_harm(noise in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Call::from_body(&noise);
        let _ = Report::from_body(&noise);
        let _ = next_body(&mut noise.clone());
    }
}

#[test]
fn frames_are_bounded() {
    let long = Report::Failed { id: 1, what: "x".repeat(MAX_FRAME_BYTES), code: 0 };
    assert!(long.to_frame().is_err());
    assert!(next_body(&mut vec![255; 8]).is_err());
    assert!(read_body(&mut &[255u8; 8][..]).is_err());
    assert!(read_body(&mut &[][..]).unwrap().is_none());
}
