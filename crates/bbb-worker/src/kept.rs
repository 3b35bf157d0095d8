//! Exec roots that are kept for people.
//!
//! What an action saw in several layers, some of which it shared with others, is put together as one folder: `root`, where
//! it also lies when there were no layers. Inputs in it are links to files of the store; to change them is to change those.
//!
//! They count against the limit of the store in whose folder they lie, and go when their room is needed, in one order of use with all
//! that is stored.

use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use bbb_lifecycle::TaskGroup;
use bbb_sandbox::{ExecRoot, Kind, View, remove_tree};
use bbb_storage::{Error as Storage, Kept, Lodger, Lodging};

use crate::{
    error::{Error, blocking, chain},
    renewal::Part,
    run::Ran,
    scratch::measure_alone,
};

/// The exec roots of one worker that are kept, and their room.
#[derive(Debug)]
pub(crate) struct KeptRoots {
    lodging: Arc<dyn Lodging>,
    /// By where they lie. Each costs some hundred bytes here, and some blocks of the store's room, which so bounds their number.
    all: Mutex<HashMap<PathBuf, Lodger>>,
}

impl KeptRoots {
    /// Counts them in a store; as a task of `tasks` also those that an earlier process kept in `folder`.
    pub(crate) fn start(
        folder: PathBuf,
        lodging: Arc<dyn Lodging>,
        tasks: &TaskGroup,
    ) -> Arc<Self> {
        let roots = Arc::new(Self { lodging, all: Mutex::default() });
        let (earlier, stop) = (Arc::clone(&roots), tasks.stop());
        tasks.spawn("kept exec roots", async move {
            if let Some(Err(error)) = stop.until_requested(earlier.take_in(&folder)).await {
                tracing::warn!(error = chain(&error), "not all kept exec roots are counted");
            }
        });
        roots
    }

    async fn take_in(self: &Arc<Self>, folder: &Path) -> Result<(), Error> {
        let paths = match fs::read_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries.and_then(|entries| {
                entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()
            }),
        };
        for path in paths.map_err(|error| Error::fault("list kept exec roots", error))? {
            if self.lodge(&path, &path).await?.is_none() {
                remove_behind(path).await?;
            }
        }
        Ok(())
    }

    /// Takes room for what lies at `from` and will lie at `path`. It does not go before what this gives is dropped. None if there
    /// is no room.
    async fn lodge(self: &Arc<Self>, from: &Path, path: &Path) -> Result<Option<Kept>, Error> {
        let from = from.to_owned();
        let taken = blocking("measure an exec root", move || {
            measure_alone(&from).map_err(|error| Error::fault("measure an exec root", error))
        })
        .await?;
        let lodger = match self.lodging.take(taken.bytes, self.leave(path.to_owned())).await {
            Ok(lodger) => lodger,
            Err(Storage::Full { .. }) => return Ok(None),
            Err(error) => return Err(Error::storage("take room for an exec root", error)),
        };
        let kept = lodger.keep();
        if kept.is_some() {
            let before = self.all().insert(path.to_owned(), lodger);
            drop(before);
        }
        Ok(kept)
    }

    /// Removes the exec root at `path` when its turn has come.
    fn leave(self: &Arc<Self>, path: PathBuf) -> Box<dyn FnOnce() + Send> {
        let roots = Arc::downgrade(self);
        Box::new(move || {
            if let Err(error) = remove_tree(&path) {
                tracing::warn!(path = %path.display(), %error, "cannot remove a kept exec root");
            }
            let gone = Weak::upgrade(&roots).and_then(|roots| roots.all().remove(&path));
            drop(gone);
        })
    }

    fn all(&self) -> MutexGuard<'_, HashMap<PathBuf, Lodger>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn remove_behind(path: PathBuf) -> Result<(), Error> {
    blocking("remove a kept exec root", move || {
        remove_tree(&path).map_err(|error| Error::fault("remove a kept exec root", error))
    })
    .await
}

impl Ran {
    /// Keeps the folder of the action. Returns where it will be found when nothing of the action lives any more; none if there
    /// is no room for it.
    pub(crate) async fn keep(
        &self,
        roots: Option<&Arc<KeptRoots>>,
    ) -> Result<Option<PathBuf>, Error> {
        let folder = Arc::clone(&self.prepared.folder);
        if let root @ ExecRoot::Overlay { .. } = &self.prepared.root {
            let view = View::new(root, &self.mount_point);
            let folder = Arc::clone(&folder);
            blocking("keep the exec root", move || {
                let to = folder.part(Part::Root);
                if let Err(error) = put_together(&view, &to) {
                    tracing::warn!(path = %to.display(), %error, "exec root is kept in part");
                }
                // What is in there has a name in the folder too.
                let layers = [Part::Upper, Part::Work];
                let removed =
                    layers.into_iter().try_for_each(|part| remove_tree(&folder.part(part)));
                removed.map_err(|error| Error::fault("remove the layers of an exec root", error))
            })
            .await?;
        }
        let mut room = None;
        if let Some(roots) = roots {
            folder.claim().hand_over(u64::MAX);
            room = roots.lodge(folder.path(), folder.kept_path()).await?;
            if room.is_none() {
                return Ok(None);
            }
        }
        Ok(Some(folder.keep(room).to_owned()))
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
