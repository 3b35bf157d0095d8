//! What is tried at start: each way in which an exec root can be staged, by running a command in one.
//!
//! Promises: a way that passed works for actions; what was staged lies in one folder, which the caller removes.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use crate::DEFAULT_SEARCH_PATH;
use crate::request::{ExecRoot, Request};

/// What the command of [`Trial::Kept`] finds, and what it must still be afterwards.
const CONTENT: &str = "kept\n";

/// Fails if a file can be changed or cannot be used as inputs are.
const CHANGE: &str = "chmod 666 file; echo changed >file; chmod u+w file && exit 1
test \"$(cat file)\" = kept && mv file moved && rm moved";

/// A way to stage.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Trial {
    /// A plain folder.
    Plain,
    /// An overlay.
    Overlay,
    /// A plain folder with a file of this host user, which has another name elsewhere.
    Kept(u32),
}

impl Trial {
    /// Stages it in `folder`, which is made; a request that must end well.
    pub(crate) fn stage(self, folder: &Path) -> io::Result<Request> {
        for name in ["lower", "upper", "work", "tmp"] {
            fs::create_dir_all(folder.join(name))?;
        }
        for name in ["stdout", "stderr"] {
            fs::write(folder.join(name), b"")?;
        }
        let root = match self {
            Trial::Plain | Trial::Kept(_) => ExecRoot::Plain(folder.join("upper")),
            Trial::Overlay => ExecRoot::Overlay {
                lowers: vec![folder.join("lower")],
                upper: folder.join("upper"),
                work: folder.join("work"),
            },
        };
        let mut arguments = vec!["true".into()];
        if let Trial::Kept(user) = self {
            let file = folder.join("file");
            fs::write(&file, CONTENT)?;
            fs::set_permissions(&file, Permissions::from_mode(0o444))?;
            chown(&file, Some(user), None)?;
            fs::hard_link(&file, folder.join("upper/file"))?;
            arguments = ["sh", "-c", CHANGE].map(Into::into).to_vec();
        }
        let [tmp, stdout, stderr] = ["tmp", "stdout", "stderr"].map(|name| folder.join(name));
        let mut request = Request::new(arguments, root, tmp, stdout, stderr);
        request.environment = vec![("PATH".into(), DEFAULT_SEARCH_PATH.into())];
        Ok(request)
    }

    /// Whether the command changed nothing that it must not.
    pub(crate) fn is_kept(self, folder: &Path) -> bool {
        let file = folder.join("file");
        match self {
            Trial::Plain | Trial::Overlay => true,
            Trial::Kept(_) => {
                fs::metadata(&file).is_ok_and(|found| found.permissions().mode() & 0o777 == 0o444)
                    && fs::read_to_string(&file).is_ok_and(|content| content == CONTENT)
            }
        }
    }
}
