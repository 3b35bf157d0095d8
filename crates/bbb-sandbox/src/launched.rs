//! The sandbox that runs commands by a launcher process.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use async_trait::async_trait;

use crate::error::{Error, StartError};
use crate::launcher::mounts;
use crate::link::{Answer, Link};
use crate::message::{Call, Ending, Facts, Order, Settings};
use crate::probe::{Actor, Enforced, Enforcement, Probe, SYSTEM_FOLDERS};
use crate::request::{ExecRoot, Exit, Request, Staging, Status, Usage};
use crate::trial::Trial;
use crate::wire::Wire;
use crate::{Config, Mode, Sandbox};

/// A [`Sandbox`] whose commands are run by a launcher process, which is started again when it is lost.
pub struct Launched {
    config: Config,
    settings: Settings,
    probe: Probe,
    /// Numbers of orders; never used twice, so that a late report meets nobody else.
    next: AtomicU64,
    link: tokio::sync::Mutex<Arc<Link>>,
}

/// Finds out what this machine allows, and starts the launcher.
///
/// Takes some milliseconds, by running trial commands (`true`) as any other command.
///
/// # Errors
/// If the configuration cannot be, the launcher cannot be executed, or namespaces are demanded and do not work.
pub async fn start(config: Config) -> Result<Launched, StartError> {
    check(&config)?;
    match config.mode {
        Mode::None => Launched::with(config, false, Vec::new()).await,
        Mode::Namespaces => Launched::with(config, true, Vec::new()).await,
        Mode::Auto => match Launched::with(config.clone(), true, Vec::new()).await {
            Ok(launched) => Ok(launched),
            Err(error) => {
                let mut note = format!("namespaces do not work here: {error}");
                let mut source = std::error::Error::source(&error);
                while let Some(cause) = source {
                    note = format!("{note}: {cause}");
                    source = cause.source();
                }
                Launched::with(config, false, vec![note]).await
            }
        },
    }
}

fn check(config: &Config) -> Result<(), StartError> {
    if config.folders.is_empty() {
        return Err(StartError::Config("there is no folder".into()));
    }
    match config
        .folders
        .iter()
        .chain(&config.extra_system_folders)
        .find(|folder| !is_plain(folder, true))
    {
        Some(folder) => Err(StartError::Config(format!(
            "{} is not an absolute path without '..'",
            folder.display()
        ))),
        None => Ok(()),
    }
}

impl Launched {
    async fn with(
        config: Config,
        namespaces: bool,
        notes: Vec<String>,
    ) -> Result<Self, StartError> {
        let settings = Settings {
            namespaces,
            folders: config.folders.clone(),
            system_folders: SYSTEM_FOLDERS
                .iter()
                .map(PathBuf::from)
                .chain(config.extra_system_folders.iter().cloned())
                .collect(),
            shared_memory_bytes: config.shared_memory_bytes,
        };
        let link = start_link(&config, &settings).await?;
        let mut notes = notes;
        let facts = link.facts().clone();
        notes.extend(facts.notes.iter().cloned());
        let mut launched = Launched {
            config,
            settings,
            probe: Probe {
                mode: if namespaces { Mode::Namespaces } else { Mode::None },
                staging: Staging::Plain,
                overlay_refused: Some("there are no namespaces to mount them in".into()),
                keeper: Err("actions are who the files belong to".into()),
                actor: actor(&facts, namespaces),
                limits: enforcement(&facts, namespaces),
                groups: facts.groups,
                notes,
            },
            next: AtomicU64::new(1),
            link: tokio::sync::Mutex::new(Arc::new(link)),
        };
        launched.try_out(facts.keeper).await?;
        Ok(launched)
    }

    /// Runs trial commands, first the cheapest way to stage.
    async fn try_out(&mut self, keeper: Option<u32>) -> Result<(), StartError> {
        if self.probe.mode == Mode::Namespaces {
            let refused = match self.config.overlays {
                true => self.trial(Trial::Overlay).await.err(),
                false => Some("they are not wanted".into()),
            };
            if refused.is_none() {
                self.probe.staging = Staging::Overlay;
                self.probe.overlay_refused = None;
                self.probe.keeper = Err("not needed below overlays".into());
                return Ok(());
            }
            self.probe.overlay_refused = refused;
            if let Some(user) = keeper {
                self.probe.keeper = self.trial(Trial::Kept(user)).await.map(|()| user);
            }
        }
        self.trial(Trial::Plain).await.map_err(StartError::Trial)
    }

