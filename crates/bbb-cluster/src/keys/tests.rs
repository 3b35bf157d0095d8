use proptest::prelude::*;

use super::*;

const GOOD: &str = "Zm9vYmFyIGlzIG5vdCBhIGtleSwgYnV0IHRoaXM/Xx8=";

/// What a machine would make: every alphabet at 128 bits and more, from a seeded generator.
fn random_text(alphabet: &str, chars: usize, state: &mut u64) -> String {
    let alphabet: Vec<char> = alphabet.chars().collect();
    let mut next = || {
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) as usize
    };
    (0..chars).map(|_| alphabet[next() % alphabet.len()]).collect()
}

#[test]
fn what_machines_make_is_taken() {
    const BASE64: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut state = 7;
    for (alphabet, chars, most_refused) in [
        ("0123456789abcdef", 32, 2),
        ("0123456789ABCDEF", 64, 0),
        (BASE64, 22, 12),
        (BASE64, 43, 0),
    ] {
        let refused = (0..200)
            .filter(|_| random_text(alphabet, chars, &mut state).parse::<SecretKey>().is_err())
            .count();
        assert!(refused <= most_refused, "{refused} of 200: {chars} chars of {alphabet}");
    }
}

#[test]
fn long_passphrases_are_taken() {
    for phrase in [
        "gander vocation duplex skater unhappily ladybug radiance chatroom gizmo tinker overlap",
        "Über sieben Brücken mußt du gehn, sieben dunkle Jahre überstehn, siebenmal wirst du",
    ] {
        assert!(phrase.parse::<SecretKey>().is_ok(), "{phrase}: {}", strength::bits(phrase));
    }
}

#[test]
fn hexadecimal_digits_may_stand_in_groups() {
    for grouped in [
        "8c2f0e51-b7d94a66-38f1c502-7be9ad34",
        "8C:2F:0E:51:B7:D9:4A:66:38:F1:C5:02:7B:E9:AD:34",
        "8c2f0e51 b7d94a66 38f1c502 7be9ad34 1c",
    ] {
        assert!(grouped.parse::<SecretKey>().is_ok(), "{grouped}: {}", strength::bits(grouped));
    }
}

#[test]
fn what_people_make_is_refused_with_a_command() {
    let repeated = "ab12".repeat(20);
    for weak in [
        "hunter2",
        "correct horse battery staple",
        "CorrectHorseBatteryStaple",
        "Passw0rd2024ClusterProd",
        "P@ssw0rd!2024-Cluster-Prod",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "0123456789abcdef0123456789abcdef",
        "00000000000000000000000000000000",
        "deadbeefdeadbeefdeadbeefdeadbeef",
        "qwertyuiopasdfghjklzxcvbnm1234567890QWERTYUIOPASDFGHJKLZXCVBNM",
        "31415926535897932384626433832795",
        "0b6f1d5e-5b0d-4e57-9d3c-0f2f8a6b7c1d",
        &repeated,
    ] {
        let error = weak.parse::<SecretKey>().expect_err(weak);
        assert!(matches!(error, KeyError::Weak { .. }), "{weak}: {error}");
        let text = error.to_string();
        assert!(text.contains("openssl rand -base64 32"), "{text}");
        assert!(!text.contains(weak), "{text}");
    }
}

