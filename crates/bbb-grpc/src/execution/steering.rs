//! Values of properties that steer how an action runs, and that would do so unseen if they were misspelt.

use bbb_reapi::{Invalid, Properties};
use bbb_scheduler::steering::{AUTO, PLAIN, STAGING};

/// Refuses values that no worker would know what to do with.
///
/// # Errors
/// If there is one; it names the property.
pub(super) fn check(properties: &Properties) -> Result<(), Invalid> {
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
