//! A node of the real binary on loopback, and a client that has actions run by it.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use bbb_digest::{Digest, Function};
use bbb_reapi::{
    ToProto as _,
    proto::{
        longrunning::operation,
        reapi::{
            self, BatchUpdateBlobsRequest, Directory, DirectoryNode, ExecuteRequest,
            ExecuteResponse, FileNode, batch_update_blobs_request::Request,
            content_addressable_storage_client::ContentAddressableStorageClient,
            execution_client::ExecutionClient,
        },
    },
};
use prost::Message;
use tonic::transport::{Channel, Endpoint};

/// Who a node runs as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum User {
    /// Who runs the tests.
    Same,
    /// Nobody, which only root can become.
    Nobody,
}

/// A node at work; it ends with this.
pub(crate) struct Node {
    child: Child,
    /// What it said at its start.
    pub(crate) greeting: Vec<String>,
    channel: Channel,
    folder: tempfile::TempDir,
}

/// What came of an action.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) message: String,
}

/// The files of an input tree: what each path holds, and whether it may be executed.
pub(crate) type Files = BTreeMap<String, (Vec<u8>, bool)>;

pub(crate) fn files<const N: usize>(files: [(&str, &str); N]) -> Files {
    files.map(|(path, content)| (path.to_owned(), (content.as_bytes().to_vec(), false))).into()
}

impl Node {
    pub(crate) async fn start(flags: &[&str]) -> Self {
        Self::start_as(User::Same, flags).await
    }

    pub(crate) async fn start_as(user: User, flags: &[&str]) -> Self {
        let binary = env!("CARGO_BIN_EXE_buildbuildbuild").to_owned();
        let prefix: &[&str] = match user {
            User::Same => &[],
            User::Nobody => {
                &["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"]
            }
        };
        let line: Vec<_> = prefix.iter().map(|word| (*word).to_owned()).chain([binary]).collect();
        Self::start_by(&line, tempfile::tempdir().unwrap(), flags).await
    }