#[test]
fn keys_are_never_shown() {
    let key: SecretKey = GOOD.parse().unwrap();
    let ring = KeyRing::new("x", std::slice::from_ref(&key)).unwrap();
    assert_eq!(format!("{key:?}"), "SecretKey(..)");
    assert_eq!(format!("{ring:?}"), r#"KeyRing { cluster_name: "x", is_open: false, keys: 1 }"#);
}

#[test]
fn several_keys_in_a_flag() {
    let other = GOOD.chars().rev().collect::<String>();
    let keys = SecretKey::parse_list(&format!(" {GOOD} ,{other}")).unwrap();
    assert_eq!(keys, [GOOD.parse().unwrap(), other.parse().unwrap()]);
    let refused = |list: &str| SecretKey::parse_list(list).unwrap_err().to_string();
    assert!(refused(&format!("{GOOD},weak")).starts_with("key 2: secret key is weak"));
    assert!(refused(&format!("{GOOD},,")).starts_with("key 2: secret key is missing"));
    assert!(refused("").starts_with("key 1: secret key is missing"));
    assert_eq!(refused(&format!("{GOOD},{GOOD}")), "key 2: the same secret key stands there twice");
    let many = (0..9).map(|n| format!("{GOOD}{n}")).collect::<Vec<_>>().join(",");
    assert_eq!(refused(&many), "key 9: more than 8 secret keys");
}

#[test]
fn several_keys_in_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    let read = |text: &str| {
        std::fs::write(&path, text).unwrap();
        SecretKey::read_file(&path)
    };
    let refused = |text: &str| {
        let error = read(text).unwrap_err().to_string();
        error.strip_prefix(path.to_str().unwrap()).expect("it names the file").to_owned()
    };
    let good: SecretKey = GOOD.parse().unwrap();
    assert_eq!(read(GOOD).unwrap(), std::slice::from_ref(&good));
    assert_eq!(
        read(&format!("# new\r\n\n  {GOOD}2\r\n#old\n{GOOD}\n")).unwrap(),
        [format!("{GOOD}2").parse().unwrap(), good]
    );
    assert!(refused("# only\n\n").starts_with(": secret key is missing"));
    assert!(refused(&format!("\n{GOOD}\nshort\n")).starts_with(": line 3: secret key is weak"));
    assert!(refused(&"x".repeat(70_000)).starts_with(" is larger than"));
    assert!(refused(&"x".repeat(2_000)).contains("line 1: secret key of 2000 bytes"));
    std::fs::remove_file(&path).unwrap();
    let missing = SecretKey::read_file(&path).unwrap_err().to_string();
    assert!(missing.contains("cannot be read: No such file"), "{missing}");
}

/// These bytes are the protocol: if they change, nodes of two versions do not understand each other.
#[test]
fn derivations_stay_the_same() {
    let ring = KeyRing::new("prod", &[GOOD.parse().unwrap()]).unwrap();
    let root = &ring.roots()[0];
    let shown = format!(
        "{} {} {} {:x?}",
        ring.tag(),
        ring.open_id(),
        root.id,
        *root.derive::<4>(b"gossip")
    );
    // Worked out once more by another program.
    assert_eq!(shown, "8bb22cb3 952ede83 0ffe2606 [1e, 60, 43, 84]");
}

#[test]
fn each_name_key_and_purpose_is_on_its_own() {
    let keys: [SecretKey; 1] = [GOOD.parse().unwrap()];
    let mut seen = std::collections::HashSet::new();
    for ring in [
        KeyRing::new("a", &keys).unwrap(),
        KeyRing::new("b", &keys).unwrap(),
        KeyRing::open("a"),
        KeyRing::open("b"),
    ] {
        for purpose in [b"one", b"two"] {
            assert!(seen.insert(*ring.roots()[0].derive::<32>(purpose)));
        }
        assert_eq!(ring.is_open(), ring.roots()[0].id == ring.open_id());
    }
    assert_eq!(KeyRing::new("a", &keys).unwrap().tag(), KeyRing::open("a").tag());
    assert_ne!(KeyRing::open("a").tag(), KeyRing::open("b").tag());
}

proptest! {
    #[test]
    fn any_text_is_a_key_or_refused(text in any::<String>(), length in 0..300_usize) {
        let _ = text.parse::<SecretKey>();
        let long: String = text.chars().cycle().take(if text.is_empty() { 0 } else { length }).collect();
        let _ = SecretKey::parse_list(&long);
        let _ = SecretKey::parse_lines(&long);
    }
}
