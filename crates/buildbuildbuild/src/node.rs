//! The one place where a node is put together, and taken apart again.
//!
//! Parts know each other by their seams alone; which part stands behind which seam, who owns which task and in
//! what order all of it stops is decided here and nowhere else.

use std::{io, sync::Arc, time::Duration};

use anyhow::Context as _;
use bbb_grpc::{
    Doors, RequiredHeader,
    execution::{Execution, ExecutionSettings},
    operations::Operations,
};
use bbb_lifecycle::{Signals, TaskGroup};
use bbb_sandbox::Mode;
use bbb_scheduler::{Dispatch, Scheduler, WorkerOffer, core::Limits};
use bbb_storage::{Complete, Disk, DiskSettings, Instances, Stores, TreeCache, Trees};
use bbb_worker::{Keep, Local, Slots};
use tokio::net::TcpListener;

use crate::{
    flags::{KeepExecRoot, SandboxChoice, Settings, remember_cache_size},
    greeting::greeting,
    memory::MemorySplit,
};

/// How long a group of tasks has to stop once nothing needs it any more.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// The groups of a node's tasks, in the order in which they stop: whoever asks before whoever answers.
struct Groups {
    doors: TaskGroup,
    worker: TaskGroup,
    scheduler: TaskGroup,
    cleaning: TaskGroup,
    storage: TaskGroup,
}

/// Runs a node until a signal ends it.
///
/// # Errors
/// If it cannot be started, or a part of it has failed.
pub async fn run(settings: Settings) -> anyhow::Result<()> {
    let mut signals = Signals::listen()?;
    let listener = TcpListener::bind(settings.listen)
        .await
        .with_context(|| format!("cannot listen on {} (--listen, --port)", settings.listen))?;
    let groups = Groups {
        doors: TaskGroup::new("doors"),
        worker: TaskGroup::new("worker"),
        scheduler: TaskGroup::new("scheduler"),
        cleaning: TaskGroup::new("cleaning"),
        storage: TaskGroup::new("storage"),
    };
    let memory = MemorySplit::embedded(settings.memory_bytes);
    let disk = open_disk(&settings, memory, &groups.storage).await?;
    let instances = instances(&disk, memory);
    let dispatch: Arc<dyn Dispatch> = Scheduler::start(&groups.scheduler, Limits::default());
    if settings.worker_slots > 0 {
        start_worker(&settings, &disk, &instances, &dispatch, &groups).await?;
    }
    let bound = listener.local_addr().context("cannot tell the own address")?;
    doors(&settings, memory, instances, dispatch)?.serve(listener, &groups.doors);
    greet(&settings, bound);

    let failure = tokio::select! {
        signal = signals.next() => {
            tracing::info!(signal, "stopping; a second signal does not wait for running actions");
            None
        }
        story = any_failure(&groups) => Some(story),
    };
    tokio::select! {
        () = stop(&groups, settings.drain_timeout) => {}
        signal = signals.next() => tracing::warn!(signal, "stopping at once"),
    }
    disk.close().await.context("cannot close the store")?;
    match failure {
        Some(story) => Err(anyhow::anyhow!("a part of the node has failed: {story}")),
        None => Ok(()),
    }
}

/// Opens the embedded store.
async fn open_disk(
    settings: &Settings,
    memory: MemorySplit,
    tasks: &TaskGroup,
) -> anyhow::Result<Arc<Disk>> {
    let disk_settings = DiskSettings {
        memory_bytes: memory.blobs_bytes,
        ..DiskSettings::new(&settings.cache_dir, settings.cache_size_bytes)
    };
    let tasks = tasks.clone();
    // It waits for the disk, though not for the index.
    let disk = tokio::task::spawn_blocking(move || Disk::open(disk_settings, &tasks)).await?;
    let disk = disk.context("cannot open the store (--cache_dir)")?;
    remember_cache_size(&settings.cache_dir, settings.cache_size_bytes)
        .context("cannot write to the store's folder (--cache_dir)")?;
    Ok(disk)
}

/// What each instance stores: the disk, results only while they are complete.
fn instances(disk: &Arc<Disk>, memory: MemorySplit) -> Arc<Instances> {
    let disk = Arc::clone(disk);
    let cache = Arc::new(TreeCache::new(memory.trees_bytes));
    Arc::new(Instances::new(move |name| {
        let cas = disk.cas(name);
        let trees = Arc::new(Trees::new(name.clone(), Arc::clone(&cas), Arc::clone(&cache)));
        let results = disk.action_cache(name);
        let complete = Complete::new(results, Arc::clone(&cas), Arc::clone(&trees));
        Stores { cas, action_cache: Arc::new(complete), trees }
    }))
}