    async fn trial(&self, trial: Trial) -> Result<(), String> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let folder =
            self.config.folders[0].join(format!(".sandbox-trial-{}-{number}", std::process::id()));
        let outcome = match trial.stage(&folder) {
            Ok(request) => self.run(request).await,
            Err(error) => {
                let _ = crate::remove_tree(&folder);
                return Err(error.to_string());
            }
        };
        let stderr = fs::read(folder.join("stderr")).unwrap_or_default();
        let is_kept = trial.is_kept(&folder);
        let _ = crate::remove_tree(&folder);
        match outcome {
            Ok(exit) if exit.status == Status::Exited(0) && is_kept => Ok(()),
            Ok(_) if !is_kept => Err("an action could change them".into()),
            Ok(exit) => Err(format!(
                "code {}, {}",
                exit.status.code(),
                String::from_utf8_lossy(&stderr).trim()
            )),
            Err(Error::Setup { what, source }) => Err(format!("cannot {what}: {source}")),
            Err(error) => Err(error.to_string()),
        }
    }

    /// The launcher, started again if it was lost.
    async fn link(&self) -> Result<Arc<Link>, Error> {
        let mut link = self.link.lock().await;
        if link.is_lost() {
            *link = Arc::new(start_link(&self.config, &self.settings).await?);
        }
        Ok(Arc::clone(&link))
    }

    /// The process id of the launcher, for tests and for those who watch.
    pub async fn launcher_process(&self) -> u32 {
        self.link.lock().await.process()
    }
}

#[async_trait]
impl Sandbox for Launched {
    async fn run(&self, mut request: Request) -> Result<Exit, Error> {
        validate(&request, self.probe.mode, &self.config.folders)?;
        if self.settings.namespaces
            && is_covered(&request.mount_point, &self.settings.system_folders)
        {
            let point = request.mount_point.display();
            let reason =
                format!("exec root cannot be at {point}: the system's own folders are read-only");
            return Err(Error::Invalid(reason));
        }
        let hold = request.hold.take();
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let frame = Call::Run(Box::new(order(id, request)))
            .to_frame()
            .map_err(|_| Error::Invalid("arguments, environment and paths are too long".into()))?;
        let link = self.link().await?;
        // Found lost in the moment between: nothing happened, and the next run starts it again.
        let answered = link.send(id, frame, hold).ok_or(StartError::Ended)?;
        let mut guard = Guard { link: &link, id, is_armed: true };
        let answer = answered.await;
        guard.is_armed = false;
        match answer {
            Ok(Answer::Ended(ending)) => Ok(exit(&ending)),
            Ok(Answer::Failed { what, source }) => Err(Error::Setup { what, source }),
            Ok(Answer::Lost) | Err(_) => Err(Error::Lost),
        }
    }

    fn probe(&self) -> &Probe {
        &self.probe
    }
}

fn actor(facts: &Facts, namespaces: bool) -> Actor {
    match (namespaces, facts.keeper, facts.user) {
        (true, Some(_), user) => Actor::Stranger(user),
        (true, None, 0) => Actor::PowerlessRoot,
        (_, _, user) => Actor::Node(user),
    }
}

fn enforcement(facts: &Facts, namespaces: bool) -> Enforcement {
    let or = |kept: bool, other: Enforced| if kept { Enforced::Action } else { other };
    Enforcement {
        memory: or(facts.memory, Enforced::Process),
        // Without a group they are counted per user namespace.
        processes: or(facts.processes || namespaces, Enforced::Not),
        cpu: or(facts.cpu, Enforced::Not),
    }
}

/// Kills a run whose future was dropped.
struct Guard<'a> {
    link: &'a Link,
    id: u64,
    is_armed: bool,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if self.is_armed {
            self.link.cancel(self.id);
        }
    }
}

