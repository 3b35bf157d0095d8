//! Who is let in, and who is not.

use std::sync::{Arc, Mutex};

use bbb_cluster::{Introduce as _, IntroduceError, Properties};

use crate::rig::Rig;

#[tokio::test(flavor = "multi_thread")]
async fn nodes_of_one_bucket_are_introduced_and_look_for_marks_once() {
    let rig = Rig::of(&["a", "b"]).await;
    let (a, b) = (rig.node("a"), rig.node("b"));
    let heard = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&heard);
    b.introductions.tell(move |from, properties| {
        told.lock().unwrap().push((from.clone(), properties));
    });
    let mut me = a.member.clone();
    me.properties = Properties { version: "1.2".into(), slots: 3, ..Properties::default() };
    for _ in 0..5 {
        let properties = a.introductions.introduce(&me, &b.member.id).await.unwrap();
        assert_eq!(properties, Properties::default());
    }
    assert_eq!(rig.heads(), 2);
    let heard = heard.lock().unwrap();
    assert_eq!(heard.len(), 5);
    assert!(heard.iter().all(|(from, said)| *from == me.id && *said == me.properties));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_another_bucket_is_refused_with_what_to_do() {
    let (rig, other) = (Rig::of(&["a"]).await, Rig::of(&["b"]).await);
    let (a, b) = (rig.node("a"), other.node("b"));
    let refused = a.introductions.introduce(&a.member, &b.member.id).await;
    match refused {
        Err(IntroduceError::Refused(why)) => assert!(why.contains("--bucket"), "{why}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_gone_or_another_is_asked_again_later() {
    let rig = Rig::of(&["a", "b", "c"]).await;
    let (a, b, c) = (rig.node("a"), rig.node("b"), rig.node("c"));
    let mut renamed = b.member.id.clone();
    renamed.name = "x".into();
    for to in [&renamed, &{
        rig.kill("c");
        c.member.id.clone()
    }] {
        let answer = a.introductions.introduce(&a.member, to).await;
        assert!(matches!(answer, Err(IntroduceError::Unreachable(_))), "{answer:?}");
    }
}