    /// Starts what `line` says, with the flags of a node whose store is `store` in `folder`.
    pub(crate) async fn start_by<S: AsRef<OsStr>>(
        line: &[S],
        folder: tempfile::TempDir,
        flags: &[&str],
    ) -> Self {
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let mut child = Command::new(&line[0])
            .args(&line[1..])
            .args(["--listen=127.0.0.1", "--port=0", "--autojoin_udp=false", "--worker_slots=1"])
            .arg(format!("--cache_dir={}", folder.path().join("store").display()))
            .args(flags)
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut greeting = Vec::new();
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            greeting.push(line.unwrap());
            if greeting.last().unwrap().starts_with("listens on") {
                break;
            }
        }
        let log = fs::read_to_string(folder.path().join("log")).unwrap();
        let address = greeting.last().and_then(|line| line.strip_prefix("listens on "));
        let address = address.unwrap_or_else(|| panic!("{greeting:?}: {log}"));
        let address = address.split(';').next().unwrap();
        let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
        Self { child, greeting, channel, folder }
    }

    /// Where the folders of actions are.
    pub(crate) fn actions(&self) -> PathBuf {
        self.folder.path().join("store/actions")
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// The one line of the greeting that begins so.
    pub(crate) fn line(&self, begin: &str) -> &str {
        let lines: Vec<_> = self.greeting.iter().filter(|line| line.starts_with(begin)).collect();
        assert_eq!(lines.len(), 1, "{begin:?}: {:?}", self.greeting);
        lines[0]
    }

    /// Runs a shell script over some inputs.
    pub(crate) async fn run(&self, files: &Files, script: &str) -> Done {
        let mut blobs = Vec::new();
        let command = reapi::Command {
            arguments: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            environment_variables: vec![reapi::command::EnvironmentVariable {
                name: "PATH".into(),
                value: "/usr/bin:/bin".into(),
            }],
            ..reapi::Command::default()
        };
        let action = reapi::Action {
            command_digest: Some(blob(&mut blobs, command.encode_to_vec())),
            input_root_digest: Some(directory(&mut blobs, files, "")),
            do_not_cache: true,
            ..reapi::Action::default()
        };
        let action = blob(&mut blobs, action.encode_to_vec());
        let requests = blobs.into_iter();
        let requests = requests.map(|(digest, data)| Request {
            digest: Some(digest.to_proto()),
            data,
            ..Request::default()
        });
        let request =
            BatchUpdateBlobsRequest { requests: requests.collect(), ..Default::default() };
        let mut cas = ContentAddressableStorageClient::new(self.channel.clone());
        let answer = cas.batch_update_blobs(request).await.unwrap().into_inner();
        assert!(answer.responses.iter().all(|one| one.status.as_ref().unwrap().code == 0));
        self.execute(action).await
    }

    async fn execute(&self, action: reapi::Digest) -> Done {
        let request = ExecuteRequest { action_digest: Some(action), ..Default::default() };
        let mut client = ExecutionClient::new(self.channel.clone());
        let mut stream = client.execute(request).await.unwrap().into_inner();
        let response = loop {
            let operation = stream.message().await.unwrap().unwrap();
            match operation.result {
                Some(operation::Result::Response(any)) => {
                    break ExecuteResponse::decode(any.value.as_slice()).unwrap();
                }
                Some(operation::Result::Error(status)) => panic!("{status:?}"),
                None => {}
            }
        };
        let status = response.status.unwrap_or_default();
        assert_eq!(status.code, 0, "{}", status.message);
        let result = response.result.unwrap();
        let said =
            [(result.stdout_raw, result.stdout_digest), (result.stderr_raw, result.stderr_digest)];
        let mut texts = Vec::new();
        for (raw, digest) in said {
            texts.push(self.text(raw, digest).await);
        }
        let [stdout, stderr] = texts.try_into().unwrap();
        Done { code: result.exit_code, stdout, stderr, message: response.message }
    }

    async fn text(&self, raw: Vec<u8>, digest: Option<reapi::Digest>) -> String {
        let is_given =
            !raw.is_empty() || digest.as_ref().is_none_or(|digest| digest.size_bytes == 0);
        let bytes = if is_given {
            raw
        } else {
            let request = reapi::BatchReadBlobsRequest {
                digests: digest.into_iter().collect(),
                ..Default::default()
            };
            let mut cas = ContentAddressableStorageClient::new(self.channel.clone());
            let answer = cas.batch_read_blobs(request).await.unwrap().into_inner();
            answer.responses.into_iter().next().unwrap().data
        };
        String::from_utf8(bytes).unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

type Blobs = Vec<(Digest, Vec<u8>)>;

fn blob(blobs: &mut Blobs, content: Vec<u8>) -> reapi::Digest {
    let digest = Digest::of(Function::Sha256, &content);
    blobs.push((digest, content));
    digest.to_proto()
}

/// The directory at a path, which ends with a slash unless it is the root's.
fn directory(blobs: &mut Blobs, files: &Files, path: &str) -> reapi::Digest {
    let mut made = Directory::default();
    let inside = || files.iter().filter_map(|(at, file)| Some((at.strip_prefix(path)?, file)));
    for (name, (content, is_executable)) in inside().filter(|(name, _)| !name.contains('/')) {
        made.files.push(FileNode {
            name: name.to_owned(),
            digest: Some(blob(blobs, content.clone())),
            is_executable: *is_executable,
            ..FileNode::default()
        });
    }
    let below: std::collections::BTreeSet<_> =
        inside().filter_map(|(name, _)| Some(name.split_once('/')?.0)).collect();
    for name in below {
        let digest = Some(directory(blobs, files, &format!("{path}{name}/")));
        made.directories.push(DirectoryNode { name: name.to_owned(), digest });
    }
    blob(blobs, made.encode_to_vec())
}

/// Waits for a condition, for at most ten seconds.
pub(crate) async fn until(mut is_met: impl FnMut() -> bool) -> bool {
    for _ in 0..1000 {
        if is_met() {
            return true;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    false
}

/// What `/bin/sh` consists of, as an input tree that can be a whole root file system.
pub(crate) fn root_with_shell() -> Files {
    let told = Command::new("ldd").arg("/bin/sh").output().unwrap().stdout;
    let told = String::from_utf8(told).unwrap();
    let libraries = told.split_whitespace().filter(|word| word.starts_with('/'));
    let paths = libraries.chain(["/bin/sh"]);
    paths
        .map(|path| {
            let content = fs::read(Path::new(path)).unwrap();
            (path.trim_start_matches('/').to_owned(), (content, true))
        })
        .collect()
}