async fn start_link(config: &Config, settings: &Settings) -> Result<Link, StartError> {
    let (binary, settings) = (config.launcher.clone(), settings.clone());
    tokio::task::spawn_blocking(move || Link::start(binary.as_deref(), &settings))
        .await
        .unwrap_or(Err(StartError::Ended))
}

/// Refuses what can never be run, and what would leave the folders.
fn validate(request: &Request, mode: Mode, folders: &[PathBuf]) -> Result<(), Error> {
    let invalid = |reason: String| Err(Error::Invalid(reason));
    let has_nul = |text: &OsStr| text.as_bytes().contains(&0);
    if request.arguments.is_empty() {
        return invalid("there is no program".into());
    }
    if request.arguments.iter().any(|argument| has_nul(argument)) {
        return invalid("an argument has a NUL byte".into());
    }
    for (name, value) in &request.environment {
        if name.is_empty() || has_nul(name) || name.as_bytes().contains(&b'=') || has_nul(value) {
            return invalid(format!("environment variable {} cannot be", name.display()));
        }
    }
    if !is_plain(&request.working_directory, false) {
        return invalid(format!(
            "working directory {} leaves the exec root",
            request.working_directory.display()
        ));
    }
    if !mounts::is_mount_point(&request.mount_point) {
        return invalid(format!("exec root cannot be at {}", request.mount_point.display()));
    }
    let mut paths = vec![&request.temporary, &request.stdout, &request.stderr];
    match &request.root {
        ExecRoot::Plain(folder) => paths.push(folder),
        ExecRoot::Overlay { .. } if mode == Mode::None => {
            return invalid("there are no overlays without namespaces".into());
        }
        ExecRoot::Overlay { lowers, .. } if lowers.is_empty() => {
            return invalid("the exec root has no lower layer".into());
        }
        ExecRoot::Overlay { lowers, upper, work } => {
            paths.extend([upper, work]);
            paths.extend(lowers);
        }
    }
    for path in paths {
        if !is_plain(path, true)
            || has_nul(path.as_os_str())
            || !folders.iter().any(|folder| path.starts_with(folder))
        {
            return invalid(format!("{} is not in a folder of the sandbox", path.display()));
        }
    }
    Ok(())
}

/// Whether `point` would have to be made in a folder that actions see as the host has it.
fn is_covered(point: &Path, system_folders: &[PathBuf]) -> bool {
    let mut folders = system_folders.iter().filter(|folder| point.starts_with(folder));
    folders.any(|folder| fs::symlink_metadata(folder).is_ok())
        && !fs::metadata(point).is_ok_and(|found| found.is_dir())
}

/// Whether a path has only names, after a slash or not.
fn is_plain(path: &Path, is_absolute: bool) -> bool {
    let mut parts = path.components();
    (!is_absolute || parts.next() == Some(Component::RootDir))
        && parts
            .all(|part| matches!(part, Component::Normal(name) if !name.as_bytes().contains(&0)))
}

fn order(id: u64, request: Request) -> Order {
    Order {
        id,
        arguments: request.arguments,
        environment: request.environment,
        root: request.root,
        mount_point: request.mount_point,
        working_directory: request.working_directory,
        temporary: request.temporary,
        stdout: request.stdout,
        stderr: request.stderr,
        network: request.network,
        timeout: request.timeout,
        grace: request.grace,
        limits: request.limits,
    }
}

fn exit(ending: &Ending) -> Exit {
    let status = match ending.wait_status {
        status if libc::WIFSIGNALED(status) => Status::Signaled(libc::WTERMSIG(status)),
        status => Status::Exited(libc::WEXITSTATUS(status)),
    };
    Exit {
        status,
        timed_out: ending.timed_out,
        out_of_memory: ending.out_of_memory,
        started: SystemTime::UNIX_EPOCH + ending.started,
        usage: Usage {
            wall: ending.wall,
            user: ending.user,
            system: ending.system,
            max_rss_bytes: ending.max_rss_bytes,
            peak_memory_bytes: ending.peak_memory_bytes,
            read_bytes: ending.read_bytes,
            written_bytes: ending.written_bytes,
            minor_faults: ending.minor_faults,
            major_faults: ending.major_faults,
            voluntary_switches: ending.voluntary_switches,
            involuntary_switches: ending.involuntary_switches,
        },
    }
}
