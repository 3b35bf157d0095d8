//! Values of properties that steer how an action runs, and that would do so unseen if they were misspelt.

use bbb_reapi::{Invalid, Properties};
use bbb_scheduler::steering::{AUTO, PLAIN, STAGING};

/// How large all names and values may be together, in bytes: every node that hears of the action keeps them as long as it runs.
const MAX_BYTES: usize = 64 << 10;

/// Refuses values that no worker would know what to do with, and more than any could offer.
///
/// # Errors
/// If there is one; it names the property.
pub(super) fn check(properties: &Properties) -> Result<(), Invalid> {
    let bytes: usize = properties.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > MAX_BYTES {
        let what = format!("all names and values have {bytes} bytes, more than {MAX_BYTES}");
        return Err(Invalid::new("platform.properties", what));
    }
    match properties.get(STAGING) {
        None | Some(AUTO | PLAIN) => Ok(()),
        Some(text) => {
            let shown = &text[..text.floor_char_boundary(100)];
            Err(Invalid::new("platform.staging", format!("{shown:?} is none: use auto or plain")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_are_no_place_for_data() {
        let of = |bytes| check(&[("a".to_owned(), "x".repeat(bytes))].into_iter().collect());
        assert!(of(MAX_BYTES - 1).is_ok());
        assert!(of(MAX_BYTES).unwrap_err().to_string().contains("platform.properties"));
    }

    #[test]
    fn staging_has_two_values() {
        let of =
            |value: &str| check(&[("staging".to_owned(), value.to_owned())].into_iter().collect());
        assert!(of("auto").is_ok() && of("plain").is_ok());
        assert!(check(&Properties::default()).is_ok());
        for bad in ["", "Plain", "copy", &"é".repeat(100)] {
            let refused = of(bad).unwrap_err().to_string();
            assert!(refused.contains("platform.staging") && refused.len() < 300, "{refused}");
        }
    }
}