/// Starts the sandbox and a worker with its slots, and attaches them to the scheduler.
async fn start_worker(
    settings: &Settings,
    disk: &Arc<Disk>,
    instances: &Arc<Instances>,
    dispatch: &Arc<dyn Dispatch>,
    groups: &Groups,
) -> anyhow::Result<()> {
    let folder = disk.dir().join("actions");
    // The sandbox opens its folders once, at its start.
    std::fs::create_dir_all(&folder).context("cannot make the worker's folder (--cache_dir)")?;
    let mut config = bbb_sandbox::Config::new(folder.clone());
    config.mode = match settings.sandbox {
        SandboxChoice::Auto => Mode::Auto,
        SandboxChoice::Namespaces => Mode::Namespaces,
        SandboxChoice::None => Mode::None,
    };
    let sandbox =
        bbb_sandbox::start(config).await.context("cannot start the sandbox (--sandbox)")?;
    tracing::info!("{}", bbb_sandbox::Sandbox::probe(&sandbox));
    let mut worker = bbb_worker::Settings::new(&settings.node_name, folder);
    worker.download_concurrency = settings.download_concurrency;
    worker.network = settings.sandbox_network;
    worker.input_root = (settings.platform.iter())
        .find(|(name, _)| name == "InputRootAbsolutePath")
        .map(|(_, path)| path.into());
    worker.keep = match settings.keep_exec_root {
        KeepExecRoot::Never => Keep::None,
        KeepExecRoot::Failed => Keep::Failed,
        KeepExecRoot::All => Keep::All,
    };
    let files = Arc::clone(disk);
    let local = Local::new(worker, Arc::clone(instances), Arc::new(sandbox), &groups.cleaning)
        .context("cannot set up the worker")?
        .linking(move |instance| files.local_files(instance));
    let offer = WorkerOffer {
        name: settings.node_name.clone(),
        slots: u32::try_from(settings.worker_slots)?,
        platform: settings.platform.iter().cloned().collect(),
    };
    Slots::new(offer, Arc::clone(dispatch), Arc::new(local)).start(&groups.worker);
    Ok(())
}

/// All services of the port.
fn doors(
    settings: &Settings,
    memory: MemorySplit,
    instances: Arc<Instances>,
    dispatch: Arc<dyn Dispatch>,
) -> anyhow::Result<Doors> {
    let required_header = settings.required_header.as_ref();
    let required_header = required_header
        .map(|header| format!("{}={}", header.name, header.value).parse::<RequiredHeader>())
        .transpose()
        .context("--required_header")?;
    let exec_enabled = settings.worker_slots > 0;
    let execution =
        ExecutionSettings { action_timeout: settings.action_timeout, enabled: exec_enabled };
    let doors = Doors::new(
        bbb_grpc::Settings {
            client_results: settings.client_results,
            exec_enabled,
            required_header,
            request_bytes: memory.requests_bytes,
            upload_bytes: memory.uploads_bytes,
            window_bytes: memory.windows_bytes,
            max_blob_bytes: settings.cache_size_bytes / 2,
        },
        Arc::clone(&instances),
    );
    Ok(doors
        .with_service(Execution::new(instances, Arc::clone(&dispatch), execution).into_server())
        .with_service(Operations::new(dispatch).into_server()))
}

/// Says in a few lines what the node is and how to use it: the lines on the terminal, warnings in the log too.
fn greet(settings: &Settings, bound: std::net::SocketAddr) {
    let greeting = greeting(settings, bound);
    let mut out = io::stdout().lock();
    for line in &greeting.lines {
        // Who closes our output does not want to be greeted.
        let _closed = io::Write::write_all(&mut out, format!("{line}\n").as_bytes());
    }
    for warning in &greeting.warnings {
        tracing::warn!("{warning}");
    }
}

/// Resolves when a part has failed in a way that it cannot recover from.
async fn any_failure(groups: &Groups) -> String {
    tokio::select! {
        story = groups.doors.failed() => story,
        story = groups.worker.failed() => story,
        story = groups.scheduler.failed() => story,
        story = groups.cleaning.failed() => story,
        story = groups.storage.failed() => story,
    }
}

/// Takes no more calls and waits for those that are open, actions included; then stops everything else.
async fn stop(groups: &Groups, drain_timeout: Duration) {
    groups.doors.shut_down(drain_timeout).await;
    for group in [&groups.worker, &groups.scheduler, &groups.cleaning, &groups.storage] {
        group.shut_down(STOP_GRACE).await;
    }
}
