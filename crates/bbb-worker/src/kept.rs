//! Exec roots that are kept for people.
//!
//! What an action saw in several layers, some of which it shared with others, is put together as one folder: `root`, where
//! it also lies when there were no layers. Inputs in it are links to files of the store; to change them is to change those.

use std::{
    fs, io,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    sync::Arc,
};

use bbb_sandbox::{ExecRoot, Kind, View};

use crate::{
    error::{Error, blocking},
    renewal::Part,
    run::Ran,
};

impl Ran {
    /// Keeps the folder of the action. Returns where it will be found when nothing of the action lives any more.
    pub(crate) async fn keep(&self) -> Result<PathBuf, Error> {
        let folder = Arc::clone(&self.prepared.folder);
        if let root @ ExecRoot::Overlay { .. } = &self.prepared.root {
            let view = View::new(root, &self.mount_point);
            let folder = Arc::clone(&folder);
            blocking("keep the exec root", move || {
                let to = folder.part(Part::Root);
                if let Err(error) = put_together(&view, &to) {
                    tracing::warn!(path = %to.display(), %error, "exec root is kept in part");
                }
                Ok(())
            })
            .await?;
        }
        Ok(folder.keep().to_owned())
    }
}

/// Makes `to` a folder of all that is seen; blocks.
fn put_together(view: &View, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    let mut modes = Vec::new();
    let mut waiting = vec![PathBuf::new()];
    while let Some(at) = waiting.pop() {
        let entries = view.list(&at).map_err(io::Error::other)?;
        for (name, entry) in entries.unwrap_or_default() {
            let path = at.join(name);
            let new = to.join(&path);
            match entry.kind {
                Kind::File => fs::hard_link(entry.origin.path(), new)?,
                Kind::Link(target) => symlink(target, new)?,
                Kind::Folder => {
                    fs::create_dir(&new)?;
                    modes.push((new, entry.mode));
                    waiting.push(path);
                }
                Kind::Special => {}
            }
        }
    }
    // Last and from below, for a mode may forbid to make anything in a folder.
    for (path, mode) in modes.into_iter().rev() {
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}
