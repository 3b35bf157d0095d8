//! What a secret is worth, by a sober estimate.
//!
//! A secret is looked at as what a machine would have made of the alphabet that it uses, unless it reads like words; what
//! repeats itself, or follows the alphabet or a row of the keyboard, counts once. There is no dictionary: the estimate
//! tells a key from a password, not a good password from a bad one.

use std::ops::RangeInclusive;

/// Bits of a letter among words: ten words of a good list for passphrases have 50 to 80 letters, and 129 bits.
const WORD_BITS: f64 = 2.0;

/// Bits of a letter of joined words, `PassWord2024`. One in a thousand keys of 32 bytes in base64 looks like that, too,
/// and is taken.
const JOINED_BITS: f64 = 3.0;

/// Bits of a letter of what people like to think up: `P@ssw0rd!` has no 6.5 bits to a letter.
const MIXED_BITS: f64 = 4.0;

/// A secret reads like words if of its pairs of neighbours more than this share is of one kind. It is a third in what a
/// machine makes in base64; of 16 bytes, one in sixty is above it.
const WORDS_SHARE: f64 = 0.6;

/// What was seen before counts from this length on; shorter ones come about by chance, also in 32 hexadecimal digits.
const REPEAT_CHARS: usize = 5;

/// What the digits of a UUID are worth, of 32.
const UUID_DIGITS: usize = 30;

/// What was always seen before. Both directions count.
const ROWS: &str = "01234567890 abcdefghijklmnopqrstuvwxyz qwertyuiop asdfghjkl zxcvbnm qwertzuiop yxcvbnm azertyuiop qsdfghjklm wxcvbn";

/// About how many bits an attacker has to guess.
pub(super) fn bits(secret: &str) -> u32 {
    let mut chars: Vec<char> = secret.chars().collect();
    if is_hex_but_for(&chars, &['-', ':', ' ']) {
        chars.retain(|c| !matches!(c, '-' | ':' | ' '));
        // A UUID (RFC 9562) has six bits that say what it is, and who makes one may not have thought of secrets.
        let is_uuid = secret.split('-').map(str::len).eq([8, 4, 4, 4, 12]);
        chars.truncate(if is_uuid { UUID_DIGITS } else { chars.len() });
    }
    // Cut, not rounded, except for what floating point loses of whole bits.
    let bits = bits_per_char(&chars) * worth(&chars) as f64 + 1e-6;
    bits as u32
}

/// How many characters are left when each stretch that was seen before counts as one.
fn worth(chars: &[char]) -> usize {
    let fold = |from: &char| from.to_lowercase().next().unwrap_or(*from);
    let mut seen: Vec<char> = ROWS.chars().chain([' ']).chain(ROWS.chars().rev()).collect();
    let start = seen.len();
    seen.extend(chars.iter().map(fold));
    let (mut at, mut count) = (start, 0);
    while at < seen.len() {
        let rest = &seen[at..];
        // It may reach into itself: so does what is the same letter all over.
        let longest = (0..at)
            .map(|from| rest.iter().zip(&seen[from..]).take_while(|(a, b)| a == b).count())
            .max()
            .unwrap_or(0);
        at += if longest >= REPEAT_CHARS { longest } else { 1 };
        count += 1;
    }
    count
}

/// Whether all are hexadecimal digits of one case, some others apart.
fn is_hex_but_for(chars: &[char], others: &[char]) -> bool {
    let all = |letters: RangeInclusive<char>| {
        chars.iter().all(|c| c.is_ascii_digit() || letters.contains(c) || others.contains(c))
    };
    all('a'..='f') || all('A'..='F')
}

fn bits_per_char(chars: &[char]) -> f64 {
    let all = |is: fn(&char) -> bool| chars.iter().all(is);
    if all(char::is_ascii_digit) {
        return 10_f64.log2();
    }
    if is_hex_but_for(chars, &[]) {
        return 4.0;
    }
    let has = |is: fn(&char) -> bool| chars.iter().any(is);
    let is_mixed =
        has(char::is_ascii_lowercase) && has(char::is_ascii_uppercase) && has(char::is_ascii_digit);
    // The padding of base64 is worth nothing, but it does not matter for a bit or two.
    let is_base64 = all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '-' | '_' | '='));
    match (reads_like_words(chars), is_base64, is_mixed) {
        (true, true, true) => JOINED_BITS,
        (true, ..) => WORD_BITS,
        (false, true, true) => 6.0,
        (false, true, false) => 5.0,
        (false, false, _) => MIXED_BITS,
    }
}

/// Whether most neighbours are of one kind.
fn reads_like_words(chars: &[char]) -> bool {
    #[derive(PartialEq)]
    enum Kind {
        Upper,
        Digit,
        /// Small letters, those of scripts that have but one kind, and what stands between words.
        Word,
        Other,
    }
    let kind = |c: char| match c {
        _ if c.is_uppercase() => Kind::Upper,
        _ if c.is_numeric() => Kind::Digit,
        _ if c.is_alphabetic() || c.is_whitespace() => Kind::Word,
        '-' | '_' | '.' | ',' => Kind::Word,
        _ => Kind::Other,
    };
    let pairs = chars.len().saturating_sub(1);
    let same = chars.windows(2).filter(|pair| kind(pair[0]) == kind(pair[1])).count();
    same as f64 > pairs as f64 * WORDS_SHARE
}
