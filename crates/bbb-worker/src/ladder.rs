//! Which kind of exec root an action gets: a pure choice, from what the sandbox takes, what the tree is like, and what
//! the action asks for.
//!
//! An overlay shows shared files and costs the same for any tree. A plain folder holds copies that are the action's own
//! (sharing their blocks with the store where the file system can), which costs what the tree weighs. Hard links stand
//! below overlays alone, where no action can reach the files that they lead to.

use bbb_reapi::Properties;
use bbb_sandbox::Staging;
use bbb_scheduler::steering::{PLAIN, STAGING};
use bbb_storage::Totals;

/// How many bytes a tree may have in all to be copied instead of standing below an overlay.
const COPIED_BYTES: u64 = 64 << 10;

/// The kind of exec root for a tree: what was asked for, else what costs least. A tree of up to `copied_files` files is
/// copied if it is light: an overlay would protect little there.
pub(crate) fn choose(
    sandbox: Staging,
    platform: &Properties,
    tree: Totals,
    copied_files: usize,
) -> Staging {
    let is_small = tree.files <= copied_files as u64 && tree.bytes <= COPIED_BYTES;
    match sandbox {
        Staging::Overlay if !is_small && platform.get(STAGING) != Some(PLAIN) => Staging::Overlay,
        Staging::Overlay | Staging::Plain => Staging::Plain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overlay_is_for_large_trees_where_it_works_and_nobody_minds() {
        let small = Totals { files: 8, bytes: COPIED_BYTES, ..Totals::default() };
        let many = Totals { files: 9, ..small };
        let heavy = Totals { bytes: COPIED_BYTES + 1, ..small };
        let asks = |value: Option<&str>| -> Properties {
            value.map(|value| (STAGING.to_owned(), value.to_owned())).into_iter().collect()
        };
        for tree in [many, heavy] {
            for value in [None, Some("auto")] {
                assert_eq!(choose(Staging::Overlay, &asks(value), tree, 8), Staging::Overlay);
                assert_eq!(choose(Staging::Plain, &asks(value), tree, 8), Staging::Plain);
            }
            assert_eq!(choose(Staging::Overlay, &asks(Some(PLAIN)), tree, 8), Staging::Plain);
        }
        assert_eq!(choose(Staging::Overlay, &asks(None), small, 8), Staging::Plain);
    }
}
